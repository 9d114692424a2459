public import PolarCore

/// Times a ReLU MLP alone: dense, selective at several densities, and by gathering the rows first; weights come from
/// memory, since every run uses another copy of them. It finds the density above which selecting does not pay.
public struct MLPBench: Sendable {
  /// The shape that is measured.
  public struct Shape: Sendable, Codable {
    /// Width of the residual stream.
    public var hidden: Int
    /// Neurons of the MLP.
    public var neurons: Int
    /// Width of the router between its two maps.
    public var rank: Int

    /// A shape.
    public init(hidden: Int, neurons: Int, rank: Int) {
      self.hidden = hidden
      self.neurons = neurons
      self.rank = rank
    }

    /// Bytes of the weights of up and down in bf16.
    public var weightBytes: Int { 4 * hidden * neurons }
  }

  /// One batch size and density; times are medians of interleaved runs, in seconds.
  public struct Row: Sendable, Codable {
    /// Rows of the batch.
    public var batch: Int
    /// Fraction of the neurons that is computed.
    public var density: Double
    /// Up and down of the chosen neurons.
    public var seconds: Double
    /// Router, union and list.
    public var routerSeconds: Double
    /// Copying the chosen rows together, then the same.
    public var gatherSeconds: Double
    /// Up, ReLU and down by linear layers.
    public var denseSeconds: Double
    /// Selective over dense, without the router: the median of the ratios of neighbouring runs.
    public var ratio: Double
    /// The least time of the selective MLP over its time: its weights read once, or multiplied at the peak.
    public var floorFraction: Double
  }

  private let backend: any Backend
  private let shape: Shape
  private let limits: MachineLimits

  /// A bench of `shape` on `backend`, whose limits give the floor.
  public init(_ backend: any Backend, shape: Shape, limits: MachineLimits) {
    self.backend = backend
    self.shape = shape
    self.limits = limits
  }

  /// Measures every density at one batch size, `rounds` interleaved rounds.
  public func run(batch: Int, densities: [Double], rounds: Int) throws(PolarError) -> [Row] {
    let setup = try Setup(backend, shape, batch: batch)
    var router: [Double] = []
    var dense = densities.map { _ in [Double]() }
    var (selective, gather) = (dense, dense)
    // The first round warms up.
    for round in 0...rounds {
      let routerSeconds = setup.seconds { $0.route(k: shape.neurons / 10) }
      if round > 0 { router.append(routerSeconds) }
      for (index, density) in densities.enumerated() {
        setup.choose(density: density, seed: UInt64(round * densities.count + index))
        // Dense comes first and fills the caches with what nothing else reads.
        let denseSeconds = setup.seconds { $0.dense() }
        let seconds = setup.seconds { $0.selective() }
        let gathered = setup.seconds { $0.gatherThenDense() }
        guard round > 0 else { continue }
        dense[index].append(denseSeconds)
        selective[index].append(seconds)
        gather[index].append(gathered)
      }
    }
    let work = Double(4 * shape.hidden * shape.neurons * batch)
    let floor = max(
      Double(shape.weightBytes) / (limits.readBandwidth * 1e9), work / (limits.arithmeticPeak * 1e9))
    return densities.enumerated().map { index, density in
      let seconds = median(selective[index])
      return Row(
        batch: batch, density: density, seconds: seconds, routerSeconds: median(router),
        gatherSeconds: median(gather[index]), denseSeconds: median(dense[index]),
        ratio: median(zip(selective[index], dense[index]).map { $0 / $1 }),
        floorFraction: density * floor / seconds)
    }
  }

  /// The density at which the selective MLP with its router takes as long as the dense one, interpolated between the
  /// measured `rows` of one batch size; 0 when it never pays, the largest measured density when it always does.
  public static func breakEven(_ rows: [Row]) -> Double {
    let sorted = rows.sorted { $0.density < $1.density }
    func excess(_ row: Row) -> Double { row.ratio * row.denseSeconds + row.routerSeconds - row.denseSeconds }
    guard let over = sorted.firstIndex(where: { excess($0) > 0 }) else { return sorted.last?.density ?? 0 }
    guard over > 0 else { return 0 }
    let (a, b) = (sorted[over - 1], sorted[over])
    let t = -excess(a) / (excess(b) - excess(a))
    return a.density + t * (b.density - a.density)
  }
}

