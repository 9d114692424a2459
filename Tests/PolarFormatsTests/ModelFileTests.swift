import Foundation
import PolarCore
import Testing

@testable import PolarFormats

private let config = """
  {"model_type":"llama","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,"intermediate_size":4,
  "vocab_size":6,"max_position_embeddings":16,"rms_norm_eps":1e-5,"tie_word_embeddings":true}
  """

@Suite struct ModelFileTests {
  /// Opens a folder of these text and binary files.
  private func open(_ texts: [String: String], _ weights: [String: [UInt8]] = [:]) throws -> ModelFile {
    let folder = try TemporaryFolder()
    for (name, text) in texts { try folder.write(name, text) }
    for (name, bytes) in weights { try folder.write(name, bytes) }
    return try ModelFile.open(folder.url)
  }

  @Test func opensAFolder() throws {
    let folder = try TemporaryFolder()
    try folder.write("config.json", config)
    try folder.write("tokenizer.json", "{}")
    try folder.write("tokenizer_config.json", #"{"chat_template":"T"}"#)
    try folder.write("generation_config.json", #"{"eos_token_id":[3,5]}"#)
    try folder.write("model.safetensors", safetensors([("b", [2]), ("a", [2, 2])]))
    let model = try ModelFile.open(folder.url)
    #expect(
      model.tensors == [
        TensorInfo(name: "a", shape: [2, 2], dtype: "F32", byteCount: 16),
        TensorInfo(name: "b", shape: [2], dtype: "F32", byteCount: 8),
      ])
    #expect(model.format == "safetensors")
    #expect(model.config.hidden == 8)
    #expect(model.config.eosTokens == [3, 5])
    #expect(model.tokenizerJSON?.lastPathComponent == "tokenizer.json")
    #expect(model.chatTemplate == "T")
    #expect(model.gguf == nil)
    let direct = try ModelFile.open(folder.url.appendingPathComponent("model.safetensors"))
    #expect(direct.tensors == model.tensors)
    #expect(direct.directory.standardizedFileURL.path == folder.url.standardizedFileURL.path)
  }

  @Test func findsTheChatTemplate() throws {
    let weights = ["model.safetensors": safetensors([("a", [1])])]
    #expect(try open(["config.json": config], weights).chatTemplate == nil)
    let list = #"{"chat_template":[{"name":"tool","template":"X"},{"name":"default","template":"D"}]}"#
    #expect(try open(["config.json": config, "tokenizer_config.json": list], weights).chatTemplate == "D")
    let both = ["config.json": config, "tokenizer_config.json": list, "chat_template.jinja": "J"]
    #expect(try open(both, weights).chatTemplate == "J")
  }

  @Test func opensShards() throws {
    let index = #"{"metadata":{},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#
    let model = try open(
      ["config.json": config, "model.safetensors.index.json": index],
      ["m-1.safetensors": safetensors([("a", [1])]), "m-2.safetensors": safetensors([("b", [2])])])
    #expect(model.tensors.map(\.name) == ["a", "b"])
    #expect(model.format == "safetensors, 2 shards")
  }

  @Test func refusesABadIndex() throws {
    let one = safetensors([("a", [1])])
    func index(_ map: String, _ weights: [String: [UInt8]]) -> PolarError? {
      polarError {
        _ = try open(
          ["config.json": config, "model.safetensors.index.json": #"{"weight_map":\#(map)}"#], weights)
      }
    }
    for name in [
      "../m.safetensors", "/etc/m.safetensors", "x/m.safetensors", "..", "", "m.bin", "..\\\\m.safetensors",
      ".m.safetensors", "m\\u0000.safetensors",
    ] {
      #expect(index(#"{"a":"\#(name)"}"#, ["m.safetensors": one])?.isMalformed == true, "\(name)")
    }
    #expect(index(#"{"a":"m.safetensors"}"#, ["m.safetensors": one]) == nil)
    // A missing shard; a tensor that is not in its shard; one that no shard is named for; one in two shards.
    #expect(index(#"{"a":"n.safetensors"}"#, ["m.safetensors": one])?.isFile == true)
    #expect(index(#"{"a":"m.safetensors","b":"m.safetensors"}"#, ["m.safetensors": one])?.isMalformed == true)
    let two = safetensors([("a", [1]), ("b", [1])])
    #expect(index(#"{"a":"m.safetensors"}"#, ["m.safetensors": two])?.isMalformed == true)
    let split = index(
      #"{"a":"m.safetensors","b":"n.safetensors"}"#, ["m.safetensors": one, "n.safetensors": two])
    #expect(split?.isMalformed == true)
    #expect(split?.description.contains("also in") == true)
    for map in ["[]", "{}", "1", #"{"a":1}"#, #"{"a":"m.safetensors","a":"m.safetensors"}"#] {
      #expect(index(map, ["m.safetensors": one])?.isMalformed == true)
    }
  }

  @Test func refusesIncompleteFolders() throws {
    let folder = try TemporaryFolder()
    #expect(polarError { _ = try ModelFile.open(folder.url) }?.description.contains("no config.json") == true)
    #expect(
      polarError { _ = try ModelFile.open(folder.url.appendingPathComponent("none.gguf")) }?.isFile == true)
    try folder.write("model.safetensors", safetensors([("a", [1])]))
    let file = folder.url.appendingPathComponent("model.safetensors")
    #expect(polarError { _ = try ModelFile.open(file) }?.isFile == true)
    #expect(polarError { _ = try open(["config.json": config]) }?.isFile == true)
    try folder.write("model.bin", "x")
    #expect(
      polarError { _ = try ModelFile.open(folder.url.appendingPathComponent("model.bin")) }?.isUnsupported
        == true)
    try folder.write("config.json", "{")
    #expect(polarError { _ = try ModelFile.open(folder.url) }?.isMalformed == true)
    try folder.write("empty.gguf", [])
    #expect(
      polarError { _ = try ModelFile.open(folder.url.appendingPathComponent("empty.gguf")) }?.isMalformed
        == true)
  }

  @Test func opensGGUF() throws {
    let model = try ModelFile.open(Fixtures.tinyLlama)
    #expect(model.format == "GGUF v3")
    #expect(model.chatTemplate == "{{ messages }}")
    #expect(model.gguf != nil)
    #expect(model.tensors.count == 14)
    #expect(!model.tensors.contains { $0.name.contains("rope") || $0.name.hasPrefix("blk") })
    #expect(
      model.tensors.first { $0.name == "model.layers.0.mlp.down_proj.weight" }
        == TensorInfo(
          name: "model.layers.0.mlp.down_proj.weight", shape: [16, 12], dtype: "F32", byteCount: 768))
  }

