public import PolarCore

/// Times the ops that a decode step consists of, by themselves, on data that no cache holds.
public struct OpBench {
  /// One op's time.
  public struct Row: Sendable, Codable {
    /// `attention`, `linear`, `selective` or `router`.
    public var section: String
    /// Shape and variant, such as `32/8 x 128, context 8192`.
    public var shape: String
    /// Rows of the step.
    public var batch: Int
    /// Fraction of heads or neurons computed; 1 is dense.
    public var density: Double
    /// What unselected heads do, or the op's name.
    public var variant: String
    /// Seconds of one call.
    public var seconds: Double
    /// Bytes that it must at least read.
    public var bytes: Int
    /// GB/s at which it reads them.
    public var bandwidth: Double
    /// Time over that of the dense op of the same shape and batch.
    public var ratio: Double
  }

  private let backend: any Backend
  private let timer: DeviceTimer
  /// Bytes of data that one round goes over, beyond what caches hold.
  private let coldBytes: Int

  /// A bench on `backend`.
  /// - Parameters:
  ///   - repeats: timed runs, of which the median counts.
  ///   - coldBytes: bytes over which weights are rotated; several times the largest cache.
  public init(_ backend: any Backend, repeats: Int, coldBytes: Int) {
    self.backend = backend
    self.coldBytes = coldBytes
    timer = DeviceTimer(backend: backend, repeats: repeats)
  }

  private func row(
    _ section: String, _ shape: String, batch: Int, density: Double, _ variant: String, _ seconds: Double,
    bytes: Int, dense: Double
  ) -> Row {
    Row(
      section: section, shape: shape, batch: batch, density: density, variant: variant, seconds: seconds,
      bytes: bytes, bandwidth: Double(bytes) / seconds / 1e9, ratio: seconds / dense)
  }

  // MARK: Attention

  /// Dense decode attention, then selective attention at each density, with zero and with the local fallback.
  public func attention(
    _ shape: AttentionBench.Shape, densities: [Double]
  ) throws(PolarError) -> [Row] {
    try backend.prepare(
      AttentionShape(heads: shape.heads, kvHeads: shape.kvHeads, headDim: shape.headDim))
    let pagesEach = (shape.context + KVPage.tokens - 1) / KVPage.tokens
    let pages = pagesEach * shape.batch
    func layer(_ address: Address) -> KVLayer {
      KVLayer(
        address, pages: pages, kvHeads: shape.kvHeads, headDim: shape.headDim, dtype: backend.kvDType)
    }
    let kvBytes = layer(Address(0)).byteCount
    let width = shape.heads * shape.headDim
    let copies = max(1, min(8, coldBytes / max(1, kvBytes)))
    var memory = try BenchMemory(
      copies * kvBytes + shape.batch * (8 * width + shape.heads + 4 * pagesEach + 2048) + 1 << 16,
      on: backend)
    let layers = (0..<copies).map { _ in layer(memory.take(columns: kvBytes, dtype: .u8).address) }
    let query = memory.take(rows: shape.batch, columns: width)
    let out = memory.take(rows: shape.batch, columns: width)
    let mask = memory.take(rows: shape.batch, columns: shape.heads, dtype: .u8)
    let rows = (0..<shape.batch).map { Int32($0) }
    let batch = ForwardBatch(
      tokens: memory.integers(rows),
      positions: memory.integers(rows.map { _ in Int32(shape.context - 1) }),
      slots: memory.integers(rows), rowSequences: memory.integers(rows),
      blockTables: memory.integers((0..<Int32(pages)).map { $0 }, rows: shape.batch),
      logitRows: memory.integers([0]), isDecode: true, longestContext: shape.context)
    func attend(_ heads: ActiveHeads?) -> Double {
      timer.seconds(inner: 2 * copies) { index in
        backend.decodeAttention(
          out, query: query, kv: layers[index % copies], batch: batch,
          scale: 1 / Float(shape.headDim).squareRoot(), heads: heads)
      }
    }
    let text = "\(shape.heads)/\(shape.kvHeads) x \(shape.headDim), context \(shape.context)"
    let total = shape.kvBytes(dtype: backend.kvDType)
    let dense = attend(nil)
    var results = [
      row("attention", text, batch: shape.batch, density: 1, "dense", dense, bytes: total, dense: dense)
    ]
    let group = shape.heads / shape.kvHeads
    for density in densities {
      let count = max(1, Int((density * Double(shape.kvHeads)).rounded()))
      selectGroups(mask, count, of: shape.kvHeads, group: group)
      for (name, fallback) in [
        ("zero", HeadFallback.zero), ("local(1,4)", .local(sinkPages: 1, recentPages: 4)),
      ] {
        let seconds = attend(ActiveHeads(mask: mask, fallback: fallback))
        results.append(
          row(
            "attention", text, batch: shape.batch, density: Double(count) / Double(shape.kvHeads), name,
            seconds, bytes: total * count / shape.kvHeads, dense: dense))
      }
    }
    return results
  }

