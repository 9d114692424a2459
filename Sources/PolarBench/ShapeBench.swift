public import PolarCore
import PolarEngine
public import PolarFormats
import PolarModels
public import PolarSparsity

/// Whole decode steps of published shapes, with random weights made on the device: what a model of that shape would take.
public struct ShapeBench {
  /// A model's shape and the densities it is measured at.
  public struct Shape: Sendable {
    /// Such as `opt-6.7b`.
    public var name: String
    /// The model.
    public var config: ModelConfig
    /// Fraction of heads (or KV groups) that a sparse layer computes.
    public var headDensity: Double
    /// Mean neurons of a layer's list, by batch size; empty where the MLP stays dense.
    public var neurons: [NeuronSparsity.Budget]
    /// Layers that are built when the whole does not fit; the time of the rest follows from two sizes. Nil builds all.
    public var sampledLayers: Int?

    /// A shape.
    public init(
      name: String, config: ModelConfig, headDensity: Double, neurons: [NeuronSparsity.Budget] = [],
      sampledLayers: Int? = nil
    ) {
      self.name = name
      self.config = config
      self.headDensity = headDensity
      self.neurons = neurons
      self.sampledLayers = sampledLayers
    }
  }

  /// One mode's step at one batch size and context.
  public struct Row: Sendable, Codable {
    /// The shape's name.
    public var model: String
    /// Dense, MLP only, heads only, both.
    public var mode: SparsityMode
    /// Sequences.
    public var batch: Int
    /// Tokens in the cache of each.
    public var context: Int
    /// Fraction of heads computed in sparse layers.
    public var headDensity: Double
    /// Fraction of neurons computed in sparse layers.
    public var neuronDensity: Double
    /// Median seconds of a step, choosing the token included.
    public var seconds: Double
    /// Tokens per second over the batch.
    public var tokensPerSecond: Double
    /// Bytes of weights, K and V that the step must at least read.
    public var bytes: Int
    /// GB/s at which it reads them.
    public var bandwidth: Double
    /// Dense time over this one's.
    public var speedup: Double
    /// The speed-up that the bytes allow.
    public var byteSpeedup: Double
  }

  /// Rank of the routers of neurons, as published.
  private static let routerRank = 1024

  private let backend: any Backend
  private let repeats: Int

  /// A bench on `backend` of `repeats` timed steps each.
  public init(_ backend: any Backend, repeats: Int) {
    self.backend = backend
    self.repeats = repeats
  }

  /// A batch size and a context.
  public struct Cell: Sendable, Equatable {
    /// Sequences.
    public var batch: Int
    /// Tokens in the cache of each.
    public var context: Int

    /// A cell.
    public init(batch: Int, context: Int) {
      self.batch = batch
      self.context = context
    }
  }

  /// Measures the modes that the shape has in one cell after the other, on one model that is made once.
  /// - Parameter each: is given the rows of a cell, dense first, as soon as they are there.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)`` when one does not fit, and what `each` throws.
  public func run(_ shape: Shape, cells: [Cell], each: ([Row]) throws -> Void) throws {
    var modes: [SparsityMode] = [.dense, .heads]
    if !shape.neurons.isEmpty, shape.config.activation == .relu { modes = [.dense, .mlp, .heads, .polar] }
    guard let sampled = shape.sampledLayers else {
      return try measure(shape, layers: shape.config.layers, modes, cells) { index, seconds in
        try each(rows(shape, modes, seconds, cells[index]))
      }
    }
    var few: [[Double]] = []
    try measure(shape, layers: 1, modes, cells) { few.append($1) }
    try measure(shape, layers: sampled, modes, cells) { index, more in
      // The first layer is dense in every mode.
      let seconds = zip(few[index], more).map { few, more in
        few + (more - few) / Double(sampled - 1) * Double(shape.config.layers - 1)
      }
      try each(rows(shape, modes, seconds, cells[index]))
    }
  }

