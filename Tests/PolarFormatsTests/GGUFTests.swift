import Foundation
import PolarCore
import Testing

@testable import PolarFormats

@Suite struct GGUFTests {
  private func open(_ bytes: [UInt8]) throws -> GGUF {
    let folder = try TemporaryFolder()
    return try GGUF(path: folder.write("m.gguf", bytes))
  }

  private func open(_ build: (inout GGUFBuilder) -> Void) throws -> GGUF {
    var builder = GGUFBuilder()
    build(&builder)
    return try open(builder.bytes)
  }

  @Test func readsEveryTypeOfMetadata() throws {
    let gguf = try GGUF(path: Fixtures.quants)
    #expect(gguf.version == 3)
    #expect(try gguf.integer("value.uint8") == 200)
    #expect(try gguf.integer("value.int8") == -100)
    #expect(try gguf.integer("value.uint16") == 60000)
    #expect(try gguf.integer("value.int16") == -30000)
    #expect(try gguf.integer("value.uint32") == 4_000_000_000)
    #expect(try gguf.integer("value.int32") == -2_000_000_000)
    #expect(try gguf.integer("value.int64") == Int.min)
    #expect(gguf.metadata["value.uint64"] == .unsigned(.max))
    #expect(polarError { _ = try gguf.integer("value.uint64") }?.isMalformed == true)
    #expect(try gguf.number("value.float32") == 0.5)
    #expect(try gguf.number("value.float64") == -1e300)
    #expect(try gguf.number("value.int8") == -100)
    #expect(try gguf.flag("value.bool") == true)
    #expect(try gguf.string("value.string") == "Grüße, 世界")
    #expect(try gguf.strings("value.strings") == ["", "Ġthe", "🙂"])
    #expect(try gguf.integers("value.integers") == [1, -2, 3])
    #expect(try gguf.floats("value.floats") == [0.25, -8])
    guard case .array(let nested) = gguf.metadata["value.nested"] else {
      Issue.record("no nested array")
      return
    }
    #expect(nested.type == .array)
    #expect(nested.count == 2)
    #expect(try gguf.integer("none") == nil)
    #expect(try gguf.strings("none") == nil)
    #expect(polarError { _ = try gguf.strings("value.integers") }?.isMalformed == true)
    #expect(polarError { _ = try gguf.integers("value.floats") }?.isMalformed == true)
    #expect(polarError { _ = try gguf.string("value.bool") }?.isMalformed == true)
    #expect(polarError { _ = try gguf.flag("value.string") }?.isMalformed == true)
  }

  @Test func readsVersion2AndItsTensors() throws {
    let gguf = try open {
      $0.version = 2
      $0.tensor("a", [2, 3])
      $0.tensor("b", [5])
    }
    #expect(gguf.version == 2)
    #expect(gguf.tensors.map(\.name) == ["a", "b"])
    #expect(gguf.tensors.map(\.shape) == [[2, 3], [5]])
    #expect(try gguf.file.withBytes(gguf.tensors[1].range) { Array($0) } == floatBytes([0, 1, 2, 3, 4]))
  }

  @Test func honoursAlignment() throws {
    let gguf = try open {
      $0.alignment = 128
      $0.uint32("general.alignment", 128)
      $0.tensor("a", [1])
      $0.tensor("b", [1]) { _ in 9 }
    }
    #expect(gguf.tensors.allSatisfy { $0.range.lowerBound % 128 == 0 })
    #expect(try gguf.file.withBytes(gguf.tensors[1].range) { Array($0) } == floatBytes([9]))
    for wrong: UInt32 in [0, 24, 1 << 30] {
      #expect(polarError { _ = try open { $0.uint32("general.alignment", wrong) } }?.isMalformed == true)
    }
    #expect(polarError { _ = try open { $0.string("general.alignment", "32") } }?.isMalformed == true)
  }

