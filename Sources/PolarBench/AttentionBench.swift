public import PolarCore

/// Times the decode attention op alone, dense beside selective, on a synthetic cache larger than any CPU cache.
public struct AttentionBench: Sendable {
  /// The shape that is measured.
  public struct Shape: Sendable, Codable {
    /// Query heads.
    public var heads: Int
    /// KV heads.
    public var kvHeads: Int
    /// Elements per head.
    public var headDim: Int
    /// Tokens in the cache of each sequence.
    public var context: Int
    /// Sequences.
    public var batch: Int

    /// A shape.
    public init(heads: Int, kvHeads: Int, headDim: Int, context: Int, batch: Int) {
      self.heads = heads
      self.kvHeads = kvHeads
      self.headDim = headDim
      self.context = context
      self.batch = batch
    }

    /// Bytes of K and V of one layer, scales included.
    public func kvBytes(dtype: DType) -> Int {
      batch * ((context + KVPage.tokens - 1) / KVPage.tokens) * kvHeads
        * KVLayer.blockByteCount(headDim: headDim, dtype: dtype)
    }
  }

  /// One density's result; times are medians of interleaved runs.
  public struct Row: Sendable, Codable {
    /// Element type of K and V.
    public var kv: String
    /// Fraction of heads computed in full.
    public var density: Double
    /// What the other heads do.
    public var fallback: String
    /// Seconds of the selective op.
    public var seconds: Double
    /// Seconds of the dense op in the same interleaving.
    public var denseSeconds: Double
    /// Selective over dense time: the median of the ratios of neighbouring runs.
    public var ratio: Double
    /// GB/s at which the dense op reads K and V.
    public var denseBandwidth: Double
  }

  private let backend: any Backend
  private let shape: Shape

  /// A bench of `shape` on `backend`.
  public init(_ backend: any Backend, shape: Shape) {
    self.backend = backend
    self.shape = shape
  }

  /// Measures every density with the `local` fallback (first page, last four), `rounds` interleaved rounds each.
  public func run(densities: [Double], rounds: Int) throws(PolarError) -> [Row] {
    let setup = try Setup(backend, shape)
    var rows: [Row] = []
    for density in densities {
      let selection = setup.select(density: density)
      setup.attend(nil)
      setup.attend(selection)
      var dense: [Double] = []
      var selective: [Double] = []
      for _ in 0..<rounds {
        dense.append(PolarBench.seconds { setup.attend(nil) })
        selective.append(PolarBench.seconds { setup.attend(selection) })
      }
      let denseMedian = median(dense)
      rows.append(
        Row(
          kv: "\(backend.kvDType)", density: density, fallback: "local(1,4)", seconds: median(selective),
          denseSeconds: denseMedian, ratio: median(zip(selective, dense).map { $0 / $1 }),
          denseBandwidth: Double(shape.kvBytes(dtype: backend.kvDType)) / denseMedian / 1e9))
    }
    return rows
  }
}

extension AttentionBench {
  /// The synthetic layer: random queries, a cache filled with small random values, consecutive pages per sequence.
  private struct Setup {
    let backend: any Backend
    let shape: Shape
    let memory: any DeviceMemory
    let kv: KVLayer
    let query: Tensor  // f32 [batch, heads * headDim]
    let out: Tensor  // f32 [batch, heads * headDim]
    let mask: Tensor  // u8 [batch, heads]
    let batch: ForwardBatch

