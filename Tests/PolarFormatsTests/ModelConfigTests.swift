import Foundation
import PolarCore
import Testing

@testable import PolarFormats

/// `base` with members replaced; a nil value removes one.
func merged(_ base: String, _ changes: [String: String?]) throws -> Data {
  var members: [String: Any] =
    try JSONSerialization.jsonObject(with: Data(base.utf8)) as? [String: Any] ?? [:]
  for (key, value) in changes {
    members[key] = try value.map {
      try JSONSerialization.jsonObject(with: Data($0.utf8), options: .fragmentsAllowed)
    }
  }
  return try JSONSerialization.data(withJSONObject: members)
}

let llama = """
  {"model_type":"llama","hidden_size":64,
  "num_hidden_layers":2,"num_attention_heads":8,"num_key_value_heads":2,
  "intermediate_size":128,"vocab_size":100,"max_position_embeddings":256,
  "rms_norm_eps":1e-5,"rope_theta":10000.0,
  "hidden_act":"silu","tie_word_embeddings":true,"bos_token_id":1,"eos_token_id":2}
  """
let qwen2 = """
  {"model_type":"qwen2","hidden_size":64,
  "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":4,
  "intermediate_size":128,"vocab_size":100,"max_position_embeddings":256,
  "rms_norm_eps":1e-6,"rope_theta":1000000.0,
  "hidden_act":"silu","sliding_window":128,"use_sliding_window":false,"eos_token_id":[3,4,3]}
  """
let opt = """
  {"model_type":"opt","hidden_size":256,"num_hidden_layers":6,"num_attention_heads":8,"ffn_dim":1024,
  "vocab_size":4096,"max_position_embeddings":1024,"activation_function":"relu","do_layer_norm_before":true,
  "_remove_final_layer_norm":false,"enable_bias":true,"layer_norm_elementwise_affine":true,
  "word_embed_proj_dim":256,"bos_token_id":2,"eos_token_id":2,"pad_token_id":1,"tie_word_embeddings":true}
  """

@Suite struct ModelConfigTests {
  private func config(_ base: String, _ changes: [String: String?] = [:]) throws -> ModelConfig {
    try ModelConfig(huggingFace: merged(base, changes), path: "config.json")
  }

  private func failure(_ base: String, _ changes: [String: String?]) -> PolarError? {
    polarError { _ = try config(base, changes) }
  }

