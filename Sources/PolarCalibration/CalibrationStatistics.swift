public import PolarSparsity

/// What a calibration found that decoding does not need: the statistics that Polar Sparsity (arXiv 2505.14884) shows, for
/// reports. Written as JSON beside the profile.
public struct CalibrationStatistics: Sendable, Equatable, Codable {
  /// The mean true union of active neurons at one batch size (its figures 2a and 8).
  public struct Union: Sendable, Equatable, Codable {
    /// Sequences in the batch.
    public var batch: Int
    /// Fraction of each layer's neurons that any sequence activates.
    public var activity: [Double]
  }

  /// What one layer's neuron router needs at one batch size to find the wanted fraction of the true union, on held-out
  /// tokens.
  public struct Need: Sendable, Equatable, Codable {
    /// The layer.
    public var layer: Int
    /// Sequences in the batch.
    public var batch: Int
    /// Mean neurons of the true union.
    public var union: Double
    /// Neurons that the published aggregate needs; nil when it never finds enough.
    public var aggregate: Int?
    /// Mean neurons that a threshold on any sequence's score needs.
    public var threshold: Double
    /// Recall of the published aggregate with as many neurons as the threshold needs, rounded up to the kernel's tile.
    public var aggregateRecall: Double
    /// Recall of a threshold with that many.
    public var thresholdRecall: Double
    /// Precision of the threshold.
    public var precision: Double
  }

  /// One mode's measured quality through the serving path.
  public struct Mode: Sendable, Equatable, Codable {
    /// What was sparse.
    public var mode: SparsityMode
    /// `routed` or `oracle`; `dense` for the dense model.
    public var policy: String
    /// Sequences decoded together.
    public var batch: Int
    /// Perplexity of the scored tokens.
    public var perplexity: Double
    /// Mean divergence from dense, in nats per token.
    public var divergence: Double
    /// Fraction of heads computed in full, over the layers whose heads are chosen.
    public var heads: Double
    /// Fraction of neurons computed, over all layers.
    public var neurons: Double
  }

  /// One point of perplexity against the fraction of neurons computed.
  public struct NeuronPoint: Sendable, Equatable, Codable {
    /// `routed` or `oracle`.
    public var policy: String
    /// Fraction of neurons computed, over all layers.
    public var density: Double
    /// Perplexity of the scored tokens.
    public var perplexity: Double
    /// Mean divergence from dense, in nats per token.
    public var divergence: Double
  }

  /// Times of one layer's parts at one batch size (its figure 10).
  public struct Cost: Sendable, Equatable, Codable {
    /// `MLP` or `attention`.
    public var part: String
    /// Sequences in the batch.
    public var batch: Int
    /// Seconds of the dense part.
    public var dense: Double
    /// Seconds of its router and selection.
    public var router: Double
    /// Seconds of the sparse part, by fraction computed.
    public var sparse: [Point]

    /// A time at a density.
    public struct Point: Sendable, Equatable, Codable {
      /// Fraction computed.
      public var density: Double
      /// Seconds.
      public var seconds: Double

      /// A time at a density.
      public init(density: Double, seconds: Double) {
        self.density = density
        self.seconds = seconds
      }
    }

    /// Times of one part.
    public init(part: String, batch: Int, dense: Double, router: Double, sparse: [Point]) {
      self.part = part
      self.batch = batch
      self.dense = dense
      self.router = router
      self.sparse = sparse
    }
  }

  /// The fraction of the true union that budgets aim at.
  public var targetRecall = 0.99
  /// True unions, by ascending batch; empty when the model has no ReLU MLP.
  public var unions: [Union] = []
  /// What routers need, by layer and batch.
  public var needs: [Need] = []
  /// Fraction of tokens on which a selection unit is among the larger half of its layer by output norm: `[layers][units]`
  /// (its figure 9).
  public var largestHeads: [[Double]] = []
  /// Fraction of held-out tokens on which the router selects a unit at the default density: `[layers][units]`; 1 where
  /// heads are dense.
  public var selectedHeads: [[Double]] = []
  /// Mean `1 - cos` of the residual stream before and after each layer's attention (its figure 3b).
  public var attentionImportance: [Double] = []
  /// The four modes.
  public var modes: [Mode] = []
  /// Perplexity against the fraction of neurons.
  public var neuronCurve: [NeuronPoint] = []
  /// Router time against saved time, on the machine that calibrated.
  public var costs: [Cost] = []
  /// Seconds that recording, training and measuring took.
  public var seconds: [String: Double] = [:]

  /// Nothing yet.
  public init() {}
}
