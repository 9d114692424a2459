import Foundation
import PolarCore
import Testing

@testable import PolarFormats

/// What blocks of a memory format stand for.
private func values(_ blocks: [UInt8], _ format: WeightFormat) throws -> [Float] {
  let size = try #require(format.blockByteCount)
  func half(_ offset: Int) -> Float {
    Float(Float16(bitPattern: UInt16(blocks[offset]) | UInt16(blocks[offset + 1]) << 8))
  }
  return stride(from: 0, to: blocks.count, by: size).flatMap { start in
    (0..<32).map { index in
      if format == .int8 { return half(start) * Float(Int8(bitPattern: blocks[start + 2 + index])) }
      let byte = blocks[start + size - 16 + index % 16]
      let code = Float(index < 16 ? byte & 15 : byte >> 4)
      return format == .int4 ? half(start) * (code - 8) : half(start) * code + half(start + 2)
    }
  }
}

@Suite struct BlockTranscoderTests {
  @Test(arguments: [
    ("Q8_0", WeightFormat.int8, Float(0)), ("Q5_0", .int8, 0), ("Q4_0", .int8, 0), ("Q4_0", .int4, 0),
    // Twice a rounding in f32; f16 roundings of the scale and the minimum.
    ("Q4_0", .int4Affine, 1e-6), ("Q4_1", .int4Affine, 0), ("Q4_K", .int4Affine, 1e-3),
  ])
  func standsForTheSameValues(_ name: String, _ format: WeightFormat, _ tolerance: Float) throws {
    let gguf = try GGUF(path: Fixtures.quants)
    let stored = try #require(gguf.tensors.first { $0.name == "stored." + name })
    let reference = try #require(gguf.tensors.first { $0.name == "expected." + name })
    #expect(BlockTranscoder.canTranscode(stored.encoding, to: format))
    let size = try #require(format.blockByteCount)
    var blocks = [UInt8](repeating: 0xff, count: 3 * 512 / 32 * size)
    try gguf.file.withBytes(stored.range) { bytes in
      blocks.withUnsafeMutableBytes {
        BlockTranscoder.transcode(stored.encoding, bytes, to: format, into: $0)
      }
    }
    let expected = try gguf.file.withBytes(reference.range) { Array($0.bindMemory(to: Float.self)) }
    let got = try values(blocks, format)
    #expect(got.count == expected.count)
    let same = BlockTranscoder.isSame(stored.encoding, as: format)
    #expect(same == ["Q8_0int8", "Q4_0int4", "Q4_1int4Affine"].contains("\(name)\(format)"))
    for start in stride(from: 0, to: got.count, by: 32) {
      let largest = expected[start..<start + 32].reduce(0) { max($0, $1.magnitude) }
      // Scales near the smallest half are multiples of 2^-24, of which a code takes up to 15.
      let allowed = tolerance * largest + (tolerance > 1e-4 ? 0x1p-20 : 0)
      for index in start..<start + 32 {
        #expect((got[index] - expected[index]).magnitude <= allowed, "\(index)")
      }
    }
  }

  @Test func findsScalesThatAreNoNumbers() {
    for (encoding, offset) in [
      (WeightEncoding.q80, 0), (.q40, 0), (.q41, 0), (.q41, 2), (.q4K, 0), (.q4K, 2), (.q6K, 208),
    ] {
      var bytes = [UInt8](repeating: 0x11, count: 3 * encoding.blockBytes)
      #expect(bytes.withUnsafeBytes { BlockTranscoder.firstNonFinite(encoding, $0) } == nil)
      bytes[2 * encoding.blockBytes + offset] = 0
      bytes[2 * encoding.blockBytes + offset + 1] = 0xfc  // -infinity
      #expect(bytes.withUnsafeBytes { BlockTranscoder.firstNonFinite(encoding, $0) } == 2)
    }
    // The codes of Q8_0 may look like anything.
    let codes: [UInt8] = [0, 0x3c] + Array(repeating: 0xff, count: 32)
    #expect(codes.withUnsafeBytes { BlockTranscoder.firstNonFinite(.q80, $0) } == nil)
  }
}