  @Test func opensTheSharedOPT() throws {
    let folder = Fixtures.packageRoot.appendingPathComponent("../shared/models/opt-books")
    guard FileManager.default.fileExists(atPath: folder.path) else {
      print("opensTheSharedOPT: \(folder.path) is not here, nothing to open")
      return
    }
    let model = try ModelFile.open(folder)
    #expect(model.config.architecture == .opt && model.config.vocabulary == 4096)
    let reader = try WeightReader(model)
    var rows = 0
    try reader.read("model.decoder.embed_tokens.weight", rows: 4096, columns: 256) { first, values in
      #expect(first == rows)
      rows += values.count / 256
    }
    #expect(rows == 4096)
    #expect(try reader.scoped("model.decoder").readVector("final_layer_norm.weight", count: 256).count == 256)
  }
}

@Suite struct WeightReaderTests {
  private func model(
    _ tensors: [(name: String, shape: [Int])], config json: String = config,
    value: (Int) -> Float = { Float($0) }
  ) throws -> ModelFile {
    let folder = try TemporaryFolder()
    try folder.write("config.json", json)
    try folder.write("model.safetensors", safetensors(tensors, value: value))
    return try ModelFile.open(folder.url)
  }

  /// All values of a matrix.
  private func matrix(_ reader: WeightReader, _ name: String, _ rows: Int, _ columns: Int) throws -> [Float] {
    var result: [Float] = []
    try reader.read(name, rows: rows, columns: columns) { first, values in
      #expect(first * columns == result.count)
      result += values
    }
    return result
  }