extension MLPBench {
  /// Random weights in both layouts, several copies of them, and room for activations.
  private final class Setup {
    private let backend: any Backend
    private let shape: Shape
    private let memory: any DeviceMemory
    private let copies: Int
    private var up: [Tensor] = []
    private var down: [Tensor] = []
    private var panelUp: [PackedMatrix] = []
    private var panelDown: [PackedMatrix] = []
    private let routerDown: PackedMatrix
    private let routerUp: PackedMatrix
    private let x: Tensor
    private let middle: Tensor
    private let scores: Tensor
    private let aggregate: Tensor
    private let h: Tensor
    private let out: Tensor
    private let gathered: (up: Tensor, down: Tensor)
    private let list: ActiveNeurons
    private let routed: ActiveNeurons
    private var count = 0
    private var turns = (panels: 0, rows: 0)

    init(_ backend: any Backend, _ shape: Shape, batch: Int) throws(PolarError) {
      self.backend = backend
      self.shape = shape
      let (d, n, r) = (shape.hidden, shape.neurons, shape.rank)
      let rowBytes = 2 * backend.neuronByteCount(neurons: n, columns: d)
      let panelBytes =
        backend.packedByteCount(outputs: n, inputs: d) + backend.packedByteCount(outputs: d, inputs: n)
      // Enough copies that none is in a cache when its turn comes again.
      copies = max(3, min(64, (256 << 20) / max(1, rowBytes)))
      let vectors = 4 * (2 * batch * d + 2 * batch * n + batch * r + 3 * n) + 64 * 32
      memory = try backend.allocate(
        byteCount: copies * (rowBytes + panelBytes + 256) + rowBytes
          + backend.packedByteCount(outputs: r, inputs: d) + backend.packedByteCount(outputs: n, inputs: r)
          + vectors)
      var next = memory.base
      func take(_ bytes: Int) -> Address {
        defer { next = next.advanced(by: (bytes + 63) & ~63) }
        return next
      }
      func tensor(_ rows: Int, _ columns: Int, _ dtype: DType = .f32) -> Tensor {
        Tensor(take(rows * columns * dtype.byteCount), rows: rows, columns: columns, dtype: dtype)
      }
      var generator = SplitMix64(seed: 1)
      // Values that bf16 holds exactly, small so that sums stay in range.
      let values = (0..<n * d).map { _ in Float(Int(generator.next() >> 57) - 64) / 1024 }
      func neurons() -> Tensor { backend.neuronWeight(take(rowBytes / 2), neurons: n, columns: d) }
      /// The values as rows, zero between them, each as `element` makes it.
      func upload<Element: ExpressibleByIntegerLiteral>(to tensor: Tensor, _ element: (Float) -> Element) {
        var image = [Element](repeating: 0, count: n * tensor.rowStride)
        for row in 0..<n {
          for column in 0..<d { image[row * tensor.rowStride + column] = element(values[row * d + column]) }
        }
        image.withUnsafeBytes { backend.upload($0, to: tensor.address) }
      }
      func rows() -> Tensor {
        let tensor = neurons()
        switch backend.neuronDType {
        case .bf16: upload(to: tensor) { UInt16($0.bitPattern >> 16) }
        case .f16: upload(to: tensor) { Float16($0).bitPattern }
        default: upload(to: tensor) { $0 }
        }
        return tensor
      }
      func pack(outputs: Int, inputs: Int) -> PackedMatrix {
        let matrix = PackedMatrix(
          take(backend.packedByteCount(outputs: outputs, inputs: inputs)), outputs: outputs, inputs: inputs)
        values.withUnsafeBufferPointer {
          backend.packRows(
            matrix, firstRow: 0, values: UnsafeBufferPointer(rebasing: $0[..<(outputs * inputs)]))
        }
        return matrix
      }
      for _ in 0..<copies {
        up.append(rows())
        down.append(rows())
        panelUp.append(pack(outputs: n, inputs: d))
        panelDown.append(pack(outputs: d, inputs: n))
      }
      routerDown = pack(outputs: r, inputs: d)
      routerUp = pack(outputs: n, inputs: r)
      gathered = (neurons(), neurons())
      x = tensor(batch, d)
      out = tensor(batch, d)
      middle = tensor(batch, r)
      scores = tensor(batch, n)
      h = tensor(batch, n)
      aggregate = tensor(1, n)
      list = ActiveNeurons(indices: tensor(1, n, .i32), count: tensor(1, 1, .i32))
      routed = ActiveNeurons(indices: tensor(1, n, .i32), count: tensor(1, 1, .i32))
      let inputs = (0..<batch * d).map { _ in generator.unitFloat() - 0.5 }
      inputs.withUnsafeBytes { backend.upload($0, to: x.address) }
    }

