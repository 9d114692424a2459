import Foundation
import PolarCore
import Testing

@testable import PolarFormats

private let mistral = """
  {"model_type":"mistral","hidden_size":64,"num_hidden_layers":3,"num_attention_heads":16,"num_key_value_heads":8,
  "intermediate_size":128,"vocab_size":100,"max_position_embeddings":256,"rms_norm_eps":1e-5,"rope_theta":10000.0,
  "hidden_act":"silu","sliding_window":32,"bos_token_id":1,"eos_token_id":2}
  """
private let qwen3 = """
  {"model_type":"qwen3","hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,
  "head_dim":32,"intermediate_size":128,"vocab_size":100,"max_position_embeddings":256,"rms_norm_eps":1e-6,
  "rope_theta":1000000,"hidden_act":"silu","attention_bias":false,"use_sliding_window":false,"sliding_window":null,
  "max_window_layers":2,"tie_word_embeddings":true,"eos_token_id":3}
  """

/// What the files of each family say, and what they must not say.
@Suite struct FamilyConfigTests {
  private func config(_ base: String, _ changes: [String: String?] = [:]) throws -> ModelConfig {
    try ModelConfig(huggingFace: merged(base, changes), path: "config.json")
  }

  private func failure(_ base: String, _ changes: [String: String?]) -> PolarError? {
    polarError { _ = try config(base, changes) }
  }

  @Test func namesAreUnique() {
    let all = ModelConfig.Architecture.all
    #expect(Set(all.map(\.name)).count == all.count)
    #expect(Set(all.flatMap(\.modelTypes)).count == all.flatMap(\.modelTypes).count)
    #expect(Set(all.compactMap(\.gguf?.name)).count == all.compactMap(\.gguf?.name).count)
  }

  // MARK: Shapes of released models

  /// What a released model's `config.json` says, and what follows from it.
  struct Released: CustomTestStringConvertible, Sendable {
    let name: String
    let json: String
    let headDim: Int
    /// bf16
    let kvBytesPerToken: Int
    var check: @Sendable (ModelConfig) -> Bool = { _ in true }

    var testDescription: String { name }
  }

  private static func gated(
    _ type: String, _ hidden: Int, _ layers: Int, _ heads: Int, _ kvHeads: Int, ffn: Int,
    vocabulary: Int, context: Int, _ rest: String
  ) -> String {
    """
    {"model_type":"\(type)","hidden_size":\(hidden),"num_hidden_layers":\(layers),"num_attention_heads":\(heads),
    "num_key_value_heads":\(kvHeads),"intermediate_size":\(ffn),"vocab_size":\(vocabulary),
    "max_position_embeddings":\(context),"rms_norm_eps":1e-05,\(rest)}
    """
  }

  private static func opt(
    _ hidden: Int, _ layers: Int, _ heads: Int, embedding: Int? = nil, normBefore: Bool = true
  ) -> String {
    """
    {"model_type":"opt","hidden_size":\(hidden),"num_hidden_layers":\(layers),"num_attention_heads":\(heads),
    "ffn_dim":\(4 * hidden),"word_embed_proj_dim":\(embedding ?? hidden),"do_layer_norm_before":\(normBefore),
    "vocab_size":50272,"max_position_embeddings":2048,"activation_function":"relu","bos_token_id":2,"eos_token_id":2}
    """
  }

  private static let llama3Rope = """
    "rope_theta":500000.0,"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
    "original_max_position_embeddings":8192,"rope_type":"llama3"}
    """

