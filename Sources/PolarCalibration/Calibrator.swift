public import PolarCore
import PolarFormats
public import PolarModels
public import PolarSparsity

/// What a calibration learnt.
public struct CalibrationResult: Sendable {
  /// What decoding needs, with the quality curve.
  public var profile: SparsityProfile
  /// What reports show.
  public var statistics: CalibrationStatistics
}

/// Learns a sparsity profile: records activations on calibration text, trains routers of heads and, in ReLU models, of
/// neurons, finds thresholds and budgets, and measures quality on held-out text.
public struct Calibrator: Sendable {
  /// What a calibration does.
  public struct Options: Sendable {
    /// Calibration tokens to run at most.
    public var tokens = 60_000
    /// Tokens of one calibration window, cut to the model's context.
    public var window = 1024
    /// Rows of one prefill step.
    public var chunk = 256
    /// Bytes of recorded samples to keep at most in the host's memory.
    public var memoryLimit = 3_000_000_000
    /// Bytes of recorded inputs to keep at most on a device that trains routers itself; nil is half of what is free there.
    public var deviceMemoryLimit: Int?
    /// Pages at the start of a sequence that unselected heads attend to.
    public var sinkPages = 1
    /// Pages at the end of a sequence that unselected heads attend to.
    public var recentPages = 4
    /// Mean densities to find thresholds for.
    public var densities: [Double] = Array(stride(from: 0.05, through: 0.951, by: 0.05))
    /// How head routers are trained.
    public var trainer = RouterTrainer.Options()
    /// How neuron routers are trained and their budgets found; nil leaves the MLP dense. Models whose MLP is not a ReLU
    /// are not asked.
    public var neurons: NeuronCalibrator.Options? = .init()
    /// Batch sizes at which parts are timed on the backend for the break-even and the report; empty times nothing.
    public var timedBatches = [1, 2, 4, 8, 16, 32, 64]
    /// What is measured; no policies means no measuring.
    public var curve = QualityCurve()
    /// Held-out windows that are decoded as one batch.
    public var heldOutWindows = 16
    /// Tokens of each held-out window that are prefilled densely.
    public var prefix = 512
    /// Tokens of each held-out window that are then decoded one by one.
    public var steps = 192
    /// The default density is the lowest whose mean divergence from dense stays below this, in nats per token.
    public var divergenceTarget = 0.02

    /// The defaults.
    public init() {}
  }

  let options: Options

  /// A calibrator.
  public init(options: Options = Options()) { self.options = options }

  /// Runs the whole calibration.
  /// - Parameters:
  ///   - model: any model.
  ///   - fingerprint: the digest of its weights that the profile will be bound to.
  ///   - text: token ids of calibration text.
  ///   - heldOut: token ids of other text, for the quality curve.
  ///   - progress: called now and then, from any thread.
  ///   - planned: called before anything is recorded.
  /// - Throws: ``PolarError/request(field:reason:)`` when a text is too short or an option is out of range.
  public func run(
    model: any CausalLM, fingerprint: String, text: [Int32], heldOut: [Int32], on backend: any Backend,
    progress: @escaping @Sendable (CalibrationProgress) -> Void = { _ in },
    planned: (RecordingPlan) -> Void = { _ in }
  ) throws(PolarError) -> CalibrationResult {
    let config = model.config
    let window = min(options.window, config.context)
    let local = (options.sinkPages + options.recentPages + 1) * KVPage.tokens
    for density in options.densities + options.curve.densities { try Density.validated(density) }
    guard options.sinkPages >= 0, options.recentPages >= 1, window > local else {
      throw .request(
        field: "window",
        reason: "\(window) tokens are not more than the \(local) that the local fallback covers")
    }
    let tokens = min(options.tokens, text.count) / window * window
    guard tokens >= 2 * window else {
      throw .request(
        field: "text",
        reason:
          "\(min(options.tokens, text.count)) calibration tokens (of \(text.count) in the text) are fewer than two "
          + "windows of \(window)")
    }
    let meter = try makeMeter(model: model, heldOut: heldOut, on: backend)
    let gram = try OutputGram(
      projections: (0..<config.layers).map { model.outputProjection(layer: $0) }, heads: config.heads,
      headDim: config.headDim, on: backend)
    var profile = SparsityProfile(
      model: .init(fingerprint: fingerprint, config: config),
      calibration: .init(
        textHash: Self.hash(text[0..<tokens]), tokens: tokens, samples: 0, seed: options.trainer.seed))
    profile.sinkPages = options.sinkPages
    profile.recentPages = options.recentPages
    profile.denseLayers = [0]
    var statistics = CalibrationStatistics()
    var stopwatch = Stopwatch()
    let samples = try record(
      model: model, gram: gram, text: text[0..<tokens], window: window, profile: &profile,
      statistics: &statistics, on: backend, planned: planned, progress: progress)
    statistics.seconds["recording"] = stopwatch.lap()
    let heads = try train(samples, profile: &profile, progress: progress)
    statistics.seconds["training head routers"] = stopwatch.lap()
    let sweep = try trainNeurons(
      samples, profile: &profile, statistics: &statistics, windows: meter?.windowCount ?? 1,
      progress: progress)
    statistics.seconds["training neuron routers"] = stopwatch.lap()
    if !options.timedBatches.isEmpty {
      let found = try SelectionCosts(config: config, profile: profile, on: backend)
        .measure(batches: options.timedBatches)
      profile.neurons?.breakEven = found.breakEven
      statistics.costs = found.costs
      statistics.seconds["timing"] = stopwatch.lap()
    }
    if let meter {
      try measure(
        meter, gram: gram, sweep: sweep, profile: &profile, statistics: &statistics, on: backend,
        progress: progress)
      statistics.seconds["measuring"] = stopwatch.lap()
    }
    statistics.selectedHeads = try selectedHeads(heads, profile: profile)
    return CalibrationResult(profile: profile, statistics: statistics)
  }

