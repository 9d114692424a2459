public import PolarCore

#if canImport(FoundationEssentials)
  public import FoundationEssentials
#else
  public import Foundation
#endif

extension ModelConfig {
  /// Reads a Hugging Face `config.json` of model type `llama`, `qwen2` or `opt`, and validates it.
  ///
  /// Keys that are absent take the defaults of transformers' configuration classes.
  /// - Parameter path: for messages.
  /// - Throws: ``PolarError/unsupported(path:what:)`` for other model types, activations, rotary scalings and
  ///   options that change the computation; ``PolarError/configuration(field:reason:)`` for impossible
  ///   values.
  public init(huggingFace json: Data, path: String) throws(PolarError) {
    // A typed error cannot pass through Data's closure, so it goes around it.
    let parsed = json.withUnsafeBytes { bytes -> Result<JSON, PolarError> in
      Result { () throws(PolarError) in try JSON.parse(bytes, path: path) }
    }
    try self.init(huggingFace: try parsed.get(), path: path)
  }

  init(huggingFace json: JSON, path: String) throws(PolarError) {
    guard let members = json.members else { throw .malformed(path: path, reason: "not a JSON object") }
    let fields = ConfigFields(members: members, path: path)
    guard let type = try fields.text("model_type") else {
      throw .configuration(field: "model_type", reason: "missing in \(path)")
    }
    guard let architecture = Architecture(rawValue: type) else {
      let known = Architecture.allCases.map(\.rawValue).joined(separator: ", ")
      throw .unsupported(path: path, what: "model_type '\(type.prefix(60))' (known: \(known))")
    }
    if fields.has("quantization_config") {
      throw .unsupported(path: path, what: "quantization_config")
    }
    switch architecture {
    case .opt: try self.init(opt: fields)
    case .llama, .qwen2: try self.init(gated: fields, architecture)
    }
    try validate()
  }

  /// Llama and Qwen2.
  private init(gated fields: ConfigFields, _ architecture: Architecture) throws(PolarError) {
    let hidden = try fields.required("hidden_size")
    let heads = try fields.required("num_attention_heads")
    var headDim = try fields.int("head_dim")
    if headDim == nil { headDim = try Self.derivedHeadDim(hidden: hidden, heads: heads) }
    let qwen = architecture == .qwen2
    if try fields.flag("use_sliding_window") == true {
      throw .unsupported(path: fields.path, what: "sliding window attention")
    }
    let attentionBias = try fields.flag("attention_bias") ?? false
    let activation = try fields.activation("hidden_act", default: .silu)
    let (theta, scaling) = try fields.rope()
    self.init(
      architecture: architecture, hidden: hidden, layers: try fields.required("num_hidden_layers"),
      heads: heads,
      kvHeads: try fields.int("num_key_value_heads") ?? heads, headDim: headDim ?? 0,
      intermediate: try fields.required("intermediate_size"), vocabulary: try fields.required("vocab_size"),
      context: try fields.int("max_position_embeddings") ?? (qwen ? 32768 : 2048),
      normEpsilon: Float(try fields.number("rms_norm_eps") ?? 1e-6),
      activation: activation.kind, activationThreshold: activation.threshold, ropeTheta: theta,
      ropeScaling: scaling,
      tiedEmbeddings: try fields.flag("tie_word_embeddings") ?? false, qkvBias: qwen || attentionBias,
      outputBias: !qwen && attentionBias, mlpBias: try fields.flag("mlp_bias") ?? false, embeddingDim: hidden,
      bosToken: try fields.tokens("bos_token_id").first, eosTokens: try fields.tokens("eos_token_id"))
  }

  /// OPT, with the post-norm variant of the 350m checkpoint.
  private init(opt fields: ConfigFields) throws(PolarError) {
    let hidden = try fields.required("hidden_size")
    let heads = try fields.required("num_attention_heads")
    if try fields.flag("layer_norm_elementwise_affine") == false {
      throw .unsupported(path: fields.path, what: "layer norms without weights")
    }
    let bias = try fields.flag("enable_bias") ?? true
    let activation = try fields.activation("activation_function", default: .relu)
    let normBefore = try fields.flag("do_layer_norm_before") ?? true
    let normRemoved = try fields.flag("_remove_final_layer_norm") ?? false
    self.init(
      architecture: .opt, hidden: hidden, layers: try fields.required("num_hidden_layers"), heads: heads,
      kvHeads: heads, headDim: try Self.derivedHeadDim(hidden: hidden, heads: heads),
      intermediate: try fields.required("ffn_dim"), vocabulary: try fields.required("vocab_size"),
      context: try fields.required("max_position_embeddings"), normEpsilon: 1e-5,
      activation: activation.kind, activationThreshold: activation.threshold,
      tiedEmbeddings: try fields.flag("tie_word_embeddings") ?? true, qkvBias: bias, outputBias: bias,
      mlpBias: bias,
      normBefore: normBefore, finalNorm: normBefore && !normRemoved,
      embeddingDim: try fields.int("word_embed_proj_dim") ?? hidden,
      bosToken: try fields.tokens("bos_token_id").first, eosTokens: try fields.tokens("eos_token_id"))
  }