@Suite struct WeightPrecisionTests {
  @Test func choosesFormats() {
    func formats(_ precision: WeightPrecision, table: Bool = false) -> [WeightFormat] {
      [WeightEncoding.f16, .q80, .q6K, .q41, .q4K, .q40].map {
        precision.format(of: $0, isTable: table)
      }
    }
    #expect(formats(.stored) == [.f16, .int8, .int8, .int4Affine, .int4Affine, .int4])
    #expect(WeightPrecision.stored.format(of: .bf16, isTable: false) == .bf16)
    #expect(formats(.bf16).allSatisfy { $0 == .bf16 })
    #expect(formats(.f16).allSatisfy { $0 == .f16 })
    #expect(formats(.int8).allSatisfy { $0 == .int8 })
    #expect(formats(.q4) == [.int4, .int4, .int4, .int4Affine, .int4Affine, .int4])
    #expect(formats(.q4, table: true) == [.int8, .int8, .int8, .int4Affine, .int4Affine, .int4])
  }

  @Test func stackedTensorsShareAFormat() {
    #expect(WeightFormat.common([.int4, .int4]) == .int4)
    #expect(WeightFormat.common([.int4, .int4Affine]) == .int4Affine)
    #expect(WeightFormat.common([.int4Affine, .int8, .int4]) == .int8)
    #expect(WeightFormat.common([.int8, .bf16]) == .bf16)
    #expect(WeightFormat.common([.int8, .f16]) == .f16)
    #expect(WeightFormat.common([.f16, .bf16]) == .bf16)
  }

  /// A llama file whose q is Q8_0: row r has the scale r / 64, every code is 1. One scale can be broken.
  private func reader(
    precision: WeightPrecision, brokenRow: Int? = nil
  ) throws -> WeightReader {
    var builder = GGUFBuilder()
    builder.string("general.architecture", "llama")
    for (key, value): (String, UInt32) in [
      ("block_count", 1), ("context_length", 32), ("embedding_length", 32),
      ("feed_forward_length", 8), ("attention.head_count", 2),
    ] {
      builder.uint32("llama.\(key)", value)
    }
    builder.float("llama.attention.layer_norm_rms_epsilon", 1e-5)
    builder.tensor("token_embd.weight", [10, 32])
    builder.entry("blk.0.attn_q.weight", dimensions: [32, 32], type: 8, offset: UInt64(builder.data.count))
    for row in 0..<32 {
      let scale = row == brokenRow ? Float16.infinity : Float16(row) / 64
      builder.data += littleEndian(scale.bitPattern) + [UInt8](repeating: 1, count: 32)
    }
    let folder = try TemporaryFolder()
    try folder.write("m.gguf", builder.bytes)
    return try WeightReader(
      ModelFile.open(folder.url.appendingPathComponent("m.gguf")), precision: precision)
  }

  private let query = "model.layers.0.self_attn.q_proj.weight"

  @Test func blocksComeInTheOrderOfTheCheckpoint() throws {
    let reader = try reader(precision: .stored)
    let all = Set(WeightFormat.allCases)
    #expect(reader.format(of: [query], isTable: false, among: all) == .int8)
    #expect(
      reader.format(of: [query, "model.embed_tokens.weight"], isTable: false, among: all) == .bf16)
    #expect(reader.format(of: [query], isTable: false, among: [.bf16]) == .bf16)
    #expect(reader.format(of: [query], isTable: false, among: [.f16]) == .f16)
    let pieces = try reader.pieces(query, rows: 32, columns: 32)
    #expect(pieces.map(\.rows) == [0..<32])
    let piece = try #require(pieces.first)
    #expect(piece.hasBlocks(.int8) && !piece.hasBlocks(.int4) && !piece.hasBlocks(.bf16))
    var blocks: [UInt8] = []
    try piece.blocks(.int8) { blocks += $0 }
    let order = GGUFNames.RowOrder.interleaved(headDim: 16)
    let expected = (0..<32).flatMap { row in
      [Float](repeating: Float(order.storedRow(row)) / 64, count: 32)
    }
    #expect(try values(blocks, .int8) == expected)
    var floats: [Float] = []
    try piece.values { floats += $0 }
    #expect(floats == expected)
  }

  @Test func namesABrokenScale() throws {
    let piece = try #require(
      try reader(precision: .stored, brokenRow: 0).pieces(query, rows: 32, columns: 32).first)
    let error = polarError { try piece.blocks(.int8) { _ in } }
    #expect(error?.isWeight == true)
    #expect(error?.description.contains("row 0, column 0") == true)
  }
}