  /// The meter over the held-out windows, spread evenly over the text; nil when nothing is to be measured.
  private func makeMeter(
    model: any CausalLM, heldOut: [Int32], on backend: any Backend
  ) throws(PolarError) -> QualityMeter? {
    guard options.curve.count > 0 else { return nil }
    let length = min(options.prefix + options.steps + 1, model.config.context)
    let available = heldOut.count / length
    guard available >= 1 else {
      throw .request(
        field: "held-out text", reason: "\(heldOut.count) tokens are fewer than one window of \(length)")
    }
    let count = min(available, options.heldOutWindows)
    let windows = (0..<count).map { index in
      let start = index * available / count * length
      return Array(heldOut[start..<start + length])
    }
    return try QualityMeter(
      model: model, windows: windows, prefix: min(options.prefix, length - 2), on: backend)
  }

  /// Runs the calibration text and fills the profile's means.
  private func record(
    model: any CausalLM, gram: OutputGram, text: ArraySlice<Int32>, window: Int,
    profile: inout SparsityProfile, statistics: inout CalibrationStatistics, on backend: any Backend,
    planned: (RecordingPlan) -> Void, progress: @escaping @Sendable (CalibrationProgress) -> Void
  ) throws(PolarError) -> [LayerSamples?] {
    let config = model.config
    let chunk = min(options.chunk, window)
    let ops = backend.training ?? HostTrainingOps()
    try ops.prepareTraining()
    let shapes = RecordedShape.all(
      config, units: profile.units, denseLayers: Set(profile.denseLayers),
      recordsNeurons: options.neurons != nil && config.activation == .relu)
    let staging = try BatchStaging(maximumRows: chunk, sequences: 1, context: window, on: backend)
    let cache = try KVCache(config: config, pages: staging.pages, on: backend)
    let modelBytes = model.workspaceByteCount(rows: chunk, logitRows: 1)
    let available = backend.availableMemory.map { max(0, $0 - modelBytes) / 2 } ?? options.memoryLimit
    let firstPosition = (options.sinkPages + options.recentPages + 1) * KVPage.tokens
    let plan = RecordingPlan(
      shapes.compactMap { $0 }, expected: text.count / window * (window - firstPosition),
      hostLimit: options.memoryLimit,
      deviceLimit: ops.hasOwnMemory ? options.deviceMemoryLimit ?? available : nil)
    planned(plan)
    let recorder = try ActivationRecorder(
      config: config, units: profile.units, gram: gram,
      projections: (0..<config.layers).map {
        .init(weight: model.outputProjection(layer: $0), bias: model.outputBias(layer: $0))
      },
      sinkPages: options.sinkPages, recentPages: options.recentPages, shapes: shapes, plan: plan,
      rows: chunk, on: ops)
    var workspace = Workspace(
      try backend.allocate(byteCount: modelBytes + recorder.workspaceByteCount(rows: chunk)))
    let work = ProgressMeter(stage: .recording, total: Double(text.count), report: progress)
    for start in stride(from: text.startIndex, to: text.endIndex, by: window) {
      for offset in stride(from: 0, to: window, by: chunk) {
        let end = start + min(window, offset + chunk)
        let batch = staging.prefill(text[start + offset..<end], position: offset, sequence: 0)
        _ = model.forward(
          batch, cache: cache, policy: DensePolicy(), tap: recorder, workspace: &workspace, on: backend)
        backend.synchronize()
      }
      if let failure = backend.failure { throw failure }
      work.update(Double(start + window - text.startIndex))
    }
    profile.meanDeviations = recorder.meanDeviations
    profile.meanNorms = recorder.meanNorms
    profile.constants = recorder.meanOutputs
    statistics.attentionImportance = recorder.attentionImportance
    statistics.largestHeads = recorder.largestUnits
    profile.calibration.samples = recorder.samples.lazy.compactMap { $0?.count }.first ?? 0
    return recorder.samples
  }

