import PolarCore
import PolarSparsity

/// Turns recorded activations into neuron routers with budgets: one layer after the other is trained, and the sizes that
/// find the wanted fraction of a batch's true union are searched on the tokens it was not trained on (Polar Sparsity,
/// algorithm 2, without its published cap).
public struct NeuronCalibrator: Sendable {
  /// What is calibrated.
  public struct Options: Sendable {
    /// How routers are trained.
    public var trainer = NeuronRouterTrainer.Options()
    /// The fraction of a batch's true union that budgets find on average.
    public var recall = 0.99
    /// Batch sizes that budgets are calibrated for, ascending; between them they are interpolated.
    public var batches = [1, 2, 4, 8, 16, 32, 64]
    /// Random batches that each budget averages over.
    public var samples = 128

    /// The defaults.
    public init() {}
  }

  /// The options in force.
  public let options: Options

  /// A calibrator.
  public init(options: Options = Options()) { self.options = options }

  /// What was learnt of one layer.
  struct LayerResult: Sendable {
    var trained: NeuronRouterTrainer.Trained
    var needs: [UnionRecall.Need]
    /// Thresholds of the recall targets of the quality curve at its batch size.
    var sweep: [Float]
  }

  /// Trains one layer, in a slot of its turn, and searches its budgets; `sweep` are recall targets at `sweepBatch` rows to
  /// find thresholds for.
  func calibrate(
    _ samples: LayerSamples, activations: ActivationBits, seed: UInt64, sweep: [Double], sweepBatch: Int,
    slots: TrainingSlots = TrainingSlots(.max)
  ) throws(PolarError) -> LayerResult {
    let trained = try slots.take { () throws(PolarError) in
      try NeuronRouterTrainer(options: options.trainer).train(samples, activations: activations, seed: seed)
    }
    let search = UnionRecall(
      scores: trained.scores, truth: activations, tokens: trained.heldOut, batches: options.samples,
      seed: seed)
    var result = LayerResult(
      trained: trained,
      needs: options.batches.map {
        search.need(batch: $0, target: options.recall, tile: NeuronSparsity.tile)
      },
      sweep: sweep.map { search.need(batch: sweepBatch, target: $0, tile: NeuronSparsity.tile).threshold })
    result.trained.scores = []
    return result
  }

  /// The sparsity of a model, from all its layers' results, and which rule it serves with: the one that finds more of
  /// the union at equal size, over all layers and batch sizes.
  func sparsity(_ results: [LayerResult?], neurons: Int) -> NeuronSparsity {
    var sparsity = NeuronSparsity(neurons: neurons, layers: results.count)
    let all = results.compactMap { $0 }
    sparsity.comparison = options.batches.indices.map { index in
      let needs = all.map { $0.needs[index] }
      func mean(_ value: (UnionRecall.Need) -> Double) -> Double {
        needs.reduce(0) { $0 + value($1) } / Double(max(1, needs.count))
      }
      return .init(
        batch: options.batches[index], density: mean { Double($0.equalSize) / Double(neurons) },
        aggregate: mean(\.summedRecall), union: mean(\.thresholdRecall))
    }
    let gain = sparsity.comparison.reduce(0) { $0 + $1.union - $1.aggregate }
    sparsity.rule = gain >= 0 ? .union : .aggregate
    for (layer, result) in results.enumerated() {
      guard let result else { continue }
      sparsity.layers[layer] = NeuronSparsity.Layer(
        router: result.trained.router, thresholds: result.needs.map(\.threshold),
        budgets: result.needs.map { need in
          switch sparsity.rule {
          case .aggregate: .init(batch: need.batch, neurons: need.summed ?? neurons)
          case .union: .init(batch: need.batch, neurons: need.equalSize)
          }
        },
        recall: result.trained.recall, precision: result.trained.precision)
    }
    return sparsity
  }

  /// Mean true unions of random batches of all recorded tokens, by batch size; `layers` without records count as all.
  func unions(_ samples: [LayerSamples?]) -> [CalibrationStatistics.Union] {
    options.batches.map { batch in
      let activity = samples.map { samples -> Double in
        guard let bits = samples?.activations, bits.count > 0 else { return 1 }
        return Self.unionActivity(bits, batch: batch, batches: options.samples, seed: options.trainer.seed)
      }
      return .init(batch: batch, activity: activity)
    }
  }

  /// The mean fraction of neurons that any token of a random batch activates.
  static func unionActivity(_ bits: ActivationBits, batch: Int, batches: Int, seed: UInt64) -> Double {
    let random = RandomBatches(of: 0..<bits.count, size: batch, count: batches, seed: seed)
    var active = 0
    for rows in random.batches {
      var union = [UInt64](repeating: 0, count: bits.wordsPerToken)
      for row in rows { bits.unite(row, into: &union) }
      active += union.reduce(0) { $0 + $1.nonzeroBitCount }
    }
    return Double(active) / Double(max(1, random.count * bits.neurons))
  }
}
