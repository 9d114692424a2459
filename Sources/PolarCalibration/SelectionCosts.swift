public import PolarCore
public import PolarFormats
public import PolarSparsity

/// Times a layer's MLP and attention, dense beside sparse, and what choosing costs, on the backend that calibrates: the
/// paper's figure 10, and the break-even above which an MLP runs dense.
///
/// There are as many layers of weights as the model has, so that caches see what they see in a step; the routers are the
/// profile's own. Everything compared alternates.
public struct SelectionCosts {
  /// Fractions of neurons that are timed.
  private static let neuronDensities = [0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1]
  /// Fractions that reports show.
  private static let shown = [0.2, 0.5, 0.8]

  /// Times by batch size, and the most neurons with which the selective MLP is not slower than the dense one.
  public struct Result: Sendable {
    /// What a report shows.
    public var costs: [CalibrationStatistics.Cost] = []
    /// By ascending batch.
    public var breakEven: [NeuronSparsity.Budget] = []
  }

  private let config: ModelConfig
  private let profile: SparsityProfile
  private let backend: any Backend
  /// Alternations.
  private let rounds: Int

  /// Costs of a calibrated model.
  public init(
    config: ModelConfig, profile: SparsityProfile, rounds: Int = 15, on backend: any Backend
  ) {
    self.config = config
    self.profile = profile
    self.rounds = rounds
    self.backend = backend
  }

  /// Measures at each batch size.
  public func measure(batches: [Int]) throws(PolarError) -> Result {
    var result = Result()
    for batch in batches {
      let scene = try Scene(config: config, profile: profile, batch: batch, on: backend)
      if let neurons = profile.neurons {
        let times = try neuronTimes(neurons, scene)
        result.costs.append(times.cost("MLP", batch: batch, shown: Self.shown))
        result.breakEven.append(
          .init(batch: batch, neurons: Int(times.breakEven * Double(neurons.neurons))))
      }
      result.costs.append(try headTimes(scene).cost("attention", batch: batch, shown: Self.shown))
    }
    return result
  }

  private func neuronTimes(_ neurons: NeuronSparsity, _ scene: Scene) throws(PolarError) -> Times {
    // No budget or break-even makes a layer dense here: the router always runs.
    var always = neurons
    always.breakEven = []
    for layer in always.layers.indices where always.layers[layer] != nil {
      always.layers[layer]?.budgets = [.init(batch: scene.batch.rows, neurons: NeuronSparsity.tile)]
      always.layers[layer]?.thresholds = [neurons.threshold(layer: layer, rows: scene.batch.rows)]
    }
    let policy = try RoutedNeuronPolicy(always, on: backend)
    let mlp = try TimedMLP(config: config, rows: scene.batch.rows, on: backend)
    let layers = neurons.layers.indices.filter { neurons.layers[$0] != nil }
    var times = Times(densities: Self.neuronDensities, layers: layers.count)
    var workspace = try scene.workspace(for: policy)
    for round in 0...rounds {
      times.start(counts: round > 0)  // The first round warms up.
      times.dense { for layer in layers { mlp.run(layer, nil) } }
      times.router {
        for layer in layers {
          workspace.reset()
          _ = policy.select(scene.context(layer), workspace: &workspace, on: backend)
        }
        backend.synchronize()
      }
      for (index, density) in Self.neuronDensities.enumerated() {
        let list = mlp.list(density)
        times.sparse(index) { for layer in layers { mlp.run(layer, list) } }
      }
    }
    return times
  }

  private func headTimes(_ scene: Scene) throws(PolarError) -> Times {
    let policy = try RoutedPolicy(profile: profile, density: 0.5, on: backend)
    let layers = (0..<config.layers).filter { !profile.denseLayers.contains($0) }
    var times = Times(densities: Self.shown, layers: layers.count)
    var workspace = try scene.workspace(for: policy)
    for round in 0...rounds {
      times.start(counts: round > 0)
      times.dense { for _ in layers { scene.attend(nil) } }
      times.router {
        for layer in layers {
          workspace.reset()
          _ = policy.select(scene.context(layer), workspace: &workspace, on: backend)
        }
        backend.synchronize()
      }
      for (index, density) in Self.shown.enumerated() {
        let heads = scene.heads(density, fallback: profile.fallback(.adaptive))
        times.sparse(index) { for _ in layers { scene.attend(heads) } }
      }
    }
    return times
  }
}

extension SelectionCosts {
  /// Seconds of alternating runs.
  private struct Times {
    let densities: [Double]
    let layers: Int
    private var denseTimes: [Double] = []
    private var routerTimes: [Double] = []
    private var sparseTimes: [[Double]]
    private var counts = false

    init(densities: [Double], layers: Int) {
      self.densities = densities
      self.layers = max(1, layers)
      sparseTimes = densities.map { _ in [] }
    }

    mutating func start(counts: Bool) { self.counts = counts }

    mutating func dense(_ work: () -> Void) {
      let time = seconds(work)
      if counts { denseTimes.append(time) }
    }

