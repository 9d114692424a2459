public import PolarCore

/// A model's shape and constants, from a Hugging Face `config.json` or from GGUF metadata.
public struct ModelConfig: Sendable, Equatable {
  /// The MLP's non-linearity. `gelu` is the exact form, with the error function.
  public enum Activation: String, Sendable { case silu, relu, gelu }
  /// How rotary frequencies are changed for longer contexts.
  public enum RopeScaling: Sendable, Equatable {
    case none
    /// All frequencies divided by `factor`.
    case linear(factor: Double)
    /// Llama 3: low frequencies divided, high kept, a smooth ramp between.
    case llama3(factor: Double, lowFrequencyFactor: Double, highFrequencyFactor: Double, originalContext: Int)
    /// Frequency i divided by `factors[i]`, `[headDim / 2]`: how GGUF files hold the Llama 3 rule.
    case factors([Double])
  }

  /// The family.
  public var architecture: Architecture
  /// Width of the residual stream.
  public var hidden: Int
  /// Number of decoder layers.
  public var layers: Int
  /// Query heads per layer.
  public var heads: Int
  /// Key and value heads per layer; divides `heads`.
  public var kvHeads: Int
  /// Width of one head.
  public var headDim: Int
  /// Neurons of the MLP.
  public var intermediate: Int
  /// Rows of the token embedding; every token id lies below it.
  public var vocabulary: Int
  /// The longest context the model was made for, in tokens.
  public var context: Int
  /// Added to the variance in norms.
  public var normEpsilon: Float
  /// The MLP's non-linearity.
  public var activation: Activation
  /// ReLU: an activation that is not above it counts as zero (the FATReLU of ProSparse checkpoints); else 0.
  public var activationThreshold: Float
  /// Base of the rotary frequencies; 0 where positions are learned (OPT).
  public var ropeTheta: Double
  /// How rotary frequencies are changed.
  public var ropeScaling: RopeScaling
  /// The output projection is the token embedding.
  public var tiedEmbeddings: Bool
  /// Bias on q, k and v.
  public var qkvBias: Bool
  /// An RMSNorm on each head of q and k, before the rotary embedding.
  public var headNorms: Bool
  /// By layer: to how many tokens, itself included, a query attends; nil: to all. Empty: to all in every layer.
  public var windows: [Int?]
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
  /// Begins a text, where the model has such a token.
  public var bosToken: Int32?
  /// Tokens that end a text.
  public var eosTokens: [Int32]

  /// Takes the values as they are; ``validate()`` judges them.
  public init(
    architecture: Architecture, hidden: Int, layers: Int, heads: Int, kvHeads: Int, headDim: Int,
    intermediate: Int,
    vocabulary: Int, context: Int, normEpsilon: Float, activation: Activation,
    activationThreshold: Float = 0, ropeTheta: Double = 0,
    ropeScaling: RopeScaling = .none, tiedEmbeddings: Bool, qkvBias: Bool, outputBias: Bool, mlpBias: Bool,
    headNorms: Bool = false, windows: [Int?] = [], normBefore: Bool = true, finalNorm: Bool = true,
    embeddingDim: Int, bosToken: Int32? = nil,
    eosTokens: [Int32] = []
  ) {
    self.architecture = architecture
    self.hidden = hidden
    self.layers = layers
    self.heads = heads
    self.kvHeads = kvHeads
    self.headDim = headDim
    self.intermediate = intermediate
    self.vocabulary = vocabulary
    self.context = context
    self.normEpsilon = normEpsilon
    self.activation = activation
    self.activationThreshold = activationThreshold
    self.ropeTheta = ropeTheta
    self.ropeScaling = ropeScaling
    self.tiedEmbeddings = tiedEmbeddings
    self.qkvBias = qkvBias
    self.headNorms = headNorms
    self.windows = windows
    self.outputBias = outputBias
    self.mlpBias = mlpBias
    self.normBefore = normBefore
    self.finalNorm = finalNorm
    self.embeddingDim = embeddingDim
    self.bosToken = bosToken
    self.eosTokens = eosTokens
  }

  /// Query heads that share one KV head.
  public var headsPerGroup: Int { heads / max(kvHeads, 1) }

  /// To how many tokens, itself included, a query of layer `layer` attends; nil: to all.
  public func window(layer: Int) -> Int? { windows.isEmpty ? nil : windows[layer] }

  /// Bytes of bf16 keys and values that one token takes in all layers.
  public var kvBytesPerToken: Int { 2 * 2 * layers * kvHeads * headDim }
}