  private func rows(_ shape: Shape, _ modes: [SparsityMode], _ seconds: [Double], _ cell: Cell) -> [Row] {
    let (batch, context) = (cell.batch, cell.context)
    let denseBytes = bytes(shape, .dense, batch: batch, context: context)
    return zip(modes, seconds).map { mode, time in
      let bytes = bytes(shape, mode, batch: batch, context: context)
      return Row(
        model: shape.name, mode: mode, batch: batch, context: context,
        headDensity: mode.selectsHeads ? shape.headDensity : 1,
        neuronDensity: mode.selectsNeurons ? neuronDensity(shape, batch) : 1, seconds: time,
        tokensPerSecond: Double(batch) / time, bytes: bytes, bandwidth: Double(bytes) / time / 1e9,
        speedup: seconds[0] / time, byteSpeedup: Double(denseBytes) / Double(bytes))
    }
  }

  /// Bytes that `shape` takes in memory at a batch size and context.
  public static func memoryBytes(_ shape: Shape, batch: Int, context: Int) -> Int {
    var config = shape.config
    config.layers = shape.sampledLayers ?? config.layers
    let kv = config.kvBytesPerToken * batch * (context + 2 * KVPage.tokens)
    let scratch = batch * (config.vocabulary + 8 * config.intermediate + 16 * config.hidden) * 4
    let routers =
      shape.neurons.isEmpty
      ? 0 : config.layers * routerRank * (config.hidden + config.intermediate) * 2
    return weightBytes(config) + kv + 2 * scratch + routers + 1 << 30
  }

  private static func weightBytes(_ config: ModelConfig) -> Int {
    let tables = (config.tiedEmbeddings ? 1 : 2) * config.vocabulary * config.hidden * 2
    return tables + config.layers * (attentionBytes(config) + mlpBytes(config))
  }

  private static func attentionBytes(_ config: ModelConfig) -> Int {
    config.hidden * config.headDim * 2 * (2 * config.heads + 2 * config.kvHeads)
  }

  private static func mlpBytes(_ config: ModelConfig) -> Int {
    (config.architecture.blocks == .opt ? 2 : 3) * config.hidden * config.intermediate * 2
  }

  private func neuronDensity(_ shape: Shape, _ batch: Int) -> Double {
    sparsity(shape, layers: 2).budget(layer: 1, rows: batch)
      .map { Double($0) / Double(shape.config.intermediate) } ?? 1
  }

  /// What a step must at least read: weights once (of the embedding a few rows), K and V of the computed heads.
  private func bytes(_ shape: Shape, _ mode: SparsityMode, batch: Int, context: Int) -> Int {
    let config = shape.config
    let kvLayer = config.kvBytesPerToken / config.layers * batch * context
    let heads = mode.selectsHeads ? shape.headDensity : 1
    let neurons = mode.selectsNeurons ? neuronDensity(shape, batch) : 1
    let rank = min(Self.routerRank, config.hidden)
    let router = neurons < 1 ? rank * (config.hidden + config.intermediate) * 2 : 0
    let dense = Self.attentionBytes(config) + Self.mlpBytes(config) + kvLayer
    let sparse =
      Double(Self.attentionBytes(config)) + neurons * Double(Self.mlpBytes(config)) + heads * Double(kvLayer)
    return config.vocabulary * config.hidden * 2 + dense + (config.layers - 1) * (Int(sparse) + router)
  }

  /// Seconds of a step of `layers` layers in each mode, for each cell.
  private func measure(
    _ shape: Shape, layers: Int, _ modes: [SparsityMode], _ cells: [Cell],
    each: (Int, [Double]) throws -> Void
  ) throws {
    var config = shape.config
    config.layers = layers
    config.windows = []
    config.context = max(config.context, (cells.map(\.context).max() ?? 0) + 2 * KVPage.tokens)
    let model = try ModelRegistry.makeRandom(config: config, backend: backend) { address, bytes in
      BenchMemory.fill(address, byteCount: bytes, on: backend)
    }
    let policies = try modes.map { mode throws(PolarError) in
      try policy(mode, shape, config)
    }
    for (index, cell) in cells.enumerated() {
      try each(index, try measure(model, policies, cell))
    }
  }