    init(_ backend: any Backend, _ shape: Shape) throws(PolarError) {
      let pagesEach = (shape.context + KVPage.tokens - 1) / KVPage.tokens
      let pages = pagesEach * shape.batch
      let width = shape.heads * shape.headDim
      let dummy = KVLayer(
        Address(0), pages: pages, kvHeads: shape.kvHeads, headDim: shape.headDim,
        dtype: backend.kvDType)
      let vectors = shape.batch * width * 4 + 64
      let scratch = 2 * vectors + shape.batch * (shape.heads + 64 + pagesEach * 4 + 64 * 5) + 4096
      memory = try backend.allocate(byteCount: dummy.byteCount + 4096 + scratch)
      kv = KVLayer(
        memory.base, pages: pages, kvHeads: shape.kvHeads, headDim: shape.headDim,
        dtype: backend.kvDType)
      var next = memory.base.advanced(by: (dummy.byteCount + 4095) & ~4095)
      func take(rows: Int, columns: Int, dtype: DType) -> Tensor {
        defer { next = next.advanced(by: (rows * columns * dtype.byteCount + 63) & ~63) }
        return Tensor(next, rows: rows, columns: columns, dtype: dtype)
      }
      query = take(rows: shape.batch, columns: width, dtype: .f32)
      out = take(rows: shape.batch, columns: width, dtype: .f32)
      mask = take(rows: shape.batch, columns: shape.heads, dtype: .u8)
      func ints(rows: Int = 1, _ values: [Int32]) -> Tensor {
        let tensor = take(rows: rows, columns: values.count / rows, dtype: .i32)
        values.withUnsafeBytes { backend.upload($0, to: tensor.address) }
        return tensor
      }
      let perRow = (0..<shape.batch).map { Int32($0) }
      batch = ForwardBatch(
        tokens: ints(perRow),
        positions: ints(perRow.map { _ in Int32(shape.context - 1) }),
        slots: ints(perRow.map { _ in 0 }),
        rowSequences: ints(perRow),
        blockTables: ints(rows: shape.batch, (0..<pages).map { Int32($0) }),
        logitRows: ints([0]), isDecode: true, longestContext: shape.context)
      self.backend = backend
      self.shape = shape
      fill(pages: pages)
    }

    /// Small values everywhere, pseudo-random ones in bf16 or f32: repeated 1 MiB of them, and random queries.
    private func fill(pages: Int) {
      var state: UInt64 = 0x9E37_79B9_7F4A_7C15
      func random() -> Float {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Float(Int32(truncatingIfNeeded: state >> 33) % 1000) / 1000
      }
      let elements = 1 << 19
      let floats = (0..<elements).map { _ in random() }
      var bytes = [UInt8]()
      bytes.reserveCapacity(elements * kv.dtype.byteCount)
      for value in floats {
        if kv.dtype == .i8 {
          // One code and, two of them, a scale near 0.01.
          bytes.append(0x3c)
        } else if kv.dtype == .bf16 {
          let half = UInt16(truncatingIfNeeded: value.bitPattern >> 16)
          bytes.append(UInt8(truncatingIfNeeded: half))
          bytes.append(UInt8(truncatingIfNeeded: half >> 8))
        } else {
          withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) }
        }
      }
      var offset = 0
      while offset < kv.byteCount {
        let count = min(bytes.count, kv.byteCount - offset)
        bytes.withUnsafeBytes {
          backend.upload(
            UnsafeRawBufferPointer(rebasing: $0[..<count]), to: kv.address.advanced(by: offset))
        }
        offset += count
      }
      let queries = (0..<query.count).map { floats[$0 % elements] }
      queries.withUnsafeBytes { backend.upload($0, to: query.address) }
    }

    /// `density * heads` heads of every sequence, another set for each.
    func select(density: Double) -> ActiveHeads {
      let count = max(1, Int((density * Double(shape.heads)).rounded()))
      var values = [UInt8](repeating: 0, count: shape.batch * shape.heads)
      for sequence in 0..<shape.batch {
        for index in 0..<count {
          // Evenly spread, shifted by sequence.
          let head = (index * shape.heads / count + sequence) % shape.heads
          values[sequence * shape.heads + head] = 1
        }
      }
      values.withUnsafeBytes { backend.upload($0, to: mask.address) }
      return ActiveHeads(mask: mask, fallback: .local(sinkPages: 1, recentPages: 4))
    }

    func attend(_ heads: ActiveHeads?) {
      backend.decodeAttention(
        out, query: query, kv: kv, batch: batch, scale: 1 / Float(shape.headDim).squareRoot(),
        heads: heads)
      backend.synchronize()
    }
  }
}
