internal import PolarCore

extension ModelConfig.Architecture {
  /// OPT 125m to 66b (Zhang et al. 2022), with the post-norm variant of the 350m checkpoint.
  public static let opt: Self = Self(
    name: "opt", modelTypes: ["opt"], blocks: .opt, gguf: nil
  ) { fields throws(PolarError) in
    let hidden = try fields.required("hidden_size")
    let heads = try fields.required("num_attention_heads")
    if try fields.flag("layer_norm_elementwise_affine") == false {
      throw .unsupported(path: fields.path, what: "layer norms without weights")
    }
    let bias = try fields.flag("enable_bias") ?? true
    let activation = try fields.activation("activation_function", default: .relu)
    let normBefore = try fields.flag("do_layer_norm_before") ?? true
    let normRemoved = try fields.flag("_remove_final_layer_norm") ?? false
    return ModelConfig(
      architecture: .opt, hidden: hidden, layers: try fields.required("num_hidden_layers"), heads: heads,
      kvHeads: heads, headDim: try ModelConfig.derivedHeadDim(hidden: hidden, heads: heads),
      intermediate: try fields.required("ffn_dim"), vocabulary: try fields.required("vocab_size"),
      context: try fields.required("max_position_embeddings"), normEpsilon: 1e-5,
      activation: activation.kind, activationThreshold: activation.threshold,
      tiedEmbeddings: try fields.flag("tie_word_embeddings") ?? true, qkvBias: bias, outputBias: bias,
      mlpBias: bias, normBefore: normBefore, finalNorm: normBefore && !normRemoved,
      embeddingDim: try fields.int("word_embed_proj_dim") ?? hidden,
      bosToken: try fields.tokens("bos_token_id").first, eosTokens: try fields.tokens("eos_token_id"))
  }
}