  /// `count` whole groups of every row, another set for each.
  private func selectGroups(_ mask: Tensor, _ count: Int, of groups: Int, group: Int) {
    var values = [UInt8](repeating: 0, count: mask.count)
    for row in 0..<mask.rows {
      for index in 0..<count {
        let chosen = (index * groups / count + row) % groups
        for head in 0..<group { values[row * mask.columns + chosen * group + head] = 1 }
      }
    }
    values.withUnsafeBytes { backend.upload($0, to: mask.address) }
  }

  // MARK: Linear layers

  /// A linear layer at several batch sizes.
  public func linear(outputs: Int, inputs: Int, batches: [Int]) throws(PolarError) -> [Row] {
    let bytes = backend.packedByteCount(outputs: outputs, inputs: inputs)
    let copies = max(1, min(32, coldBytes / bytes))
    let most = batches.max() ?? 1
    var memory = try BenchMemory(
      copies * (bytes + 256) + most * (inputs + outputs) * 4 + 1 << 16, on: backend)
    let weights = (0..<copies).map { _ in memory.matrix(outputs: outputs, inputs: inputs) }
    let x = memory.take(rows: most, columns: inputs)
    let out = memory.take(rows: most, columns: outputs)
    return batches.map { batch in
      let seconds = timer.seconds(inner: max(4, copies)) { index in
        backend.linear(
          out.rows(0..<batch), x.rows(0..<batch), weight: weights[index % copies], bias: nil)
      }
      return row(
        "linear", "\(outputs) x \(inputs)", batch: batch, density: 1, "linear", seconds,
        bytes: outputs * inputs * 2, dense: seconds)
    }
  }

  // MARK: Routers

  /// Routers with their choice: of `units` heads from `hidden` inputs, and of `neurons` through a middle of `rank`.
  public func routers(
    hidden: Int, units: Int, neurons: Int, rank: Int, batches: [Int]
  ) throws(PolarError) -> [Row] {
    func bytes(_ outputs: Int, _ inputs: Int) -> Int {
      backend.packedByteCount(outputs: outputs, inputs: inputs) + 256
    }
    let set = bytes(units, hidden) + bytes(rank, hidden) + bytes(neurons, rank)
    let copies = max(1, min(16, coldBytes / set))
    let most = batches.max() ?? 1
    var memory = try BenchMemory(
      copies * (set + 1024) + most * (hidden + rank + 2 * units + neurons) * 4 + neurons * 8 + 1 << 16,
      on: backend)
    let sets = (0..<copies).map { _ in
      (
        HeadRouterMatrices(
          weight: memory.matrix(outputs: units, inputs: hidden), bias: memory.take(columns: units)),
        memory.matrix(outputs: rank, inputs: hidden), memory.matrix(outputs: neurons, inputs: rank)
      )
    }
    let (x, middle) = (memory.take(rows: most, columns: hidden), memory.take(rows: most, columns: rank))
    let (mask, scores) = (
      memory.take(rows: most, columns: units, dtype: .u8), memory.take(rows: most, columns: units)
    )
    let (rows, aggregate) = (memory.take(rows: most, columns: neurons), memory.take(columns: neurons))
    let list = ActiveNeurons(
      indices: memory.integers(Array(repeating: 0, count: neurons)), count: memory.integers([0]))
    func choose(_ index: Int, _ batch: Int, _ choice: ScoreChoice) {
      let (_, down, up) = sets[index % copies]
      backend.linear(middle.rows(0..<batch), x.rows(0..<batch), weight: down, bias: nil)
      backend.routeNeurons(
        list, middle.rows(0..<batch), weight: up, scores: rows.rows(0..<batch), aggregate: aggregate,
        choice: choice)
    }
    return batches.flatMap { batch -> [Row] in
      let heads = timer.seconds(inner: max(4, copies)) { index in
        backend.routeHeads(
          mask.rows(0..<batch), scores: scores.rows(0..<batch), x.rows(0..<batch),
          router: sets[index % copies].0, scratch: nil, choice: .largest((units + 1) / 2), headsPerUnit: 1)
      }
      let aggregated = timer.seconds(inner: max(4, copies)) { choose($0, batch, .largest(neurons / 10)) }
      let union = timer.seconds(inner: max(4, copies)) { choose($0, batch, .above(0)) }
      let neuronBytes = (rank * hidden + neurons * rank) * 2
      return [
        row(
          "router", "\(units) heads of \(hidden)", batch: batch, density: 1, "heads", heads,
          bytes: units * hidden * 2, dense: heads),
        row(
          "router", "\(neurons) neurons, rank \(rank), of \(hidden)", batch: batch, density: 1,
          "neurons, top-k", aggregated, bytes: neuronBytes, dense: aggregated),
        row(
          "router", "\(neurons) neurons, rank \(rank), of \(hidden)", batch: batch, density: 1,
          "neurons, union", union, bytes: neuronBytes, dense: union),
      ]
    }
  }

