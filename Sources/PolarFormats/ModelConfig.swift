
/// A model's shape and constants, from a Hugging Face `config.json` or from GGUF metadata. Validated on creation.
public struct ModelConfig: Sendable, Equatable {
  /// The families that can run.
  public enum Architecture: String, Sendable, CaseIterable { case llama, qwen2, opt }
  /// The MLP's non-linearity.
  public enum Activation: String, Sendable { case silu, relu, gelu }
  /// How rotary frequencies are changed for longer contexts.
  public enum RopeScaling: Sendable, Equatable {
    case none
    /// All frequencies divided by `factor`.
    case linear(factor: Double)
    /// Llama 3: low frequencies divided, high kept, a smooth ramp between.
    case llama3(factor: Double, lowFrequencyFactor: Double, highFrequencyFactor: Double, originalContext: Int)
  }

  public var architecture: Architecture
  public var hidden: Int
  public var layers: Int
  public var heads: Int
  public var kvHeads: Int
  public var headDim: Int
  public var intermediate: Int
  public var vocabulary: Int
  /// The longest context the model was made for, in tokens.
  public var context: Int
  public var normEpsilon: Float
  public var activation: Activation
  public var ropeTheta: Double
  public var ropeScaling: RopeScaling
  public var tiedEmbeddings: Bool
  /// Bias on q, k and v.
  public var qkvBias: Bool
  /// Bias on the attention out-projection.
  public var outputBias: Bool
  /// Bias on the MLP projections.
  public var mlpBias: Bool
  /// OPT: norms before attention and MLP (all but 350m), rather than after.
  public var normBefore: Bool
  /// OPT: a norm after the last layer.
  public var finalNorm: Bool
  /// OPT: width of the token embedding; project_in/out are there when it differs from `hidden`.
  public var embeddingDim: Int
  public var bosToken: Int32?
  public var eosTokens: [Int32]
}