  private func measure(
    _ model: any CausalLM, _ policies: [any SparsityPolicy], _ cell: Cell
  ) throws(PolarError) -> [Double] {
    let (batch, context) = (cell.batch, cell.context)
    let pagesEach = (context + 1 + KVPage.tokens - 1) / KVPage.tokens
    let runner = try ModelRunner(
      model: model, backend: backend, cachePages: batch * pagesEach, maximumRows: batch,
      maximumSequences: batch, maximumContext: context + 1,
      policyBytes: policies.map { $0.workspaceByteCount(rows: batch) }.max() ?? 0)
    for layer in runner.cache.layers {
      BenchMemory.fill(layer.address, byteCount: layer.byteCount, on: backend)
    }
    let pages = (0..<batch).map { sequence in
      (0..<Int32(pagesEach)).map { Int32(sequence * pagesEach) + $0 }
    }
    let draws = [TokenDraw](
      repeating: TokenDraw(temperature: 0, topP: 1, minP: 0, topK: 0, uniform: 0), count: batch)
    return try policies.map { policy throws(PolarError) in
      runner.forgetRecordings()
      func step() {
        runner.begin()
        for sequence in 0..<batch {
          runner.append(
            Int32((sequence * 7919) % model.config.vocabulary), at: context, pages: pages[sequence])
        }
        if backend.tokenDrawing != nil {
          draws.withUnsafeBufferPointer { _ = runner.runDrawing($0, policy: policy, replaying: true) }
        } else {
          _ = runner.run(.decode, policy: policy)
        }
      }
      // Issued, recorded, replayed.
      for _ in 0..<3 { step() }
      let times = (0..<repeats).map { _ in PolarBench.seconds(step) }
      if let failure = backend.failure { throw failure }
      return median(times)
    }
  }

  private func policy(
    _ mode: SparsityMode, _ shape: Shape, _ config: ModelConfig
  ) throws(PolarError) -> any SparsityPolicy {
    var heads: any SparsityPolicy = DensePolicy()
    if mode.selectsHeads {
      let units = SelectionUnits.natural(heads: config.heads, kvHeads: config.kvHeads)
      let count = Density.count(shape.headDensity, of: units.count)
      let masks = (0..<config.layers).map { layer -> [Bool]? in
        if layer == 0 { return nil }
        let chosen = Set((0..<count).map { ($0 * units.count / count + layer) % units.count })
        return (0..<units.count).map(chosen.contains)
      }
      heads = try StaticPolicy(
        masks: masks, hidden: config.hidden, units: units, fallback: .zero, on: backend)
    }
    guard mode.selectsNeurons else { return heads }
    let neurons = try RoutedNeuronPolicy(sparsity(shape, layers: config.layers, weights: true), on: backend)
    return CombinedPolicy(heads: heads, neurons: neurons)
  }

  /// Routers of every layer but the first, all with the same random weights, and the shape's budgets.
  private func sparsity(_ shape: Shape, layers: Int, weights: Bool = false) -> NeuronSparsity {
    let config = shape.config
    let rank = weights ? min(Self.routerRank, config.hidden) : 0
    var router = NeuronRouterWeights(
      inputs: weights ? config.hidden : 0, rank: rank, neurons: weights ? config.intermediate : 0)
    var generator = SplitMix64(seed: 3)
    for index in router.down.indices { router.down[index] = generator.unitFloat() - 0.5 }
    for index in router.up.indices { router.up[index] = generator.unitFloat() - 0.5 }
    var sparsity = NeuronSparsity(neurons: config.intermediate, layers: layers, rule: .aggregate)
    for layer in 1..<max(1, layers) {
      sparsity.layers[layer] = NeuronSparsity.Layer(
        router: router, thresholds: Array(repeating: 0, count: shape.neurons.count), budgets: shape.neurons,
        recall: 1, precision: 1)
    }
    return sparsity
  }
}
