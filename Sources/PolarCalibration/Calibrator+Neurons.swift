import PolarCore
import PolarSparsity

extension Calibrator {
  /// The recall targets at which perplexity against the fraction of neurons is measured.
  static let sweepTargets = [0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995]

  /// Trains the neuron routers of all recorded layers, in parallel, and fills the profile's budgets. Returns for each of
  /// ``sweepTargets`` the thresholds of all layers in a batch of `windows` rows.
  func trainNeurons(
    _ samples: [LayerSamples?], profile: inout SparsityProfile, statistics: inout CalibrationStatistics,
    windows: Int, progress: @escaping @Sendable (CalibrationProgress) -> Void
  ) throws(PolarError) -> [[Float]] {
    let recorded = samples.indices.filter { (samples[$0]?.activations?.count ?? 0) > 1 }
    guard let neuronOptions = options.neurons, let first = recorded.first,
      let neurons = samples[first]?.activations?.neurons
    else { return [] }
    let calibrator = NeuronCalibrator(options: neuronOptions)
    let work = LayerWork(
      layers: recorded, count: samples.count,
      meter: ProgressMeter(stage: .neurons, total: Double(recorded.count), report: progress))
    let slots = TrainingSlots(samples[first]?.ops.concurrentLayers ?? 1)
    let results = try work.map { layer throws(PolarError) -> NeuronCalibrator.LayerResult? in
      guard let layerSamples = samples[layer], let activations = layerSamples.activations else { return nil }
      return try calibrator.calibrate(
        layerSamples, activations: activations,
        seed: neuronOptions.trainer.seed &+ UInt64(layer) &* 0x9E37_79B9, sweep: Self.sweepTargets,
        sweepBatch: windows, slots: slots)
    }
    let byLayer = results.map { $0 ?? nil }
    profile.neurons = calibrator.sparsity(byLayer, neurons: neurons)
    profile.defaultMode = .polar
    statistics.targetRecall = neuronOptions.recall
    statistics.unions = calibrator.unions(samples)
    for (layer, result) in byLayer.enumerated() {
      for need in result?.needs ?? [] {
        statistics.needs.append(
          .init(
            layer: layer, batch: need.batch, union: need.union, aggregate: need.summed,
            threshold: need.above, aggregateRecall: need.summedRecall,
            thresholdRecall: need.thresholdRecall, precision: need.precision))
      }
    }
    return Self.sweepTargets.indices.map { target in byLayer.map { $0?.sweep[target] ?? -.infinity } }
  }

  /// Measures everything on the held-out windows: the curve of head densities, the four modes, and perplexity against the
  /// fraction of neurons.
  func measure(
    _ meter: QualityMeter, gram: OutputGram, sweep: [[Float]], profile: inout SparsityProfile,
    statistics: inout CalibrationStatistics, on backend: any Backend,
    progress: @escaping @Sendable (CalibrationProgress) -> Void
  ) throws(PolarError) {
    let batches = Set([1, 8, meter.windowCount].filter { $0 <= meter.windowCount }).sorted()
    let modes = profile.modes.filter { $0 != .dense }
    let oracleSizes = profile.neurons == nil ? [] : [0.05, 0.1, 0.2, 0.3, 0.5]
    let routed = modes.reduce(0) { $0 + ($1.selectsNeurons ? batches.count : 1) }
    let rows = 1 + options.curve.count + routed + modes.count + sweep.count + oracleSizes.count
    let work = ProgressMeter(
      stage: .measuring, total: Double(rows * meter.scoredTokens), report: progress)
    var done = 0
    func count() {
      done += 1
      work.update(Double(done * meter.scoredTokens))
    }
    profile.curve = try options.curve.measure(
      profile: profile, gram: gram, meter: meter, on: backend
    ) { _ in count() }
    profile.densePerplexity = profile.curve[0].perplexity
    profile.criticalDensity = profile.criticalDensity(tolerance: 0.01)
    profile.defaultDensity = profile.density(divergence: options.divergenceTarget)
    statistics.modes = [
      .init(
        mode: .dense, policy: "dense", batch: meter.windowCount, perplexity: profile.densePerplexity,
        divergence: 0, heads: 1, neurons: 1)
    ]
    for mode in modes {
      for isOracle in [false, true] {
        let policy =
          isOracle
          ? try oracle(mode, profile: profile, gram: gram, on: backend)
          : try profile.policy(mode, on: backend)
        // Heads do not depend on the batch, and an oracle's neurons are all right at any.
        for batch in isOracle || !mode.selectsNeurons ? [meter.windowCount] : batches {
          let found = try meter.measure(policy, batch: batch)
          statistics.modes.append(
            .init(
              mode: mode, policy: isOracle ? "oracle" : "routed", batch: batch,
              perplexity: found.perplexity, divergence: found.divergence, heads: found.density,
              neurons: found.neuronDensity))
          count()
        }
      }
    }
    try measureNeurons(
      meter, sweep: sweep, oracleSizes: oracleSizes, profile: profile, statistics: &statistics,
      on: backend, measured: count)
  }