    /// Puts a random `density` of the neurons on the list.
    func choose(density: Double, seed: UInt64) {
      var generator = SplitMix64(seed: seed)
      count = max(1, Int(density * Double(shape.neurons)))
      var indices: [Int32] = []
      indices.reserveCapacity(count)
      // Selection sampling: each is taken with the chance that is needed of those left.
      for n in 0..<shape.neurons
      where generator.next() % UInt64(shape.neurons - n) < UInt64(count - indices.count) {
        indices.append(Int32(n))
      }
      indices.withUnsafeBytes { backend.upload($0, to: list.indices.address) }
      withUnsafeBytes(of: Int32(count)) { backend.upload($0, to: list.count.address) }
      backend.synchronize()
    }

    /// The time of `work` right after other ops, as in a decode step: a thread that has nothing to do for a while parks,
    /// and waking it takes longer than some of these ops.
    func seconds(_ work: (Setup) -> Void) -> Double {
      for _ in 0..<2 { backend.linear(middle, x, weight: routerDown, bias: nil) }
      backend.synchronize()
      return PolarBench.seconds { work(self) }
    }

    func dense() {
      turns.panels += 1
      let copy = turns.panels % copies
      backend.linear(h, x, weight: panelUp[copy], bias: nil)
      backend.relu(h)
      backend.linear(out, h, weight: panelDown[copy], bias: nil)
      backend.synchronize()
    }

    func selective() {
      turns.rows += 1
      let copy = turns.rows % copies
      backend.selectiveUp(h, x, weight: up[copy], bias: nil, threshold: 0, neurons: list)
      backend.selectiveDown(out, h, weight: down[copy], bias: nil, neurons: list)
      backend.synchronize()
    }

    func gatherThenDense() {
      turns.rows += 1
      let copy = turns.rows % copies
      let chosen = Tensor(list.indices.address, columns: count, dtype: .i32)
      func gather(_ weight: Tensor, to copy: Tensor) -> Tensor {
        let rows = copy.rows(0..<count)
        // Rows of bf16 are moved as rows of half as many 32-bit words.
        func words(_ tensor: Tensor) -> Tensor {
          let ratio = 4 / tensor.dtype.byteCount
          return Tensor(
            tensor.address, rows: tensor.rows, columns: tensor.columns / ratio,
            rowStride: tensor.rowStride / ratio)
        }
        backend.gatherRows(words(rows), words(weight), indices: chosen)
        return rows
      }
      let a = gather(up[copy], to: gathered.up)
      backend.selectiveUp(h, x, weight: a, bias: nil, threshold: 0, neurons: nil)
      let b = gather(down[copy], to: gathered.down)
      backend.selectiveDown(out, h, weight: b, bias: nil, neurons: nil)
      backend.synchronize()
    }

    /// Scores, the aggregate and a list of `k`.
    func route(k: Int) {
      backend.linear(middle, x, weight: routerDown, bias: nil)
      backend.linear(scores, middle, weight: routerUp, bias: nil)
      backend.topKUnion(routed, sums: aggregate, scores: scores, k: k)
      backend.synchronize()
    }
  }
}
