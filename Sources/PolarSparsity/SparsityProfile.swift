public import PolarCore
public import PolarFormats

/// Everything that sparsity needs to know about one model, learnt from calibration text: one file per model.
public struct SparsityProfile: Sendable, Equatable {
  /// The model that a profile belongs to.
  public struct Model: Sendable, Equatable, Codable {
    /// A digest of the model's weights, made by the caller; profiles load only on equal fingerprints.
    public var fingerprint: String
    /// Decoder layers.
    public var layers: Int
    /// Query heads of a layer.
    public var heads: Int
    /// KV heads of a layer.
    public var kvHeads: Int
    /// Elements of a head's vectors.
    public var headDim: Int
    /// Width of the residual stream.
    public var hidden: Int

    /// The dimensions of `config` under a fingerprint.
    public init(fingerprint: String, config: ModelConfig) {
      self.fingerprint = fingerprint
      layers = config.layers
      heads = config.heads
      kvHeads = config.kvHeads
      headDim = config.headDim
      hidden = config.hidden
    }
  }

  /// Where a profile was learnt and what its thresholds mean.
  public struct Calibration: Sendable, Equatable, Codable {
    /// A digest of the calibration tokens.
    public var textHash: String
    /// Calibration tokens that were run.
    public var tokens: Int
    /// Tokens whose activations trained the routers.
    public var samples: Int
    /// Where the random numbers of training start.
    public var seed: UInt64

    /// A record of one calibration.
    public init(textHash: String, tokens: Int, samples: Int, seed: UInt64) {
      self.textHash = textHash
      self.tokens = tokens
      self.samples = samples
      self.seed = seed
    }
  }

  /// A threshold on scores that selects a mean density on calibration text.
  public struct Threshold: Sendable, Equatable, Codable {
    /// Mean density over the sparse layers.
    public var density: Double
    /// Threshold on the router's score.
    public var router: Float
    /// Threshold on the true relative deviation, for the oracle.
    public var oracle: Float

    /// The thresholds of one density.
    public init(density: Double, router: Float, oracle: Float) {
      self.density = density
      self.router = router
      self.oracle = oracle
    }
  }

  /// How well one layer's router predicts, on held-out calibration tokens.
  public struct LayerQuality: Sendable, Equatable, Codable {
    /// The layer's index.
    public var layer: Int
    /// Explained variance of the log deviation.
    public var r2: Double
    /// For each density of ``SparsityProfile/recallDensities``: the fraction of the truly largest deviations selected.
    public var deviationRecall: [Double]
    /// The same for the norms of the paper's mode.
    public var normRecall: [Double]

    /// The quality of one layer's routers.
    public init(layer: Int, r2: Double, deviationRecall: [Double], normRecall: [Double]) {
      self.layer = layer
      self.r2 = r2
      self.deviationRecall = deviationRecall
      self.normRecall = normRecall
    }
  }

  /// The model the profile belongs to.
  public var model: Model
  /// Where it was learnt.
  public var calibration: Calibration
  /// Pages at the start of a sequence that every head attends to in ``HeadMode/adaptive``.
  public var sinkPages: Int
  /// Pages at the end of a sequence that every head attends to in ``HeadMode/adaptive``.
  public var recentPages: Int
  /// Layers that are always dense, ascending.
  public var denseLayers: [Int]
  /// What one score decides about.
  public var units: SelectionUnits
  /// Routers of the log deviation, one per layer; nil where dense.
  public var deviationRouters: [RouterWeights?]
  /// Routers of the paper's mode, one per layer; nil where dense.
  public var normRouters: [RouterWeights?]
  /// Mean relative deviation: `[layers, units]`.
  public var meanDeviations: [Float]
  /// Mean output norm: `[layers, units]`.
  public var meanNorms: [Float]
  /// Mean output of each head: `[layers, heads, headDim]`.
  public var constants: [Float]
  /// Thresholds by ascending density.
  public var thresholds: [Threshold]
  /// Densities of the recall columns of ``layerQuality``.
  public var recallDensities: [Double]
  /// How well the routers predict, per sparse layer.
  public var layerQuality: [LayerQuality]
  /// Measured points.
  public var curve: [QualityRow]
  /// Perplexity of the dense model on the scored tokens of the curve.
  public var densePerplexity: Double
  /// What to serve when no mode is asked for; one of ``modes``.
  public var defaultMode: SparsityMode
  /// Routers and budgets of the MLP's neurons; nil where the MLP is always dense.
  public var neurons: NeuronSparsity?
  /// The density to serve at when none is asked for.
  public var defaultDensity: Double
  /// The lowest measured routed density with perplexity within 1 % of dense, if any.
  public var criticalDensity: Double?