  @Test func readsScopedAndAccounts() throws {
    let reader = try WeightReader(model([("x.a", [2, 3]), ("x.y.b", [4]), ("c", [1, 2])]))
    let inner = reader.scoped("x")
    #expect(inner.has("a") && !inner.has("x.a") && reader.has("x.a") && !inner.has("c"))
    #expect(try matrix(inner, "a", 2, 3) == [0, 1, 2, 3, 4, 5])
    #expect(try inner.scoped("y").readVector("b", count: 4) == [0, 1, 2, 3])
    guard case .weight(let name, _) = polarError({ try inner.finish() }) else {
      Issue.record("a tensor was left over")
      return
    }
    #expect(name == "c")
    reader.ignore("c")
    try inner.finish()
  }

  @Test func namesWhatIsLeft() throws {
    let reader = try WeightReader(model((0..<7).map { ("t\($0)", [1]) }))
    #expect(
      polarError { try reader.finish() }?.description
        == "weight 't0': not used by this model; nor are 't1', 't2', 't3' and 3 more")
  }

  @Test func refusesMissingAndMisshapen() throws {
    let reader = try WeightReader(model([("a", [2, 3]), ("v", [6])]))
    for (name, rows, columns) in [
      ("none", 2, 3), ("a", 3, 2), ("a", 1, 6), ("a", 2, 4), ("a", 0, 3), ("v", 6, 1), ("v", 1, 5),
      ("a", 2, 0),
      ("a", -2, -3),
    ] {
      #expect(
        polarError { try reader.read(name, rows: rows, columns: columns) { _, _ in } }?.isWeight == true,
        "\(name) \(rows) \(columns)")
    }
    #expect(polarError { _ = try reader.readVector("a", count: 6) }?.isWeight == true)
    // What failed does not count as used.
    #expect(polarError { try reader.finish() }?.isWeight == true)
  }

  @Test func blocksAreBoundedWholeRows() throws {
    let (rows, columns) = (1500, 1001)
    let reader = try WeightReader(model([("a", [rows, columns])]))
    var sizes: [Int] = []
    var next = 0
    try reader.read("a", rows: rows, columns: columns) { first, values in
      #expect(first == next)
      #expect(values.count % columns == 0 && values.count <= 1 << 18)
      #expect(values.first == Float(first * columns))
      next += values.count / columns
      sizes.append(values.count)
    }
    #expect(next == rows)
    #expect(sizes.count == 6)
  }

  @Test func passesOnWhatTheBlockThrows() throws {
    let reader = try WeightReader(model([("a", [1, 2])]))
    let error = polarError {
      try reader.read("a", rows: 1, columns: 2) { _, _ throws(PolarError) in
        throw .outOfMemory(what: "test", bytes: 1)
      }
    }
    #expect(error == .outOfMemory(what: "test", bytes: 1))
  }

  @Test(arguments: [Float.nan, .infinity, -.infinity, -.nan])
  func namesWhatIsNotFinite(_ bad: Float) throws {
    let reader = try WeightReader(model([("a", [2, 3])]) { $0 == 4 ? bad : 1 })
    let error = polarError { try reader.read("a", rows: 2, columns: 3) { _, _ in } }
    #expect(error?.isWeight == true)
    #expect(error?.description.contains("row 1, column 1") == true)
  }

  @Test func refusesTypesThatAreNoWeights() throws {
    let folder = try TemporaryFolder()
    try folder.write("config.json", config)
    let fields = [("i", "I32", 4), ("u", "U8", 1), ("d", "F64", 8)]
    var (header, end) = ([String](), 0)
    for (name, dtype, size) in fields {
      header.append(#""\#(name)":{"dtype":"\#(dtype)","shape":[1],"data_offsets":[\#(end),\#(end + size)]}"#)
      end += size
    }
    let text = "{" + header.joined(separator: ",") + "}"
    try folder.write("model.safetensors", safetensors(text, data: [UInt8](repeating: 0, count: end)))
    let reader = try WeightReader(ModelFile.open(folder.url))
    for (name, dtype, _) in fields {
      let error = polarError { _ = try reader.readVector(name, count: 1) }
      #expect(error?.isWeight == true)
      #expect(error?.description.contains(dtype) == true)
    }
  }

  @Test func tiedHeadsAndRotaryBuffersNeedNoReader() throws {
    let embedding = "model.embed_tokens.weight"
    let tied = try WeightReader(
      model([
        (embedding, [6, 8]), ("lm_head.weight", [6, 8]),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", [2]),
      ]))
    _ = try matrix(tied, embedding, 6, 8)
    try tied.finish()
    // The copy must be one.
    var position = 0
    let differs = try model([(embedding, [6, 8]), ("lm_head.weight", [6, 8])]) { _ in
      position += 1
      return Float(position)
    }
    #expect(polarError { _ = try WeightReader(differs) }?.isWeight == true)
    let untied = try WeightReader(
      model(
        [(embedding, [6, 8]), ("lm_head.weight", [6, 8])],
        config: config.replacingOccurrences(of: "true", with: "false")))
    _ = try matrix(untied, embedding, 6, 8)
    #expect(polarError { try untied.finish() }?.isWeight == true)
  }

  @Test func bothOPTPrefixes() throws {
    let json = """
      {"model_type":"opt","hidden_size":8,
      "num_hidden_layers":1,"num_attention_heads":2,"ffn_dim":4,"vocab_size":6,
      "max_position_embeddings":16}
      """
    for prefix in ["decoder.", "model.decoder."] {
      let reader = try WeightReader(model([(prefix + "embed_tokens.weight", [6, 8])], config: json))
      #expect(try matrix(reader.scoped("model.decoder"), "embed_tokens.weight", 6, 8).count == 48)
      try reader.finish()
    }
    let both: [(name: String, shape: [Int])] = [("decoder.x", [1]), ("model.decoder.x", [1])]
    #expect(polarError { _ = try model(both, config: json) }?.isMalformed == true)
  }

  @Test func undoesTheRotaryPermutation() throws {
    let reader = try WeightReader(ModelFile.open(Fixtures.tinyLlama))
    func numbered(_ rows: Int, _ columns: Int) -> [Float] {
      (0..<rows).flatMap { row in (0..<columns).map { Float(100 * row + $0) } }
    }
    let layer = reader.scoped("model.layers.0")
    let attention = layer.scoped("self_attn")
    #expect(try matrix(attention, "q_proj.weight", 16, 16) == numbered(16, 16))
    #expect(try matrix(attention, "k_proj.weight", 8, 16) == numbered(8, 16))
    #expect(try matrix(attention, "v_proj.weight", 8, 16) == numbered(8, 16))
    #expect(try matrix(attention, "o_proj.weight", 16, 16) == numbered(16, 16))
    #expect(try attention.readVector("q_proj.bias", count: 16) == numbered(1, 16))
    #expect(try attention.readVector("k_proj.bias", count: 8) == numbered(1, 8))
    #expect(try attention.readVector("v_proj.bias", count: 8) == numbered(1, 8))
    #expect(try matrix(layer.scoped("mlp"), "gate_proj.weight", 12, 16) == numbered(12, 16))
    #expect(try matrix(layer.scoped("mlp"), "up_proj.weight", 12, 16) == numbered(12, 16))
    #expect(try matrix(layer.scoped("mlp"), "down_proj.weight", 16, 12) == numbered(16, 12))
    #expect(try matrix(reader, "model.embed_tokens.weight", 6, 16) == numbered(6, 16))
    for name in ["model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"] {
      #expect(try reader.readVector(name + ".weight", count: 16) == numbered(1, 16))
    }
    try reader.finish()
  }

  @Test func qwen2IsNotPermuted() throws {
    var builder = GGUFBuilder()
    builder.string("general.architecture", "qwen2")
    for (key, value): (String, UInt32) in [
      ("block_count", 1), ("context_length", 32), ("embedding_length", 16), ("feed_forward_length", 8),
      ("attention.head_count", 2),
    ] {
      builder.uint32("qwen2.\(key)", value)
    }
    builder.float("qwen2.attention.layer_norm_rms_epsilon", 1e-5)
    builder.tensor("token_embd.weight", [10, 16])
    builder.tensor("blk.0.attn_q.weight", [16, 16])
    builder.tensor("unknown.tensor", [1])
    let folder = try TemporaryFolder()
    try folder.write("m.gguf", builder.bytes)
    let reader = try WeightReader(ModelFile.open(folder.url.appendingPathComponent("m.gguf")))
    #expect(
      try matrix(reader, "model.layers.0.self_attn.q_proj.weight", 16, 16) == (0..<256).map { Float($0) })
    reader.ignore("model.embed_tokens.weight")
    guard case .weight(let name, _) = polarError({ try reader.finish() }) else {
      Issue.record("an unknown tensor was let pass")
      return
    }
    #expect(name == "unknown.tensor")
  }
}