  /// Token ids of `eos_token_id` in a `generation_config.json`, which may name more than the model's config.
  static func generationEOS(_ json: JSON, path: String) throws(PolarError) -> [Int32] {
    try ConfigFields(members: json.members ?? [:], path: path).tokens("eos_token_id")
  }
}

/// Typed access to the members of a `config.json`; `null` counts as absent.
private struct ConfigFields {
  let members: [String: JSON]
  let path: String

  func has(_ key: String) -> Bool { value(key) != nil }

  private func value(_ key: String) -> JSON? {
    guard let value = members[key], value != .null else { return nil }
    return value
  }

  private func mismatch(_ key: String, _ wanted: String) -> PolarError {
    .configuration(field: key, reason: "not \(wanted) in \(path)")
  }

  func int(_ key: String) throws(PolarError) -> Int? {
    guard let value = value(key) else { return nil }
    guard let int = value.int else { throw mismatch(key, "a whole number") }
    return int
  }

  func required(_ key: String) throws(PolarError) -> Int {
    guard let int = try int(key) else { throw .configuration(field: key, reason: "missing in \(path)") }
    return int
  }

  func number(_ key: String) throws(PolarError) -> Double? {
    guard let value = value(key) else { return nil }
    guard let number = value.double else { throw mismatch(key, "a number") }
    return number
  }

  func flag(_ key: String) throws(PolarError) -> Bool? {
    guard let value = value(key) else { return nil }
    guard let flag = value.flag else { throw mismatch(key, "true or false") }
    return flag
  }

  func text(_ key: String) throws(PolarError) -> String? {
    guard let value = value(key) else { return nil }
    guard let text = value.text else { throw mismatch(key, "a string") }
    return text
  }

  /// One id, a list of ids, or nothing.
  func tokens(_ key: String) throws(PolarError) -> [Int32] {
    guard let value = value(key) else { return [] }
    var tokens: [Int32] = []
    for item in value.items ?? [value] {
      guard let id = item.int, let token = Int32(exactly: id) else { throw mismatch(key, "a token id") }
      if !tokens.contains(token) { tokens.append(token) }
    }
    return tokens
  }

  /// The activation named `key`; ProSparse's files have FATReLU with its threshold in `hidden_act_param`.
  func activation(
    _ key: String, default fallback: ModelConfig.Activation
  ) throws(PolarError) -> (kind: ModelConfig.Activation, threshold: Float) {
    switch try text(key) {
    case nil: return (fallback, 0)
    case "silu", "swish": return (.silu, 0)
    case "relu": return (.relu, 0)
    case "gelu": return (.gelu, 0)
    case "fatrelu":
      guard let threshold = try number("hidden_act_param") else {
        throw .configuration(field: "hidden_act_param", reason: "missing beside fatrelu in \(path)")
      }
      return (.relu, Float(threshold))
    case .some(let name): throw .unsupported(path: path, what: "activation '\(name.prefix(60))'")
    }
  }

  /// Rotary base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.
  func rope() throws(PolarError) -> (theta: Double, scaling: ModelConfig.RopeScaling) {
    let theta = try number("rope_theta")
    for key in ["rope_parameters", "rope_scaling"] {
      guard let value = value(key) else { continue }
      guard let members = value.members else { throw mismatch(key, "an object") }
      let rope = ConfigFields(members: members, path: path)
      if try rope.number("partial_rotary_factor") ?? 1 != 1 {
        throw .unsupported(path: path, what: "partial rotary embeddings")
      }
      return (try rope.number("rope_theta") ?? theta ?? 10000, try rope.scaling())
    }
    if try number("partial_rotary_factor") ?? 1 != 1 {
      throw .unsupported(path: path, what: "partial rotary embeddings")
    }
    return (theta ?? 10000, .none)
  }

  private func scaling() throws(PolarError) -> ModelConfig.RopeScaling {
    var type = try text("rope_type")
    if type == nil { type = try text("type") }
    func needed(_ key: String) throws(PolarError) -> Double {
      guard let value = try number(key) else {
        throw .configuration(field: "rope \(key)", reason: "missing in \(path)")
      }
      return value
    }
    switch type {
    case "default": return .none
    case "linear": return .linear(factor: try needed("factor"))
    case "llama3":
      guard let originalContext = Int(exactly: try needed("original_max_position_embeddings")) else {
        throw mismatch("original_max_position_embeddings", "a whole number")
      }
      return .llama3(
        factor: try needed("factor"), lowFrequencyFactor: try needed("low_freq_factor"),
        highFrequencyFactor: try needed("high_freq_factor"), originalContext: originalContext)
    case nil:
      // transformers 5 writes the base alone for models without scaling.
      guard Set(members.keys).isSubset(of: ["rope_theta", "partial_rotary_factor"]) else {
        throw .configuration(field: "rope_type", reason: "missing in \(path)")
      }
      return .none
    case .some(let name): throw .unsupported(path: path, what: "rope type '\(name.prefix(60))'")
    }
  }
}