    mutating func router(_ work: () -> Void) {
      let time = seconds(work)
      if counts { routerTimes.append(time) }
    }

    mutating func sparse(_ index: Int, _ work: () -> Void) {
      let time = seconds(work)
      if counts { sparseTimes[index].append(time) }
    }

    private func seconds(_ work: () -> Void) -> Double {
      var stopwatch = Stopwatch()
      work()
      return stopwatch.lap() / Double(layers)
    }

    private func median(_ values: [Double]) -> Double {
      values.isEmpty ? 0 : values.sorted()[values.count / 2]
    }

    /// Medians of the ratios to the dense run of the same round.
    private func ratio(_ times: [Double]) -> Double { median(zip(times, denseTimes).map { $0 / $1 }) }

    /// The largest fraction at which router and sparse part together take no longer than dense, interpolated.
    var breakEven: Double {
      let router = ratio(routerTimes)
      var points = [(density: 0.0, time: router)]
      for (density, times) in zip(densities, sparseTimes) { points.append((density, router + ratio(times))) }
      guard let last = points.lastIndex(where: { $0.time <= 1 }) else { return 0 }
      guard last + 1 < points.count else { return 1 }
      let (a, b) = (points[last], points[last + 1])
      return a.density + (b.density - a.density) * (1 - a.time) / max(b.time - a.time, 1e-9)
    }

    func cost(_ part: String, batch: Int, shown: [Double]) -> CalibrationStatistics.Cost {
      let dense = median(denseTimes)
      return .init(
        part: part, batch: batch, dense: dense, router: dense * ratio(routerTimes),
        sparse: zip(densities, sparseTimes).filter { shown.contains($0.0) }.map {
          .init(density: $0, seconds: dense * ratio($1))
        })
    }
  }

  /// MLPs of zero weights, one per layer, in the layouts of dense and of selective ones.
  private final class TimedMLP {
    private let backend: any Backend
    private let memory: any DeviceMemory
    private let weights: [(up: Tensor, down: Tensor)]
    private let panels: [(up: PackedMatrix, down: PackedMatrix)]
    private let projected: Tensor
    private let isGated: Bool
    private let x: Tensor
    private let out: Tensor
    private let activated: Tensor
    private let indices: Tensor
    private let count: Tensor
    private let neurons: Int

    init(config: ModelConfig, rows: Int, on backend: any Backend) throws(PolarError) {
      self.backend = backend
      let neurons = config.intermediate
      self.neurons = neurons
      isGated = config.architecture.blocks == .llama
      let halves = isGated ? 2 : 1
      let (hidden, layers) = (config.hidden, config.layers)
      func aligned(_ bytes: Int) -> Int { (bytes + 63) & ~63 }
      let neuronBytes = [halves * hidden, hidden].map {
        aligned(backend.neuronByteCount(neurons: neurons, columns: $0))
      }
      let upBytes = aligned(backend.packedByteCount(outputs: halves * neurons, inputs: hidden))
      let downBytes = aligned(backend.packedByteCount(outputs: hidden, inputs: neurons))
      let scratch = 2 * aligned(rows * hidden * 4) + (halves + 1) * aligned(rows * neurons * 4)
      let memory = try backend.allocate(
        byteCount: layers * (neuronBytes[0] + neuronBytes[1] + upBytes + downBytes) + scratch
          + aligned(neurons * 4) + 64)
      self.memory = memory
      var offset = 0
      func take(_ bytes: Int) -> Address {
        defer { offset += aligned(bytes) }
        return memory.base.advanced(by: offset)
      }
      func tensor(_ rows: Int, _ columns: Int, _ dtype: DType) -> Tensor {
        Tensor(take(rows * columns * dtype.byteCount), rows: rows, columns: columns, dtype: dtype)
      }
      weights = (0..<layers).map { _ in
        (
          backend.neuronWeight(take(neuronBytes[0]), neurons: neurons, columns: halves * hidden),
          backend.neuronWeight(take(neuronBytes[1]), neurons: neurons, columns: hidden)
        )
      }
      panels = (0..<layers).map { _ in
        (
          PackedMatrix(
            take(upBytes), outputs: halves * neurons, inputs: hidden, format: backend.wideFormat),
          PackedMatrix(
            take(downBytes), outputs: hidden, inputs: neurons, format: backend.wideFormat)
        )
      }
      x = tensor(rows, hidden, .f32)
      out = tensor(rows, hidden, .f32)
      activated = tensor(rows, neurons, .f32)
      projected = isGated ? tensor(rows, 2 * neurons, .f32) : activated
      indices = tensor(1, neurons, .i32)
      count = tensor(1, 1, .i32)
      let ones = [Float](repeating: 0.5, count: x.count)
      ones.withUnsafeBytes { backend.upload($0, to: x.address) }
    }

    /// Evenly spread neurons.
    func list(_ density: Double) -> ActiveNeurons {
      let size = Density.count(density, of: neurons)
      let values = (0..<size).map { Int32($0 * neurons / size) }
      values.withUnsafeBytes { backend.upload($0, to: indices.address) }
      withUnsafeBytes(of: Int32(size)) { backend.upload($0, to: count.address) }
      return ActiveNeurons(indices: indices, count: count)
    }