  /// The head routers of one layer.
  struct LayerResult: Sendable {
    var deviation: RouterTrainer.Trained
    var norm: RouterTrainer.Trained
  }

  /// Trains the head routers of all layers, in parallel, and finds the thresholds.
  private func train(
    _ samples: [LayerSamples?], profile: inout SparsityProfile,
    progress: @escaping @Sendable (CalibrationProgress) -> Void
  ) throws(PolarError) -> [LayerResult?] {
    let sparse = samples.indices.filter { (samples[$0]?.units ?? 0) > 0 }
    var trainerOptions = options.trainer
    if trainerOptions.floor == nil {
      let units = profile.units.count
      let means = sparse.flatMap { profile.meanDeviations[$0 * units..<($0 + 1) * units] }
      trainerOptions.floor = means.reduce(0, +) / Float(2 * max(1, means.count))
    }
    let trainer = RouterTrainer(options: trainerOptions)
    let work = LayerWork(
      layers: sparse, count: samples.count,
      meter: ProgressMeter(stage: .training, total: Double(sparse.count), report: progress))
    let slots = TrainingSlots(sparse.first.flatMap { samples[$0]?.ops.concurrentLayers } ?? 1)
    let seed = options.trainer.seed
    let results = try work.map { layer throws(PolarError) -> LayerResult? in
      guard let layerSamples = samples[layer] else { return nil }
      let seed = seed &+ UInt64(layer) &* 0x9E37_79B9
      return try slots.take { () throws(PolarError) in
        LayerResult(
          deviation: try trainer.trainDeviation(layerSamples, seed: seed),
          norm: try trainer.trainNorm(layerSamples, seed: seed))
      }
    }
    let trained = results.map { $0 ?? nil }
    let units = profile.units.count
    profile.recallDensities = options.curve.densities
    profile.layerQuality = []
    for (layer, result) in trained.enumerated() {
      guard let result else { continue }
      profile.deviationRouters[layer] = result.deviation.router
      profile.normRouters[layer] = result.norm.router
      func recall(_ trained: RouterTrainer.Trained) -> [Double] {
        profile.recallDensities.map { density in
          ThresholdSearch.recall(
            scores: trained.scores, labels: trained.labels[...], units: units,
            count: Density.count(density, of: units))
        }
      }
      profile.layerQuality.append(
        .init(
          layer: layer, r2: result.deviation.r2, deviationRecall: recall(result.deviation),
          normRecall: recall(result.norm)))
    }
    let densities = options.densities.sorted()
    let router = ThresholdSearch.thresholds(
      scores: trained.flatMap { $0?.deviation.scores ?? [] }, densities: densities)
    let oracle = ThresholdSearch.thresholds(
      scores: trained.flatMap { $0?.deviation.labels ?? [] }, densities: densities)
    profile.thresholds = zip(densities, zip(router, oracle)).map {
      .init(density: $0, router: $1.0, oracle: $1.1)
    }
    return trained
  }

  /// FNV-1a of token ids, as 16 hexadecimal digits.
  static func hash(_ tokens: ArraySlice<Int32>) -> String {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for token in tokens {
      for shift in stride(from: 0, to: 32, by: 8) {
        hash = (hash ^ UInt64(UInt8(truncatingIfNeeded: token >> Int32(shift)))) &* 0x100_0000_01B3
      }
    }
    let digits = String(hash, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