  static let released: [Released] = [
    Released(
      name: "Llama-2-7b",
      json: gated(
        "llama", 4096, 32, 32, 32, ffn: 11008, vocabulary: 32000, context: 4096,
        #""hidden_act":"silu","rope_scaling":null"#),
      headDim: 128, kvBytesPerToken: 524_288),
    Released(
      name: "Llama-2-70b",
      json: gated(
        "llama", 8192, 80, 64, 8, ffn: 28672, vocabulary: 32000, context: 4096, #""hidden_act":"silu""#),
      headDim: 128, kvBytesPerToken: 327_680),
    Released(
      name: "Llama-3.1-8B",
      json: gated(
        "llama", 4096, 32, 32, 8, ffn: 14336, vocabulary: 128_256, context: 131_072,
        llama3Rope + #","eos_token_id":[128001,128008,128009]"#),
      headDim: 128, kvBytesPerToken: 131_072, check: { $0.eosTokens.count == 3 && $0.ropeTheta == 500_000 }),
    Released(
      name: "Llama-3.2-1B",
      json: gated(
        "llama", 2048, 16, 32, 8, ffn: 8192, vocabulary: 128_256, context: 131_072,
        llama3Rope + #","head_dim":64,"tie_word_embeddings":true"#),
      headDim: 64, kvBytesPerToken: 32768, check: { $0.tiedEmbeddings }),
    Released(
      name: "ReluLLaMA-7B",
      json: gated(
        "llama", 4096, 32, 32, 32, ffn: 11008, vocabulary: 32000, context: 4096, #""hidden_act":"relu""#),
      headDim: 128, kvBytesPerToken: 524_288, check: { $0.activation == .relu && $0.activationThreshold == 0 }
    ),
    Released(
      name: "ProSparse",
      json: gated(
        "llama", 4096, 32, 32, 32, ffn: 11008, vocabulary: 32000, context: 4096,
        #""hidden_act":"fatrelu","hidden_act_param":0.01"#),
      headDim: 128, kvBytesPerToken: 524_288,
      check: { $0.activation == .relu && $0.activationThreshold == 0.01 }),
    Released(
      name: "Mistral-7B-v0.1",
      json: gated(
        "mistral", 4096, 32, 32, 8, ffn: 14336, vocabulary: 32000, context: 32768,
        #""rope_theta":10000.0,"sliding_window":4096"#),
      headDim: 128, kvBytesPerToken: 131_072, check: { $0.windows == Array(repeating: 4096, count: 32) }),
    Released(
      name: "Mistral-7B-v0.3",
      json: gated(
        "mistral", 4096, 32, 32, 8, ffn: 14336, vocabulary: 32768, context: 32768,
        #""rope_theta":1000000.0,"sliding_window":null"#),
      headDim: 128, kvBytesPerToken: 131_072, check: { $0.windows.isEmpty }),
    Released(
      name: "Qwen2.5-0.5B",
      json: gated(
        "qwen2", 896, 24, 14, 2, ffn: 4864, vocabulary: 151_936, context: 32768,
        #""use_sliding_window":false,"sliding_window":32768,"max_window_layers":24,"tie_word_embeddings":true"#
      ),
      headDim: 64, kvBytesPerToken: 12288, check: { $0.qkvBias && !$0.outputBias && $0.windows.isEmpty }),
    Released(
      name: "Qwen3-0.6B",
      json: gated(
        "qwen3", 1024, 28, 16, 8, ffn: 3072, vocabulary: 151_936, context: 40960,
        #""head_dim":128,"use_sliding_window":false,"sliding_window":null,"max_window_layers":28,"tie_word_embeddings":true"#
      ),
      headDim: 128, kvBytesPerToken: 114_688, check: { $0.headNorms && !$0.qkvBias && $0.windows.isEmpty }),
    Released(name: "opt-125m", json: opt(768, 12, 12), headDim: 64, kvBytesPerToken: 36864),
    Released(
      name: "opt-350m", json: opt(1024, 24, 16, embedding: 512, normBefore: false), headDim: 64,
      kvBytesPerToken: 98304, check: { !$0.normBefore && !$0.finalNorm && $0.embeddingDim == 512 }),
    Released(name: "opt-1.3b", json: opt(2048, 24, 32), headDim: 64, kvBytesPerToken: 196_608),
    Released(name: "opt-2.7b", json: opt(2560, 32, 32), headDim: 80, kvBytesPerToken: 327_680),
    Released(name: "opt-6.7b", json: opt(4096, 32, 32), headDim: 128, kvBytesPerToken: 524_288),
    Released(name: "opt-13b", json: opt(5120, 40, 40), headDim: 128, kvBytesPerToken: 819_200),
    Released(name: "opt-30b", json: opt(7168, 48, 56), headDim: 128, kvBytesPerToken: 1_376_256),
    Released(name: "opt-66b", json: opt(9216, 64, 72), headDim: 128, kvBytesPerToken: 2_359_296),
  ]

  @Test(arguments: released)
  func releasedModels(model: Released) throws {
    let config = try config(model.json)
    #expect(config.headDim == model.headDim)
    #expect(config.kvBytesPerToken == model.kvBytesPerToken)
    #expect(model.check(config))
  }

  // MARK: Mistral

  @Test func mistralWindow() throws {
    let plain = try config(mistral)
    #expect(plain.architecture == .mistral && plain.windows == [32, 32, 32])
    #expect(plain.window(layer: 1) == 32)
    #expect(try config(mistral, ["sliding_window": "null"]).windows.isEmpty)
    #expect(try config(mistral, ["sliding_window": "null"]).window(layer: 1) == nil)
    // The defaults of transformers' class.
    let bare = try config(
      mistral, ["sliding_window": nil, "num_key_value_heads": nil, "max_position_embeddings": nil])
    #expect(bare.windows == [4096, 4096, 4096] && bare.kvHeads == 8 && bare.context == 131_072)
    #expect(!plain.qkvBias && !plain.outputBias && !plain.headNorms)
  }

  @Test(arguments: ["0", "-1", "16777217", "9223372036854775807", "1.5", #""32""#, "[32]", "true"])
  func refusesWindows(_ value: String) {
    #expect(failure(mistral, ["sliding_window": value])?.isConfiguration == true)
    #expect(
      failure(qwen3, ["use_sliding_window": "true", "max_window_layers": "0", "sliding_window": value])?
        .isConfiguration == true)
  }

  @Test func refusesMistralVariants() {
    #expect(
      failure(mistral, ["layer_types": #"["sliding_attention"]"#])?.description
        == "config.json: unsupported: layer_types in model_type 'mistral'")
    #expect(failure(mistral, ["num_hidden_layers": "1000000000"])?.isConfiguration == true)
    #expect(failure(mistral, ["num_hidden_layers": "-3"])?.isConfiguration == true)
  }

  // MARK: Qwen

  @Test(arguments: [qwen2, qwen3])
  func qwenWindows(base: String) throws {
    let layers = try config(base).layers
    let none = [Int?]()
    func windows(_ changes: [String: String?]) throws -> [Int?] {
      try config(base, ["use_sliding_window": "true", "sliding_window": "24"].merging(changes) { $1 }).windows
    }
    #expect(try windows(["max_window_layers": "1"]) == [nil] + Array(repeating: 24, count: layers - 1))
    #expect(try windows(["max_window_layers": "0"]) == Array(repeating: 24, count: layers))
    #expect(try windows(["max_window_layers": "\(layers)"]) == none)
    #expect(try windows(["max_window_layers": nil]) == none)  // 28 layers come first
    #expect(try windows(["max_window_layers": "0", "sliding_window": "null"]) == none)
    #expect(try windows(["max_window_layers": "0", "sliding_window": nil])[0] == 4096)
    #expect(try windows(["use_sliding_window": "false", "max_window_layers": "0"]) == none)

    let full = #""full_attention""#
    func types(_ last: String) -> String {
      "[" + (Array(repeating: full, count: layers - 1) + ["\"\(last)\""]).joined(separator: ",") + "]"
    }
    let byType = try windows(["layer_types": types("sliding_attention"), "max_window_layers": "0"])
    #expect(byType == Array(repeating: nil, count: layers - 1) + [24])
    #expect(try windows(["layer_types": types("full_attention")]) == none)

    let windowed = ["use_sliding_window": "true", "sliding_window": "24"]
    func failure(_ changes: [String: String?]) -> PolarError? {
      self.failure(base, (windowed as [String: String?]).merging(changes) { $1 })
    }
    #expect(failure(["layer_types": types("chunked_attention")])?.isUnsupported == true)
    #expect(failure(["layer_types": "[\(full)]"])?.isConfiguration == true)
    #expect(failure(["layer_types": "[]"])?.isConfiguration == true)
    #expect(failure(["layer_types": "[1,2,3]"])?.isConfiguration == true)
    #expect(failure(["layer_types": full])?.isConfiguration == true)
    #expect(failure(["max_window_layers": #""all""#])?.isConfiguration == true)
    #expect(
      failure(["layer_types": types("sliding_attention"), "use_sliding_window": "false"])?.isConfiguration
        == true)
  }

  @Test func readsQwen3() throws {
    let plain = try config(qwen3)
    #expect(plain.architecture == .qwen3 && plain.headNorms && plain.headDim == 32 && plain.tiedEmbeddings)
    #expect(!plain.qkvBias && !plain.outputBias)
    let bare = try config(
      qwen3, ["head_dim": nil, "num_attention_heads": "32", "num_key_value_heads": nil])
    #expect(bare.headDim == 128 && bare.kvHeads == 32)
    let biased = try config(qwen3, ["attention_bias": "true"])
    #expect(biased.qkvBias && biased.outputBias)
    #expect(failure(qwen3, ["model_type": #""qwen3_moe""#])?.isUnsupported == true)
    #expect(failure(qwen3, ["head_dim": "31"])?.isConfiguration == true)
  }
}