    func run(_ layer: Int, _ neurons: ActiveNeurons?) {
      defer { backend.synchronize() }
      guard let neurons else {
        backend.linear(projected, x, weight: panels[layer].up, bias: nil)
        if isGated {
          backend.reluMul(activated, projected, threshold: 0)
        } else {
          backend.relu(activated)
        }
        backend.linear(out, activated, weight: panels[layer].down, bias: nil)
        return
      }
      backend.selectiveUp(
        activated, x, weight: weights[layer].up, bias: nil, threshold: 0, neurons: neurons)
      backend.selectiveDown(out, activated, weight: weights[layer].down, bias: nil, neurons: neurons)
    }
  }

  /// A batch over a synthetic cache of one layer.
  private final class Scene {
    let batch: ForwardBatch
    private let backend: any Backend
    private let memory: any DeviceMemory
    private let staging: BatchStaging
    private let kv: KVLayer
    private let query: Tensor
    private let input: Tensor
    private let out: Tensor
    private let mask: Tensor
    private let config: ModelConfig

    /// The most bytes of K and V; contexts are shorter where a batch would take more.
    private static let cacheLimit = 256 << 20

    init(
      config: ModelConfig, profile: SparsityProfile, batch rows: Int, on backend: any Backend
    ) throws(PolarError) {
      self.backend = backend
      self.config = config
      let tokenBytes = 2 * config.kvHeads * config.headDim * backend.kvDType.byteCount
      let local = (profile.sinkPages + profile.recentPages + 2) * KVPage.tokens
      let fits = Self.cacheLimit / (rows * tokenBytes) / KVPage.tokens * KVPage.tokens
      let context = max(min(local, config.context), min(config.context, 1024, fits))
      staging = try BatchStaging(maximumRows: rows, sequences: rows, context: context, on: backend)
      let shape = KVLayer(
        Address(0), pages: staging.pages, kvHeads: config.kvHeads, headDim: config.headDim,
        dtype: backend.kvDType)
      let width = config.heads * config.headDim
      func aligned(_ bytes: Int) -> Int { (bytes + 63) & ~63 }
      let sizes = [
        shape.byteCount, rows * width * 4, rows * width * 4, rows * config.hidden * 4, rows * config.heads,
      ]
      let memory = try backend.allocate(byteCount: sizes.reduce(0) { $0 + aligned($1) })
      self.memory = memory
      var starts: [Address] = []
      var offset = 0
      for size in sizes {
        starts.append(memory.base.advanced(by: offset))
        offset += aligned(size)
      }
      kv = KVLayer(
        starts[0], pages: staging.pages, kvHeads: config.kvHeads, headDim: config.headDim,
        dtype: backend.kvDType)
      query = Tensor(starts[1], rows: rows, columns: width)
      out = Tensor(starts[2], rows: rows, columns: width)
      input = Tensor(starts[3], rows: rows, columns: config.hidden)
      mask = Tensor(starts[4], rows: rows, columns: config.heads, dtype: .u8)
      batch = staging.decode(Array(repeating: 0, count: rows), position: context - 1)
      var generator = SplitMix64(seed: 1)
      let values = (0..<rows * max(width, config.hidden)).map { _ in generator.unitFloat() - 0.5 }
      for tensor in [query, input] {
        values.withUnsafeBytes {
          backend.upload(UnsafeRawBufferPointer(rebasing: $0[..<(tensor.count * 4)]), to: tensor.address)
        }
      }
    }

    func context(_ layer: Int) -> AttentionContext {
      AttentionContext(
        layer: layer, input: input, residual: input, query: query, kv: kv, batch: batch,
        scale: 1 / Float(config.headDim).squareRoot())
    }

    func workspace(for policy: some SparsityPolicy) throws(PolarError) -> Workspace {
      Workspace(try backend.allocate(byteCount: policy.workspaceByteCount(rows: batch.rows) + 4096))
    }

    /// A fraction of every sequence's heads, another set for each.
    func heads(_ density: Double, fallback: FallbackRule) -> ActiveHeads {
      let count = Density.count(density, of: config.heads)
      var values = [UInt8](repeating: 0, count: mask.count)
      for row in 0..<batch.rows {
        for i in 0..<count {
          values[row * config.heads + (i * config.heads / count + row) % config.heads] = 1
        }
      }
      values.withUnsafeBytes { backend.upload($0, to: mask.address) }
      guard case .local(let sink, let recent) = fallback else {
        return ActiveHeads(mask: mask, fallback: .zero)
      }
      return ActiveHeads(mask: mask, fallback: .local(sinkPages: sink, recentPages: recent))
    }

    func attend(_ heads: ActiveHeads?) {
      backend.decodeAttention(
        out, query: query, kv: kv, batch: batch, scale: 1 / Float(config.headDim).squareRoot(),
        heads: heads)
      backend.synchronize()
    }
  }
}