  // MARK: Selective MLP

  /// Both halves of an MLP of `neurons` neurons: for each a dense linear layer, then the selective product at each density.
  public func selective(
    hidden: Int, neurons: Int, densities: [Double], batches: [Int]
  ) throws(PolarError) -> [Row] {
    let bytes = max(
      backend.packedByteCount(outputs: neurons, inputs: hidden),
      backend.packedByteCount(outputs: hidden, inputs: neurons),
      backend.neuronByteCount(neurons: neurons, columns: hidden))
    let copies = max(1, min(8, coldBytes / bytes))
    let most = batches.max() ?? 1
    var memory = try BenchMemory(
      copies * (bytes + 256) + most * 2 * (hidden + neurons) * 4 + neurons * 4 + 1 << 16, on: backend)
    let places = (0..<copies).map { _ in memory.take(columns: bytes, dtype: .u8).address }
    let (x, activations) = (
      memory.take(rows: most, columns: hidden), memory.take(rows: most, columns: neurons)
    )
    let (up, down) = (memory.take(rows: most, columns: neurons), memory.take(rows: most, columns: hidden))
    // Room for the longest list and its count.
    let active = ActiveNeurons(
      indices: memory.integers(Array(repeating: 0, count: neurons)), count: memory.integers([0]))
    func neuronWeight(_ index: Int) -> Tensor {
      backend.neuronWeight(places[index % copies], neurons: neurons, columns: hidden)
    }
    var results: [Row] = []
    for batch in batches {
      let (x, activations) = (x.rows(0..<batch), activations.rows(0..<batch))
      let (up, down) = (up.rows(0..<batch), down.rows(0..<batch))
      func rows(_ half: String, _ dense: (Int) -> Void, _ selective: (Int) -> Void) {
        func add(
          _ density: Double, _ variant: String, _ count: Int, over dense: Double?, _ body: (Int) -> Void
        ) {
          let seconds = timer.seconds(inner: max(4, copies), body)
          results.append(
            row(
              "selective", "\(neurons) x \(hidden)", batch: batch, density: density, "\(variant) \(half)",
              seconds, bytes: count * hidden * 2, dense: dense ?? seconds))
        }
        add(1, "dense", neurons, over: nil, dense)
        let denseSeconds = results.last?.seconds
        for density in densities {
          let count = max(1, Int((density * Double(neurons)).rounded()))
          choose(count, of: neurons, active)
          add(Double(count) / Double(neurons), "selective", count, over: denseSeconds, selective)
        }
      }
      func matrix(_ index: Int, _ outputs: Int, _ inputs: Int) -> PackedMatrix {
        PackedMatrix(
          places[index % copies], outputs: outputs, inputs: inputs, format: backend.wideFormat)
      }
      rows("up") {
        backend.linear(up, x, weight: matrix($0, neurons, hidden), bias: nil)
      } _: {
        backend.selectiveUp(up, x, weight: neuronWeight($0), bias: nil, threshold: 0, neurons: active)
      }
      rows("down") {
        backend.linear(down, activations, weight: matrix($0, hidden, neurons), bias: nil)
      } _: {
        backend.selectiveDown(down, activations, weight: neuronWeight($0), bias: nil, neurons: active)
      }
    }
    return results
  }

  /// Lists `count` neurons out of `all`, evenly spread.
  private func choose(_ count: Int, of all: Int, _ active: ActiveNeurons) {
    let list = (0..<count).map { Int32($0 * all / count) }
    list.withUnsafeBytes { backend.upload($0, to: active.indices.address) }
    withUnsafeBytes(of: Int32(count)) { backend.upload($0, to: active.count.address) }
  }
}