  /// A profile of an uncalibrated model: all layers dense, nothing measured.
  public init(model: Model, calibration: Calibration) {
    self.model = model
    self.calibration = calibration
    sinkPages = 1
    recentPages = 4
    denseLayers = Array(0..<model.layers)
    units = .natural(heads: model.heads, kvHeads: model.kvHeads)
    deviationRouters = Array(repeating: nil, count: model.layers)
    normRouters = Array(repeating: nil, count: model.layers)
    meanDeviations = Array(repeating: 0, count: model.layers * units.count)
    meanNorms = meanDeviations
    constants = Array(repeating: 0, count: model.layers * model.heads * model.headDim)
    thresholds = []
    recallDensities = []
    layerQuality = []
    curve = []
    densePerplexity = 1
    defaultMode = .heads
    neurons = nil
    defaultDensity = 1
    criticalDensity = nil
  }

  /// The routers of a mode.
  public func routers(_ mode: HeadMode) -> [RouterWeights?] {
    mode == .adaptive ? deviationRouters : normRouters
  }

  /// The fallback of a mode.
  public func fallback(_ mode: HeadMode) -> FallbackRule {
    mode == .adaptive ? .local(sinkPages: sinkPages, recentPages: recentPages) : .zero
  }

  /// The rule that selects a mean density: top-k in the paper's mode; else a threshold, interpolated between the
  /// calibrated densities. Density 1 selects everything.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public func rule(_ mode: HeadMode, density: Double) throws(PolarError) -> SelectionRule {
    try Density.validated(density)
    if mode == .paper { return .topK(density: density) }
    return .adaptive(threshold: threshold(density, of: \.router))
  }

  /// The oracle's rule at a mean density: as ``rule(_:density:)``, on true scores.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public func oracleRule(_ mode: HeadMode, density: Double) throws(PolarError) -> SelectionRule {
    try Density.validated(density)
    if mode == .paper { return .topK(density: density) }
    return .adaptive(threshold: threshold(density, of: \.oracle))
  }

  private func threshold(_ density: Double, of value: KeyPath<Threshold, Float>) -> Float {
    guard density < 1, let first = thresholds.first, let last = thresholds.last else {
      return -.infinity
    }
    if density <= first.density { return first[keyPath: value] }
    if density >= last.density { return last[keyPath: value] }
    let upper = thresholds.firstIndex { $0.density >= density } ?? thresholds.count - 1
    let (a, b) = (thresholds[upper - 1], thresholds[upper])
    let t = Float((density - a.density) / (b.density - a.density))
    return a[keyPath: value] * (1 - t) + b[keyPath: value] * t
  }

  /// Refuses a model that the profile was not learnt from.
  /// - Parameters:
  ///   - config: the model's configuration.
  ///   - fingerprint: the digest of its weights.
  ///   - path: the profile's name in the error.
  /// - Throws: ``PolarError/profile(path:reason:)`` that names the first difference.
  public func check(
    config: ModelConfig, fingerprint: String, path: String
  ) throws(PolarError) {
    let other = Model(fingerprint: fingerprint, config: config)
    for (what, mine, theirs) in [
      ("layers", model.layers, other.layers), ("heads", model.heads, other.heads),
      ("KV heads", model.kvHeads, other.kvHeads), ("head dimension", model.headDim, other.headDim),
      ("hidden size", model.hidden, other.hidden),
    ] where mine != theirs {
      throw .profile(path: path, reason: "made for a model with \(what) \(mine), not \(theirs)")
    }
    if let neurons, neurons.neurons != config.intermediate || config.activation != .relu {
      throw .profile(
        path: path,
        reason: "neuron routers of an MLP of \(neurons.neurons) ReLU neurons, where the model has "
          + "\(config.intermediate) of \(config.activation.rawValue)")
    }
    guard model.fingerprint == fingerprint else {
      throw .profile(
        path: path,
        reason: "made for another model (fingerprint \(model.fingerprint), not \(fingerprint))")
    }
  }
}