  @Test func refusesOtherVersions() {
    for version: UInt32 in [0, 1, 4, 3 << 24] {
      #expect(polarError { _ = try open { $0.version = version } }?.isUnsupported == true)
    }
    #expect(
      polarError { _ = try open(Array("GGML".utf8) + [UInt8](repeating: 0, count: 40)) }?.isMalformed == true)
  }

  @Test func refusesEveryTruncation() throws {
    var builder = GGUFBuilder()
    builder.strings("tokens", ["a", "bc"])
    builder.string("name", "x")
    builder.pair(
      "nested", type: 9,
      littleEndian(UInt32(9)) + littleEndian(UInt64(1)) + littleEndian(UInt32(4))
        + littleEndian(UInt64(2)) + littleEndian(UInt32(1)) + littleEndian(UInt32(2)))
    builder.tensor("a", [2, 4])
    let whole = builder.bytes
    #expect(throws: Never.self) { try open(whole) }
    for length in 0..<whole.count {
      #expect(polarError { _ = try open(Array(whole[..<length])) }?.isMalformed == true, "length \(length)")
    }
  }

  @Test func refusesCountsBeyondTheFile() {
    for count: UInt64 in [2, 1 << 32, 1 << 62, .max] {
      #expect(polarError { _ = try open { $0.tensorCount = count } }?.isMalformed == true)
      #expect(polarError { _ = try open { $0.pairCount = count } }?.isMalformed == true)
      // A string, an array of numbers, of strings, of arrays.
      #expect(polarError { _ = try open { $0.pair("k", type: 8, littleEndian(count)) } }?.isMalformed == true)
      for type: UInt32 in [0, 4, 8, 9, 10] {
        let array = littleEndian(type) + littleEndian(count)
        #expect(polarError { _ = try open { $0.pair("k", type: 9, array) } }?.isMalformed == true)
      }
      let inner = littleEndian(UInt32(8)) + littleEndian(UInt64(1)) + littleEndian(count)
      #expect(polarError { _ = try open { $0.pair("k", type: 9, inner) } }?.isMalformed == true)
    }
  }

  @Test func refusesBadMetadata() {
    #expect(polarError { _ = try open { $0.pair("k", type: 13, [0]) } }?.isMalformed == true)
    #expect(
      polarError { _ = try open { $0.pair("k", type: 8, littleEndian(UInt64(1)) + [0xFF]) } }?.isMalformed
        == true)
    let twice = polarError {
      _ = try open {
        $0.uint32("k", 1)
        $0.uint32("k", 1)
      }
    }
    #expect(twice?.isMalformed == true)
    // Arrays in arrays in arrays, deeper than allowed.
    let deep = (0..<20).flatMap { _ in littleEndian(UInt32(9)) + littleEndian(UInt64(1)) }
    #expect(
      polarError { _ = try open { $0.pair("k", type: 9, deep + [UInt8](repeating: 0, count: 16)) } }?
        .isMalformed == true)
    let long = String(repeating: "k", count: 70000)
    #expect(polarError { _ = try open { $0.uint32(long, 1) } }?.isMalformed == true)
  }

  @Test func invalidTokenTextIsRefusedWhenRead() throws {
    let gguf = try open {
      $0.pair(
        "t", type: 9, littleEndian(UInt32(8)) + littleEndian(UInt64(1)) + littleEndian(UInt64(1)) + [0xFF])
    }
    #expect(polarError { _ = try gguf.strings("t") }?.isMalformed == true)
  }

  private func entry(
    dimensions: [UInt64] = [4], type: UInt32 = 0, offset: UInt64 = 0, data: Int = 64
  ) -> PolarError? {
    polarError {
      _ = try open {
        $0.entry("t", dimensions: dimensions, type: type, offset: offset)
        $0.data = [UInt8](repeating: 0, count: data)
      }
    }
  }

  @Test func refusesLyingTensors() {
    #expect(entry() == nil)
    #expect(entry(dimensions: [16]) == nil)
    #expect(entry(offset: 32) == nil)
    let wrong: [PolarError?] = [
      entry(dimensions: []), entry(dimensions: [1, 1, 1, 1, 1]), entry(dimensions: [0]),
      entry(dimensions: [17]),
      entry(dimensions: [.max]), entry(dimensions: [1 << 63]), entry(dimensions: [1 << 32, 1 << 32]),
      entry(dimensions: [1 << 62]), entry(dimensions: [1 << 31, 1 << 31, 4, 4]), entry(offset: 16),
      entry(offset: 64), entry(offset: .max - 31), entry(offset: 1 << 63), entry(dimensions: [4], data: 8),
      entry(dimensions: [33], type: 2), entry(dimensions: [16, 2], type: 2),
      entry(dimensions: [256], type: 12),
    ]
    for (index, error) in wrong.enumerated() { #expect(error?.isMalformed == true, "case \(index)") }
    for type: UInt32 in [10, 24, 39, 77, .max] { #expect(entry(type: type)?.isUnsupported == true) }
    #expect(entry(type: 10)?.description.contains("Q2_K") == true)
  }

  @Test func refusesDuplicateAndOverlappingTensors() {
    let duplicate = polarError {
      _ = try open {
        $0.tensor("a", [1])
        $0.tensor("a", [1])
      }
    }
    #expect(duplicate?.isMalformed == true)
    let overlap = polarError {
      _ = try open {
        $0.tensor("a", [16])
        $0.entry("b", dimensions: [1], type: 0, offset: 32)
      }
    }
    #expect(overlap?.isMalformed == true)
    #expect(overlap?.description.contains("overlap") == true)
  }

  @Test func survivesRandomDamage() throws {
    let whole = Array(try Data(contentsOf: Fixtures.tinyLlama))
    var random = SeededGenerator(seed: 11)
    for _ in 0..<300 {
      var damaged = whole
      for _ in 0..<Int.random(in: 1...6, using: &random) {
        // Most of the file is data: aim at the header.
        damaged[Int.random(in: 0..<2500, using: &random)] = UInt8.random(in: 0...255, using: &random)
      }
      let folder = try TemporaryFolder()
      try folder.write("m.gguf", damaged)
      guard let model = try? ModelFile.open(folder.url.appendingPathComponent("m.gguf")) else { continue }
      _ = ModelSummary(model).text()
      _ = try? model.gguf?.vocabulary()
      guard let reader = try? WeightReader(model) else { continue }
      for tensor in model.tensors where tensor.shape.count == 2 {
        try? reader.read(tensor.name, rows: tensor.shape[0], columns: tensor.shape[1]) { _, _ in }
      }
    }
  }

  @Test func readsTheVocabulary() throws {
    let vocabulary = try GGUF(path: Fixtures.tinyLlama.path).vocabulary()
    #expect(vocabulary.model == "gpt2")
    #expect(vocabulary.pre == "smollm")
    #expect(vocabulary.tokens == ["a", "b", "ab", "Ġ", "Ġa", "<|end|>"])
    #expect(vocabulary.merges == ["a b", "Ġ a"])
    #expect(vocabulary.tokenTypes == [1, 1, 1, 1, 1, 3])
    #expect(vocabulary.bos == 5)
    #expect(vocabulary.eos == 5)
    #expect(vocabulary.unknown == nil)
    #expect(vocabulary.addBOS == false)
  }

  @Test func refusesABadVocabulary() throws {
    #expect(polarError { _ = try open { $0.uint32("x", 1) }.vocabulary() }?.isMalformed == true)
    func vocabulary(_ change: (inout GGUFBuilder) -> Void) -> PolarError? {
      polarError {
        _ = try open {
          $0.string("tokenizer.ggml.model", "gpt2")
          $0.strings("tokenizer.ggml.tokens", ["a", "b"])
          change(&$0)
        }.vocabulary()
      }
    }
    #expect(vocabulary { _ in } == nil)
    #expect(vocabulary { $0.uint32("tokenizer.ggml.eos_token_id", 2) }?.isMalformed == true)
    let types = littleEndian(UInt32(5)) + littleEndian(UInt64(1)) + littleEndian(Int32(1))
    #expect(vocabulary { $0.pair("tokenizer.ggml.token_type", type: 9, types) }?.isMalformed == true)
  }
}

@Suite struct GGUFNamesTests {
  @Test func translates() {
    #expect(GGUFNames.huggingFace("token_embd.weight") == "model.embed_tokens.weight")
    #expect(GGUFNames.huggingFace("output_norm.weight") == "model.norm.weight")
    #expect(GGUFNames.huggingFace("output.weight") == "lm_head.weight")
    #expect(GGUFNames.huggingFace("blk.12.attn_q.bias") == "model.layers.12.self_attn.q_proj.bias")
    #expect(GGUFNames.huggingFace("blk.0.attn_output.weight") == "model.layers.0.self_attn.o_proj.weight")
    #expect(GGUFNames.huggingFace("blk.0.attn_norm.weight") == "model.layers.0.input_layernorm.weight")
    #expect(
      GGUFNames.huggingFace("blk.0.ffn_norm.weight") == "model.layers.0.post_attention_layernorm.weight")
    #expect(GGUFNames.huggingFace("blk.3.ffn_down.weight") == "model.layers.3.mlp.down_proj.weight")
    for name in [
      "blk.0.attn_q", "blk.x.attn_q.weight", "blk.-1.attn_q.weight", "blk.01.attn_q.weight",
      "blk.0.odd.weight", "",
    ] {
      #expect(GGUFNames.huggingFace(name) == nil)
    }
  }

  @Test func permutationIsOneToOne() {
    let order = GGUFNames.RowOrder.interleaved(headDim: 8)
    #expect((0..<8).map { order.storedRow($0) } == [0, 2, 4, 6, 1, 3, 5, 7])
    #expect(order.storedRow(12) == 9)
    #expect(Set((0..<64).map { order.storedRow($0) }) == Set(0..<64))
    #expect(GGUFNames.RowOrder.asStored.storedRow(5) == 5)
  }
}