@Suite struct ModelSummaryTests {
  @Test func describesTheModel() throws {
    let summary = ModelSummary(try ModelFile.open(Fixtures.tinyLlama))
    #expect(summary.kvBytesPerToken == 2 * 2 * 1 * 1 * 8)
    #expect(summary.headUnit == .heads)
    #expect(!summary.mlpSparsity)
    #expect(summary.tensors == 14)
    #expect(summary.bytes == 4 * summary.parameters)
    #expect(summary.dtypes == [.init(dtype: "F32", tensors: 14, bytes: summary.bytes)])
    let text = summary.text()
    for part in [
      "llama, 1 layers", "GGUF v3", "2 heads of 8, 1 KV heads", "32 bytes per token", "heads routed singly",
    ] {
      #expect(text.contains(part), "\(part)")
    }
  }

  @Test(arguments: [(8, 8, false), (8, 4, true), (8, 2, false), (9, 3, false), (32, 8, true)])
  func choosesTheHeadUnit(_ heads: Int, _ kvHeads: Int, _ groups: Bool) throws {
    let folder = try TemporaryFolder()
    try folder.write(
      "config.json",
      """
      {"model_type":"llama","hidden_size":\(heads * 4),"num_hidden_layers":1,"num_attention_heads":\(heads),
      "num_key_value_heads":\(kvHeads),"intermediate_size":4,"vocab_size":6}
      """)
    try folder.write("model.safetensors", safetensors([("a", [1])]))
    let summary = ModelSummary(try ModelFile.open(folder.url))
    #expect(summary.headUnit == (groups ? .groups : .heads))
  }

  @Test func reluHasNeuronSparsity() throws {
    let folder = try TemporaryFolder()
    try folder.write(
      "config.json",
      """
      {"model_type":"opt","hidden_size":8,
      "num_hidden_layers":1,"num_attention_heads":2,"ffn_dim":4,"vocab_size":6,
      "max_position_embeddings":16}
      """)
    try folder.write("model.safetensors", safetensors([("a", [1])]))
    let summary = ModelSummary(try ModelFile.open(folder.url))
    #expect(summary.mlpSparsity)
    #expect(summary.text().contains("neurons (relu)"))
  }
}