  private func measureNeurons(
    _ meter: QualityMeter, sweep: [[Float]], oracleSizes: [Double], profile: SparsityProfile,
    statistics: inout CalibrationStatistics, on backend: any Backend, measured: () -> Void
  ) throws(PolarError) {
    guard var neurons = profile.neurons else { return }
    func add(_ policy: any SparsityPolicy, name: String) throws(PolarError) {
      let found = try meter.measure(policy)
      statistics.neuronCurve.append(
        .init(
          policy: name, density: found.neuronDensity, perplexity: found.perplexity,
          divergence: found.divergence))
      measured()
    }
    // Thresholds alone decide here: no layer runs dense because it would be faster.
    neurons.rule = .union
    neurons.breakEven = []
    for thresholds in sweep {
      for layer in neurons.layers.indices where neurons.layers[layer] != nil {
        neurons.layers[layer]?.thresholds = [thresholds[layer]]
        neurons.layers[layer]?.budgets = [.init(batch: meter.windowCount, neurons: 0)]
      }
      try add(RoutedNeuronPolicy(neurons, on: backend), name: "routed")
    }
    for density in oracleSizes {
      try add(OracleNeuronPolicy(neurons: neurons.neurons, size: .density(density)), name: "oracle")
    }
  }

  /// The policy that chooses by true scores and activations, as many as the routed one of the same mode.
  private func oracle(
    _ mode: SparsityMode, profile: SparsityProfile, gram: OutputGram, on backend: any Backend
  ) throws(PolarError) -> any SparsityPolicy {
    var policy: any SparsityPolicy = DensePolicy()
    if mode.selectsHeads {
      policy = try options.curve.policy(
        .oracle, mode: .adaptive, density: profile.defaultDensity, profile: profile, gram: gram,
        on: backend)
    }
    if mode.selectsNeurons, let sparsity = profile.neurons {
      let neurons = try OracleNeuronPolicy(neurons: sparsity.neurons, size: .budgets(sparsity))
      policy = mode.selectsHeads ? CombinedPolicy(heads: policy, neurons: neurons) : neurons
    }
    return policy
  }

  /// Fraction of held-out tokens on which each unit is selected at the default density: `[layers][units]`.
  func selectedHeads(
    _ trained: [LayerResult?], profile: SparsityProfile
  ) throws(PolarError) -> [[Double]] {
    guard case .adaptive(let threshold) = try profile.rule(.adaptive, density: profile.defaultDensity)
    else { return [] }
    let units = profile.units.count
    return trained.map { result in
      guard let scores = result?.deviation.scores, !scores.isEmpty else {
        return Array(repeating: 1, count: units)
      }
      var counts = [Int](repeating: 0, count: units)
      for (i, score) in scores.enumerated() where score > threshold { counts[i % units] += 1 }
      return counts.map { Double($0) / Double(scores.count / units) }
    }
  }
}
