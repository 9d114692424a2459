internal import PolarCore

extension ModelConfig.Architecture {
  /// Llama 1 to 3.3 (Touvron et al. 2023), SmolLM2, and the ReLU-gated ReluLLaMA and ProSparse. llama.cpp converts
  /// Mistral to this architecture, too.
  public static let llama: Self = Self(
    name: "llama", modelTypes: ["llama", "sparsellama"], blocks: .llama,
    gguf: GGUF(name: "llama", interleavesRotaryRows: true)
  ) { fields throws(PolarError) in
    var config = try fields.llamaBlocks(.llama, context: 2048)
    let bias = try fields.flag("attention_bias") ?? false
    config.qkvBias = bias
    config.outputBias = bias
    config.mlpBias = try fields.flag("mlp_bias") ?? false
    return config
  }
}

extension ConfigFields {
  /// What all families of Llama's blocks have in common: shapes, norms, rotary positions and activation under the same
  /// keys, no biases, full attention.
  /// - Parameters:
  ///   - kvHeads: `num_key_value_heads` where it is absent; nil: as many as query heads.
  ///   - headDim: `head_dim` where it is absent; nil: hidden size over heads.
  ///   - context: `max_position_embeddings` where it is absent.
  func llamaBlocks(
    _ architecture: ModelConfig.Architecture, kvHeads: Int? = nil, headDim: Int? = nil, context: Int
  ) throws(PolarError) -> ModelConfig {
    let hidden = try required("hidden_size")
    let heads = try required("num_attention_heads")
    var width = try int("head_dim", absent: headDim)
    if width == nil { width = try ModelConfig.derivedHeadDim(hidden: hidden, heads: heads) }
    let activation = try activation("hidden_act", default: .silu)
    let (theta, scaling) = try rope()
    return ModelConfig(
      architecture: architecture, hidden: hidden, layers: try required("num_hidden_layers"), heads: heads,
      kvHeads: try int("num_key_value_heads", absent: kvHeads) ?? heads, headDim: width ?? 0,
      intermediate: try required("intermediate_size"), vocabulary: try required("vocab_size"),
      context: try int("max_position_embeddings") ?? context,
      normEpsilon: Float(try number("rms_norm_eps") ?? 1e-6), activation: activation.kind,
      activationThreshold: activation.threshold, ropeTheta: theta, ropeScaling: scaling,
      tiedEmbeddings: try flag("tie_word_embeddings") ?? false, qkvBias: false, outputBias: false,
      mlpBias: false, embeddingDim: hidden, bosToken: try tokens("bos_token_id").first,
      eosTokens: try tokens("eos_token_id"))
  }
}