extension ModelConfig {
  /// Checks that the values are ones that a model can have. The bounds keep every product of two of them,
  /// times an element size, far below the largest integer.
  /// - Throws: ``PolarError/configuration(field:reason:)`` that names the first field that is wrong.
  public func validate() throws(PolarError) {
    try Self.check("hidden", hidden, 1...(1 << 17))
    try Self.check("layers", layers, 1...1024)
    try Self.check("heads", heads, 1...1024)
    try Self.check("kvHeads", kvHeads, 1...1024)
    try Self.check("headDim", headDim, 2...1024)
    try Self.check("intermediate", intermediate, 1...(1 << 20))
    try Self.check("vocabulary", vocabulary, 1...(1 << 21))
    try Self.check("context", context, 1...(1 << 24))
    try Self.check("embeddingDim", embeddingDim, 1...(1 << 17))
    try Self.require("headDim", headDim % 2 == 0, "\(headDim) is odd")
    try Self.require("heads", heads % kvHeads == 0, "\(heads) is not a multiple of \(kvHeads) KV heads")
    try Self.check("heads times headDim", heads * headDim, 1...(1 << 18))
    try Self.require(
      "normEpsilon", normEpsilon > 0 && normEpsilon < 1, "\(normEpsilon) is not between 0 and 1")
    try validateWindows()
    try validateFamily()
    try validateRope()
    for token in eosTokens + (bosToken.map { [$0] } ?? []) {
      try Self.require(
        "special tokens", token >= 0 && Int(token) < vocabulary,
        "id \(token) is not in the vocabulary of \(vocabulary)")
    }
  }

  private func validateWindows() throws(PolarError) {
    try Self.require(
      "sliding window", windows.isEmpty || windows.count == layers,
      "\(windows.count) windows for \(layers) layers")
    for window in windows {
      if let window { try Self.check("sliding window", window, 1...(1 << 24)) }
    }
  }

  private func validateFamily() throws(PolarError) {
    switch architecture.blocks {
    case .opt:
      try Self.require("kvHeads", kvHeads == heads, "\(kvHeads) KV heads where OPT has \(heads)")
      try Self.require("headNorms", !headNorms, "OPT has none")
      try Self.require("activation", activation != .silu, "OPT has no gated MLP")
      try Self.require("activation threshold", activationThreshold == 0, "OPT has none")
    case .llama:
      try Self.require("activation", activation != .gelu, "gelu in a gated MLP")
      try Self.require(
        "activation threshold",
        activationThreshold >= 0 && activationThreshold.isFinite
          && (activation == .relu || activationThreshold == 0),
        "\(activationThreshold) with \(activation.rawValue)")
      try Self.require(
        "embeddingDim", embeddingDim == hidden, "\(embeddingDim) differs from hidden \(hidden)")
      try Self.require(
        "normBefore", normBefore && finalNorm, "norms come before blocks and last in this family")
      try Self.require("ropeTheta", ropeTheta.isFinite && ropeTheta >= 1, "\(ropeTheta) is not at least 1")
    }
  }

  private func validateRope() throws(PolarError) {
    switch ropeScaling {
    case .none: break
    case .linear(let factor):
      try Self.require("ropeScaling", factor.isFinite && factor >= 1, "factor \(factor) is not at least 1")
    case .llama3(let factor, let low, let high, let originalContext):
      try Self.require("ropeScaling", factor.isFinite && factor >= 1, "factor \(factor) is not at least 1")
      try Self.require(
        "ropeScaling", low > 0 && high > low && high.isFinite,
        "frequency factors \(low) and \(high) are no range")
      try Self.check("ropeScaling original context", originalContext, 1...(1 << 24))
    case .factors(let factors):
      try Self.require(
        "ropeScaling", factors.count == headDim / 2, "\(factors.count) factors for \(headDim / 2) frequencies"
      )
      try Self.require(
        "ropeScaling", factors.allSatisfy { $0.isFinite && $0 > 0 }, "a factor is not a positive number")
    }
  }

  static func require(_ field: String, _ condition: Bool, _ reason: @autoclosure () -> String)
    throws(PolarError)
  {
    guard condition else { throw .configuration(field: field, reason: reason()) }
  }

  static func check(_ field: String, _ value: Int, _ range: ClosedRange<Int>) throws(PolarError) {
    try require(
      field, range.contains(value), "\(value) is not between \(range.lowerBound) and \(range.upperBound)")
  }

  /// The width of a head when the file does not give it.
  static func derivedHeadDim(hidden: Int, heads: Int) throws(PolarError) -> Int {
    try check("heads", heads, 1...1024)
    try require("heads", hidden % heads == 0, "\(heads) heads do not divide hidden \(hidden)")
    return hidden / heads
  }
}
