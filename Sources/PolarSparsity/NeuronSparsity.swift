import Foundation

/// What a profile knows of a model's MLP neurons: a router per layer, and how many neurons a batch needs.
public struct NeuronSparsity: Sendable, Equatable {
  /// How the scores of a batch become one list of neurons.
  public enum Rule: String, Sendable, Equatable, Codable, CaseIterable {
    /// Polar Sparsity's: the neurons of largest sum of positive scores over the batch, as many as the layer's budget says.
    case aggregate
    /// Every neuron that any row scores above the layer's threshold.
    case union
  }

  /// A number of neurons at a batch size.
  public struct Budget: Sendable, Equatable, Codable {
    /// Rows of the decode step.
    public var batch: Int
    /// Neurons of one layer.
    public var neurons: Int

    /// `neurons` at `batch` rows.
    public init(batch: Int, neurons: Int) {
      self.batch = batch
      self.neurons = neurons
    }
  }

  /// One layer's router and what was measured with it on held-out calibration tokens.
  public struct Layer: Sendable, Equatable {
    /// Scores of all neurons from the normalised block input.
    public var router: NeuronRouterWeights
    /// ``Rule/union``: a neuron with a score above it is predicted to be active. One per entry of ``budgets``, since the
    /// more rows may call for a neuron, the higher a score must be for the same recall of their union.
    public var thresholds: [Float]
    /// By ascending batch. ``Rule/aggregate``: the neurons to take. ``Rule/union``: the mean number that the threshold
    /// takes, which only decides whether the layer runs dense.
    public var budgets: [Budget]
    /// Fraction of a token's active neurons that the router predicts.
    public var recall: Double
    /// Fraction of the predicted neurons that are active.
    public var precision: Double

    /// A layer.
    public init(
      router: NeuronRouterWeights, thresholds: [Float], budgets: [Budget], recall: Double,
      precision: Double
    ) {
      self.router = router
      self.thresholds = thresholds
      self.budgets = budgets
      self.recall = recall
      self.precision = precision
    }
  }

  /// Recall of the batch's true union by the two rules at equal size, averaged over layers.
  public struct Comparison: Sendable, Equatable, Codable {
    /// Rows of the batch.
    public var batch: Int
    /// Mean fraction of the neurons that both take.
    public var density: Double
    /// Recall of ``Rule/aggregate``.
    public var aggregate: Double
    /// Recall of ``Rule/union``.
    public var union: Double

    /// Recalls at one batch size.
    public init(batch: Int, density: Double, aggregate: Double, union: Double) {
      self.batch = batch
      self.density = density
      self.aggregate = aggregate
      self.union = union
    }
  }

  /// Budgets are multiples of this, the neurons that a kernel computes together.
  public static let tile = 32

  /// Neurons of a layer (the MLP's intermediate size).
  public var neurons: Int
  /// The rule that serves.
  public var rule: Rule
  /// By layer; nil where the MLP is always dense.
  public var layers: [Layer?]
  /// By ascending batch: the most neurons of a layer with which a selective MLP, its router included, is not slower than
  /// a dense one, measured where the profile was made; none is no limit.
  public var breakEven: [Budget]
  /// How the two rules compare, by ascending batch.
  public var comparison: [Comparison]

  /// Sparsity of a model of `layers` layers of `neurons` neurons, all dense.
  public init(neurons: Int, layers: Int, rule: Rule = .union) {
    self.neurons = neurons
    self.rule = rule
    self.layers = Array(repeating: nil, count: layers)
    breakEven = []
    comparison = []
  }

  /// The neurons that a layer computes for a batch of `rows`, or nil when it runs dense: it has no router or no budget for so
  /// many rows, or its budget is above the break-even. Interpolated between calibrated batch sizes.
  public func budget(layer: Int, rows: Int) -> Int? {
    guard layers.indices.contains(layer), let layer = layers[layer],
      let (lower, upper, t) = Self.place(layer.budgets, rows: rows)
    else { return nil }
    let (a, b) = (layer.budgets[lower].neurons, layer.budgets[upper].neurons)
    let wanted = Double(a) + t * Double(b - a)
    let tiles = (wanted / Double(Self.tile)).rounded(.up)
    let budget = min(neurons, max(1, Int(tiles)) * Self.tile)
    guard budget < neurons else { return nil }
    // Between the measured batch sizes and beyond them, the nearest smaller one counts.
    var limit = breakEven.first?.neurons ?? neurons
    for measured in breakEven where measured.batch <= rows { limit = measured.neurons }
    return budget <= limit ? budget : nil
  }

  /// The threshold of a layer for a batch of `rows`, interpolated as the budgets are.
  public func threshold(layer: Int, rows: Int) -> Float {
    guard layers.indices.contains(layer), let layer = layers[layer],
      let (lower, upper, t) = Self.place(layer.budgets, rows: rows)
    else { return -.infinity }
    return layer.thresholds[lower] + Float(t) * (layer.thresholds[upper] - layer.thresholds[lower])
  }

  /// Between which entries `rows` lies, and how far from the first to the second: linear in the logarithm of the batch
  /// size, which does not fall below a union that grows in proportion to the batch, and is close to one that saturates.
  /// The first entry below the first batch size; nil beyond the last.
  private static func place(_ budgets: [Budget], rows: Int) -> (lower: Int, upper: Int, t: Double)? {
    // Loops, since generic searches of values such as these may allocate.
    var upper = 0
    while upper < budgets.count, budgets[upper].batch < rows { upper += 1 }
    guard upper < budgets.count else { return nil }
    guard upper > 0, budgets[upper].batch > rows else { return (upper, upper, 0) }
    let lower = upper - 1
    let t =
      log2(Double(rows) / Double(budgets[lower].batch))
      / log2(Double(budgets[upper].batch) / Double(budgets[lower].batch))
    return (lower, upper, t)
  }
}

/// One layer's neuron router on the host: `scores = up (down x)`, two linear maps without bias of rank `rank` (Polar
/// Sparsity, appendix C; its published code has no non-linearity between them either).
public struct NeuronRouterWeights: Sendable, Equatable {
  /// Width of the input, the model's hidden size.
  public let inputs: Int
  /// Width between the two maps; even.
  public let rank: Int
  /// Number of scores.
  public let neurons: Int
  /// Row-major `[rank, inputs]`.
  public var down: [Float]
  /// Row-major `[neurons, rank]`.
  public var up: [Float]

  /// A router of zeros.
  public init(inputs: Int, rank: Int, neurons: Int) {
    self.inputs = inputs
    self.rank = rank
    self.neurons = neurons
    down = Array(repeating: 0, count: rank * inputs)
    up = Array(repeating: 0, count: neurons * rank)
  }

  init(inputs: Int, rank: Int, down: [Float], up: [Float]) {
    self.inputs = inputs
    self.rank = rank
    self.neurons = up.count / max(1, rank)
    self.down = down
    self.up = up
  }

  /// The rank for a model: the paper's 1024, and a quarter of the hidden size for models narrower than 4096.
  public static func defaultRank(hidden: Int) -> Int { max(16, min(1024, hidden / 4 / 16 * 16)) }

  /// Scores of one input, in plain float arithmetic: the executable definition.
  public func scores(of input: UnsafeBufferPointer<Float>) -> [Float] {
    let middle = (0..<rank).map { r in
      (0..<inputs).reduce(Float(0)) { $0 + down[r * inputs + $1] * input[$1] }
    }
    return (0..<neurons).map { n in
      (0..<rank).reduce(Float(0)) { $0 + up[n * rank + $1] * middle[$1] }
    }
  }
}
