internal import PolarCore

extension ModelConfig.Architecture {
  /// Qwen 3, the dense models (Yang et al. 2025): Llama's blocks with an RMSNorm on each head of q and k, and heads whose
  /// width does not follow from the hidden size.
  public static let qwen3: Self = Self(
    name: "qwen3", modelTypes: ["qwen3"], blocks: .llama,
    gguf: GGUF(name: "qwen3", interleavesRotaryRows: false)
  ) { fields throws(PolarError) in
    var config = try fields.llamaBlocks(.qwen3, kvHeads: 32, headDim: 128, context: 32768)
    let bias = try fields.flag("attention_bias") ?? false
    config.qkvBias = bias
    config.outputBias = bias
    config.headNorms = true
    config.windows = try fields.qwenWindows(layers: config.layers)
    return config
  }
}