  @Test func readsLlama() throws {
    let config = try config(llama)
    #expect(
      config
        == ModelConfig(
          architecture: .llama, hidden: 64, layers: 2, heads: 8, kvHeads: 2, headDim: 8, intermediate: 128,
          vocabulary: 100, context: 256, normEpsilon: 1e-5, activation: .silu, ropeTheta: 10000,
          ropeScaling: .none, tiedEmbeddings: true, qkvBias: false, outputBias: false, mlpBias: false,
          embeddingDim: 64, bosToken: 1, eosTokens: [2]))
    #expect(config.headsPerGroup == 4)
    #expect(config.kvBytesPerToken == 2 * 2 * 2 * 2 * 8)
  }

  @Test func llamaOptions() throws {
    let biased = try config(llama, ["attention_bias": "true", "mlp_bias": "true"])
    #expect(biased.qkvBias && biased.outputBias && biased.mlpBias)
    #expect(try config(llama, ["head_dim": "16"]).headDim == 16)
    #expect(try config(llama, ["head_dim": "null"]).headDim == 8)
    #expect(try config(llama, ["num_key_value_heads": nil]).kvHeads == 8)
    #expect(try config(llama, ["tie_word_embeddings": nil]).tiedEmbeddings == false)
    #expect(try config(llama, ["eos_token_id": "[2, 7, 99]"]).eosTokens == [2, 7, 99])
    #expect(try config(llama, ["eos_token_id": "null", "bos_token_id": nil]).bosToken == nil)
    #expect(try config(llama, ["vocab_size": "1e2"]).vocabulary == 100)
  }

  @Test func readsQwen2() throws {
    let config = try config(qwen2)
    #expect(config.architecture == .qwen2)
    #expect(config.qkvBias && !config.outputBias && !config.mlpBias)
    #expect(config.ropeTheta == 1_000_000)
    #expect(config.eosTokens == [3, 4])
    #expect(!config.tiedEmbeddings)
    #expect(config.windows.isEmpty)
  }

  @Test func readsOPT() throws {
    let config = try config(opt)
    #expect(config.architecture == .opt)
    #expect(config.headDim == 32 && config.kvHeads == 8 && config.embeddingDim == 256)
    #expect(config.activation == .relu && config.context == 1024)
    #expect(config.normBefore && config.finalNorm && config.tiedEmbeddings)
    #expect(config.qkvBias && config.outputBias && config.mlpBias)
    #expect(config.ropeTheta == 0)
    let plain = try self.config(opt, ["enable_bias": "false", "activation_function": #""gelu""#])
    #expect(!plain.qkvBias && !plain.outputBias && !plain.mlpBias && plain.activation == .gelu)
  }

  @Test func readsOPT350m() throws {
    let small = try config(opt, ["do_layer_norm_before": "false", "word_embed_proj_dim": "128"])
    #expect(!small.normBefore && !small.finalNorm)
    #expect(small.embeddingDim == 128 && small.hidden == 256)
    let removed = try config(opt, ["_remove_final_layer_norm": "true"])
    #expect(removed.normBefore && !removed.finalNorm)
    #expect(failure(opt, ["layer_norm_elementwise_affine": "false"])?.isUnsupported == true)
  }

  @Test func ropeOfAllThreeStyles() throws {
    let llama3 = ModelConfig.RopeScaling.llama3(
      factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContext: 8192)
    let fields =
      #""factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192"#
    #expect(try config(llama, ["rope_scaling": #"{"rope_type":"llama3",\#(fields)}"#]).ropeScaling == llama3)
    #expect(
      try config(llama, ["rope_scaling": #"{"type":"linear","factor":2.0}"#]).ropeScaling
        == .linear(factor: 2))
    #expect(try config(llama, ["rope_scaling": "null"]).ropeScaling == .none)
    let five = try config(
      llama,
      ["rope_theta": nil, "rope_parameters": #"{"rope_type":"llama3","rope_theta":500000.0,\#(fields)}"#])
    #expect(five.ropeScaling == llama3 && five.ropeTheta == 500_000)
    let plain = try config(
      llama, ["rope_theta": nil, "rope_parameters": #"{"rope_type":"default","rope_theta":5e5}"#])
    #expect(plain.ropeScaling == .none && plain.ropeTheta == 500_000)
    #expect(try config(llama, ["rope_theta": nil]).ropeTheta == 10000)
  }

  @Test func refusesOtherRope() {
    for type in ["yarn", "dynamic", "longrope", "su", "x"] {
      #expect(failure(llama, ["rope_scaling": #"{"type":"\#(type)","factor":2.0}"#])?.isUnsupported == true)
    }
    #expect(failure(llama, ["partial_rotary_factor": "0.5"])?.isUnsupported == true)
    for scaling in [
      #"{"rope_type":"linear"}"#, #"{"rope_type":"linear","factor":0}"#,
      #"{"rope_type":"linear","factor":"2"}"#,
      #"{"factor":2.0}"#, #"{"rope_type":"llama3","factor":8}"#, "[]", #""linear""#,
      #"{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4,"original_max_position_embeddings":8}"#,
      #"{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":0}"#,
    ] {
      #expect(failure(llama, ["rope_scaling": scaling])?.isConfiguration == true, "\(scaling)")
    }
  }

  @Test func refusesUnknownModels() {
    for type in ["mixtral", "gpt2", "LLAMA", ""] {
      #expect(failure(llama, ["model_type": "\"\(type)\""])?.isUnsupported == true)
    }
    #expect(failure(llama, ["model_type": nil])?.isConfiguration == true)
    #expect(failure(llama, ["hidden_act": #""gelu_new""#])?.isUnsupported == true)
    #expect(failure(llama, ["quantization_config": "{}"])?.isUnsupported == true)
    #expect(failure(llama, ["hidden_act": #""gelu""#])?.isConfiguration == true)
    #expect(failure(llama, ["hidden_act": #""relu2""#])?.isUnsupported == true)
  }

  @Test func readsReLU() throws {
    let relu = try config(llama, ["hidden_act": #""relu""#])
    #expect(relu.activation == .relu && relu.activationThreshold == 0)
    let fat = try config(llama, ["hidden_act": #""fatrelu""#, "hidden_act_param": "0.01"])
    #expect(fat.activation == .relu && fat.activationThreshold == 0.01)
    for parameter in [nil, "null", "-0.5", #""0.01""#, "1e300"] {
      let error = failure(llama, ["hidden_act": #""fatrelu""#, "hidden_act_param": parameter])
      #expect(error?.isConfiguration == true, "\(parameter ?? "absent")")
    }
    let fatOPT = failure(opt, ["activation_function": #""fatrelu""#, "hidden_act_param": "0.01"])
    #expect(fatOPT?.isConfiguration == true)
  }

  @Test(arguments: [
    ("num_attention_heads", "7"), ("num_attention_heads", "0"), ("num_attention_heads", "-8"),
    ("num_key_value_heads", "3"), ("num_key_value_heads", "0"), ("num_key_value_heads", "16"),
    ("num_hidden_layers", "0"), ("num_hidden_layers", "1000000000"), ("vocab_size", "1000000000"),
    ("vocab_size", "0"),
    ("hidden_size", "0"), ("hidden_size", "-64"), ("hidden_size", "9223372036854775807"),
    ("hidden_size", "64.5"),
    ("hidden_size", "\"64\""), ("hidden_size", "null"), ("intermediate_size", "0"),
    ("intermediate_size", "1e15"),
    ("max_position_embeddings", "0"), ("head_dim", "7"), ("head_dim", "0"),
    ("head_dim", "4611686018427387904"),
    ("rms_norm_eps", "0"), ("rms_norm_eps", "-1"), ("rope_theta", "0"), ("rope_theta", "-5"),
    ("eos_token_id", "100"), ("eos_token_id", "-1"), ("bos_token_id", "4294967296"),
    ("eos_token_id", "[\"a\"]"),
    ("tie_word_embeddings", "\"yes\""),
  ])
  func refusesImpossibleValues(_ key: String, _ value: String) {
    #expect(failure(llama, [key: value])?.isConfiguration == true)
  }

  @Test(arguments: [
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
  ])
  func refusesMissingFields(_ key: String) {
    guard case .configuration(let field, _) = failure(llama, [key: nil]) else {
      Issue.record("no configuration error for \(key)")
      return
    }
    #expect(field == key)
  }

  @Test func refusesBadJSON() {
    for text in ["", "[]", "{", #"{"model_type":"llama","model_type":"opt"}"#] {
      #expect(
        polarError { _ = try ModelConfig(huggingFace: Data(text.utf8), path: "c") }?.isMalformed == true)
    }
  }

  @Test func messagesNameTheField() {
    #expect(
      failure(llama, ["num_attention_heads": "7"])?.description
        == "model configuration: heads: 7 heads do not divide hidden 64")
    #expect(
      failure(llama, ["num_key_value_heads": "3"])?.description
        == "model configuration: heads: 8 is not a multiple of 3 KV heads")
  }

  @Test func readsGGUF() throws {
    let config = try ModelConfig(gguf: GGUF(path: Fixtures.tinyLlama.path))
    #expect(
      config
        == ModelConfig(
          architecture: .llama, hidden: 16, layers: 1, heads: 2, kvHeads: 1, headDim: 8, intermediate: 12,
          vocabulary: 6, context: 64, normEpsilon: 1e-5, activation: .silu, ropeTheta: 500_000,
          ropeScaling: .factors([1, 1, 4.5, 8]), tiedEmbeddings: true, qkvBias: true, outputBias: false,
          mlpBias: false, embeddingDim: 16, bosToken: 5, eosTokens: [5]))
  }

  private func gguf(_ architecture: String = "llama", _ change: (inout GGUFBuilder) -> Void = { _ in }) throws
    -> ModelConfig
  {
    var builder = GGUFBuilder()
    builder.string("general.architecture", architecture)
    for (key, value): (String, UInt32) in [
      ("block_count", 1), ("context_length", 32), ("embedding_length", 16), ("feed_forward_length", 8),
      ("attention.head_count", 2),
    ] {
      builder.uint32("\(architecture).\(key)", value)
    }
    builder.float("\(architecture).attention.layer_norm_rms_epsilon", 1e-5)
    builder.tensor("token_embd.weight", [10, 16])
    change(&builder)
    let folder = try TemporaryFolder()
    return try ModelConfig(gguf: GGUF(path: folder.write("m.gguf", builder.bytes)))
  }

  @Test func ggufOptions() throws {
    let plain = try gguf()
    #expect(plain.kvHeads == 2 && plain.headDim == 8 && plain.vocabulary == 10 && plain.ropeTheta == 10000)
    #expect(plain.tiedEmbeddings && !plain.qkvBias && plain.ropeScaling == .none)
    #expect(try !gguf { $0.tensor("output.weight", [10, 16]) }.tiedEmbeddings)
    #expect(try gguf { $0.uint32("llama.attention.key_length", 4) }.headDim == 4)
    #expect(try gguf("qwen2") { $0.tensor("blk.0.attn_q.bias", [16]) }.qkvBias)
    #expect(!plain.headNorms && plain.windows.isEmpty)
    #expect(try gguf("qwen3") { $0.tensor("blk.0.attn_q_norm.weight", [8]) }.headNorms)
    #expect(try gguf { $0.uint32("llama.attention.sliding_window", 12) }.windows == [12])
    #expect(try gguf { $0.uint32("llama.attention.sliding_window", 0) }.windows.isEmpty)
    let linear = try gguf {
      $0.string("llama.rope.scaling.type", "linear")
      $0.float("llama.rope.scaling.factor", 4)
    }
    #expect(linear.ropeScaling == .linear(factor: 4))
    let perLayer =
      littleEndian(UInt32(4)) + littleEndian(UInt64(2)) + littleEndian(UInt32(1)) + littleEndian(UInt32(1))
    #expect(try gguf { $0.pair("llama.attention.head_count_kv", type: 9, perLayer) }.kvHeads == 1)
  }

  @Test func refusesOtherGGUF() {
    #expect(polarError { _ = try gguf("gemma") }?.isUnsupported == true)
    #expect(polarError { _ = try gguf("opt") }?.isUnsupported == true)
    #expect(polarError { _ = try gguf { $0.uint32("llama.expert_count", 8) } }?.isUnsupported == true)
    let pattern = polarError {
      _ = try gguf {
        $0.uint32("llama.attention.sliding_window", 12)
        $0.uint32("llama.attention.sliding_window_pattern", 2)
      }
    }
    #expect(pattern?.isUnsupported == true)
    #expect(
      polarError { _ = try gguf { $0.uint32("llama.attention.sliding_window", 1 << 31) } }?.isConfiguration
        == true)
    #expect(polarError { _ = try gguf { $0.uint32("llama.rope.dimension_count", 4) } }?.isUnsupported == true)
    #expect(
      polarError { _ = try gguf { $0.uint32("llama.attention.value_length", 4) } }?.isUnsupported == true)
    #expect(
      polarError { _ = try gguf { $0.string("llama.rope.scaling.type", "yarn") } }?.isUnsupported == true)
    #expect(
      polarError { _ = try gguf { $0.uint32("llama.attention.head_count_kv", 0) } }?.isConfiguration == true)
    #expect(
      polarError { _ = try gguf { $0.uint32("tokenizer.ggml.eos_token_id", 10) } }?.isConfiguration == true)
    #expect(
      polarError { _ = try gguf { $0.tensor("rope_freqs.weight", [3]) { _ in 1 } } }?.isConfiguration == true)
    #expect(
      polarError { _ = try gguf { $0.tensor("rope_freqs.weight", [4]) { _ in 0 } } }?.isConfiguration == true)
    let tokens = (0..<11).map { "t\($0)" }
    #expect(
      polarError { _ = try gguf { $0.strings("tokenizer.ggml.tokens", tokens) } }?.isConfiguration == true)
    let differs =
      littleEndian(UInt32(4)) + littleEndian(UInt64(2)) + littleEndian(UInt32(1)) + littleEndian(UInt32(2))
    #expect(
      polarError { _ = try gguf { $0.pair("llama.attention.head_count_kv", type: 9, differs) } }?
        .isUnsupported == true)
    #expect(polarError { _ = try ModelConfig(gguf: GGUF(path: Fixtures.quants)) }?.isUnsupported == true)
  }
}
