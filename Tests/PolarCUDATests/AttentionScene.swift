import CPolarCUDA
import PolarCore
import PolarReference

/// A batch for the attention kernels: K and V in pages in random order, NaN wherever no kernel may look.
struct AttentionScene {
  var kvHeads = 2
  var group = 4
  var headDim = 64
  /// Positions of each sequence that are rows of the batch. An empty range is a padding row of a decode step.
  var sequences: [Range<Int>] = [0..<1]
  var window: Int?
  /// The seed of all values.
  var seed: UInt64 = 1

  var heads: Int { kvHeads * group }
  var rows: Int { sequences.reduce(0) { $0 + max(1, $1.count) } }

  enum Fallback {
    case zero
    case constant
    case computed
    case local(sinkPages: Int, recentPages: Int)

    var code: Int32 {
      switch self {
      case .zero: Int32(POLAR_FALLBACK_ZERO)
      case .constant: Int32(POLAR_FALLBACK_CONSTANT)
      case .computed: Int32(POLAR_FALLBACK_COMPUTED)
      case .local: Int32(POLAR_FALLBACK_LOCAL)
      }
    }
    /// Sink and recent pages; 0 where there are none.
    var pages: (sink: Int, recent: Int) {
      if case .local(let sink, let recent) = self { return (sink, recent) }
      return (0, 0)
    }
  }

  /// What the scene's seed makes of it.
  struct Values {
    let layout: BatchLayout
    let key: HostTensor<Float>
    let value: HostTensor<Float>
    let query: HostTensor<Float>
    /// A mask `[rows, heads]` in which selected heads differ by row.
    let mask: HostTensor<UInt8>
    /// `[heads, headDim]` of the constant fallback, `[rows, heads * headDim]` of the computed one.
    let constants: HostTensor<Float>
    let computed: HostTensor<Float>
  }

  func values() -> Values {
    var generator = SplitMix64(seed: seed, label: "attention scene")
    let layout = BatchLayout(sequences, shuffledBy: &generator)
    let positions = sequences.reduce(0) { $0 + $1.upperBound }
    return Values(
      layout: layout,
      key: generator.matrix(positions, kvHeads * headDim),
      value: generator.matrix(positions, kvHeads * headDim),
      query: generator.matrix(rows, heads * headDim, scale: 4),
      mask: HostTensor(
        (0..<rows * heads).map { _ in UInt8.random(in: 0...1, using: &generator) }, rows: rows, columns: heads
      ),
      constants: generator.matrix(heads, headDim), computed: generator.matrix(rows, heads * headDim))
  }

  // MARK: Reference

  /// The reference's result, `[rows, heads * headDim]`; `mask` nil is dense. Padding rows are zero.
  func expected(
    _ values: Values, mask: HostTensor<UInt8>? = nil, fallback: Fallback = .zero,
    prefill span: AttentionSpan? = nil
  ) throws(PolarError) -> HostTensor<Float> {
    let pool = TensorPool(ReferenceBackend())
    var kv = try pool.cache(pages: values.layout.pageCount, kvHeads: kvHeads, headDim: headDim)
    kv = KVLayer(
      kv.address, pages: kv.pages, kvHeads: kvHeads, headDim: headDim, dtype: kv.dtype, window: window)
    pool.backend.storeKV(
      kv, key: try pool.tensor(values.key), value: try pool.tensor(values.value),
      slots: try pool.tensor(HostTensor(Self.contextSlots(values.layout))))
    let real = sequences.indices.filter { !sequences[$0].isEmpty }
    let layout = BatchLayout(real.map { values.layout.sequences[$0] })
    let realRows = rowIndices.indices.filter { rowIndices[$0] != nil }
    let query = try pool.tensor(values.query.rows(realRows))
    let out = try pool.output(rows: realRows.count, columns: query.columns)
    let batch = try pool.batch(layout)
    let scale = 1 / Float(headDim).squareRoot()
    if let span {
      pool.backend.prefillAttention(out, query: query, kv: kv, batch: batch, scale: scale, span: span)
    } else {
      var heads: ActiveHeads?
      if let mask {
        let instead: HeadFallback =
          switch fallback {
          case .zero: .zero
          case .constant: .constant(try pool.tensor(values.constants))
          case .computed: .computed(try pool.tensor(values.computed.rows(realRows)))
          case .local(let sink, let recent): .local(sinkPages: sink, recentPages: recent)
          }
        heads = ActiveHeads(mask: try pool.tensor(mask.rows(realRows)), fallback: instead)
      }
      pool.backend.decodeAttention(out, query: query, kv: kv, batch: batch, scale: scale, heads: heads)
    }
    let result = pool.read(out)
    var all = HostTensor<Float>(repeating: 0, rows: rows, columns: query.columns)
    for (index, row) in realRows.enumerated() {
      for column in 0..<query.columns { all[row, column] = result[index, column] }
    }
    return all
  }

  /// The position of each row, nil for padding.
  private var rowIndices: [Int?] { sequences.flatMap { $0.isEmpty ? [nil] : $0.map(Optional.some) } }

  private static func contextSlots(_ layout: BatchLayout) -> [Int32] {
    layout.sequences.flatMap { sequence in (0..<sequence.positions.upperBound).map(sequence.slot) }
  }

  // MARK: Kernels

  /// A batch in kernel memory, with its cache filled by `polar_store_kv`.
  struct Loaded {
    let cache: KernelBuffer<UInt16>
    let query: KernelMatrix
    let tables: KernelBuffer<Int32>
    let positions: KernelBuffer<Int32>
    let sequences: KernelBuffer<Int32>
    let maximumPages: Int
  }

  func load(_ values: Values, _ kernels: EmulatedKernels) throws -> Loaded {
    // Two pages more than are used: NaN, and what tables are filled up with.
    let pages = values.layout.pageCount + 2
    let cache = KernelBuffer<UInt16>(count: pages * 2 * kvHeads * 16 * headDim)
    let key = KernelMatrix(values.key, gap: 3)
    let value = KernelMatrix(values.value, gap: 1)
    var store = PolarStoreKVArgs()
    store.kv = cache.address
    (store.key, store.value) = (key.address, value.address)
    let slots = KernelBuffer(Self.contextSlots(values.layout))
    store.slots = slots.address
    (store.key_stride, store.value_stride) = (key.stride32, value.stride32)
    store.kv_heads = Int32(kvHeads)
    if values.key.rows > 0 {
      try kernels.launch(
        "polar_store_kv", headDim: headDim, grid: (values.key.rows, kvHeads, 1), block: 64, store)
    }

    let maximumPages = max(1, values.layout.sequences.map(\.pages.count).max() ?? 1)
    let tables = values.layout.sequences.flatMap { sequence in
      sequence.pages + Array(repeating: Int32(pages - 1), count: maximumPages - sequence.pages.count)
    }
    let positions = rowIndices.map { Int32($0 ?? -1) }
    let sequences = sequences.enumerated().flatMap { index, range in
      Array(repeating: Int32(index), count: max(1, range.count))
    }
    return Loaded(
      cache: cache, query: KernelMatrix(values.query, gap: 1), tables: KernelBuffer(tables),
      positions: KernelBuffer(positions), sequences: KernelBuffer(sequences), maximumPages: maximumPages)
  }

  /// A decode step by plan, decode and combine.
  func decode(
    _ values: Values, mask: HostTensor<UInt8>? = nil, fallback: Fallback = .zero, blocks: Int = 5,
    _ kernels: EmulatedKernels
  ) throws -> HostTensor<Float> {
    let batch = try load(values, kernels)
    let out = KernelMatrix(rows: rows, columns: heads * headDim, gap: 2)
    let maskBuffer = mask.map { KernelBuffer($0.values) }
    let maskAddress = maskBuffer?.address ?? 0
    let (sink, recent) = fallback.pages
    let perEntry =
      ceilDiv(batch.maximumPages, Int(POLAR_CHUNK_PAGES)) + ceilDiv(sink + recent, Int(POLAR_CHUNK_PAGES))
    let chunkCount = rows * kvHeads * perEntry
    let first = KernelBuffer<Int32>(count: rows * kvHeads * 2 + 1)
    let chunks = KernelBuffer<PolarAttentionChunk>(count: chunkCount)
    let ranges = KernelBuffer<Int32>(count: blocks + 1)

    var plan = PolarAttentionPlanArgs()
    (plan.positions, plan.mask) = (batch.positions.address, maskAddress)
    (plan.first_chunk, plan.chunks, plan.ranges) = (first.address, chunks.address, ranges.address)
    (plan.rows, plan.heads, plan.kv_heads) = (Int32(rows), Int32(heads), Int32(kvHeads))
    plan.mask_stride = Int32(heads)
    plan.window = Int32(window ?? 0)
    plan.fallback = fallback.code
    (plan.sink_pages, plan.recent_pages) = (Int32(sink), Int32(recent))
    plan.blocks = Int32(blocks)
    try kernels.launch(
      "polar_attention_plan", headDim: headDim, grid: (1, 1, 1), block: Int(POLAR_PLAN_THREADS), plan)

    let partial = KernelBuffer<Float>(count: chunkCount * group * headDim)
    let sums = KernelBuffer<Float>(count: chunkCount * group * 2)
    var decode = PolarAttentionDecodeArgs()
    (decode.query, decode.kv, decode.tables) = (
      batch.query.address, batch.cache.address, batch.tables.address
    )
    (decode.positions, decode.mask) = (plan.positions, plan.mask)
    (decode.chunks, decode.ranges) = (plan.chunks, plan.ranges)
    (decode.out, decode.partial_out, decode.partial_sums) = (out.address, partial.address, sums.address)
    (decode.rows, decode.heads, decode.kv_heads) = (plan.rows, plan.heads, plan.kv_heads)
    (decode.query_stride, decode.out_stride) = (batch.query.stride32, out.stride32)
    (decode.table_stride, decode.mask_stride) = (Int32(batch.maximumPages), plan.mask_stride)
    (decode.window, decode.fallback) = (plan.window, plan.fallback)
    (decode.sink_pages, decode.recent_pages) = (plan.sink_pages, plan.recent_pages)
    decode.scale = 1 / Float(headDim).squareRoot()
    try kernels.launch(
      "polar_attention_decode", headDim: headDim, grid: (blocks, 1, 1),
      block: Int(polar_decode_threads(Int32(headDim))),
      shared: Int(polar_decode_shared(Int32(headDim))), decode)

    let fallbackValues: KernelMatrix? =
      switch fallback {
      case .constant: KernelMatrix(values.constants, gap: 1)
      case .computed: KernelMatrix(values.computed, gap: 3)
      case .zero, .local: nil
      }
    var combine = PolarAttentionCombineArgs()
    (combine.positions, combine.mask, combine.first_chunk) = (plan.positions, plan.mask, plan.first_chunk)
    (combine.out, combine.partial_out, combine.partial_sums) = (out.address, partial.address, sums.address)
    (combine.values, combine.values_stride) = (fallbackValues?.address ?? 0, fallbackValues?.stride32 ?? 0)
    (combine.heads, combine.kv_heads) = (plan.heads, plan.kv_heads)
    (combine.out_stride, combine.mask_stride) = (out.stride32, plan.mask_stride)
    combine.fallback = fallback.code
    try kernels.launch(
      "polar_attention_combine", headDim: headDim, grid: (kvHeads, rows, 1),
      block: Int(POLAR_COMBINE_THREADS), combine)
    guard out.isIntact, first.isIntact, chunks.isIntact, ranges.isIntact, partial.isIntact, sums.isIntact
    else {
      throw EmulatorFailure(description: "wrote outside of its tensors")
    }
    return out.host
  }

  /// Attention of all rows by the prefill kernel.
  func prefill(
    _ values: Values, span: AttentionSpan = .full, _ kernels: EmulatedKernels
  ) throws -> HostTensor<Float> {
    let batch = try load(values, kernels)
    let out = KernelMatrix(rows: rows, columns: heads * headDim, gap: 3)
    var args = PolarAttentionPrefillArgs()
    (args.query, args.kv, args.tables) = (batch.query.address, batch.cache.address, batch.tables.address)
    (args.positions, args.sequences, args.out) = (
      batch.positions.address, batch.sequences.address, out.address
    )
    (args.rows, args.heads, args.kv_heads) = (Int32(rows), Int32(heads), Int32(kvHeads))
    (args.query_stride, args.out_stride) = (batch.query.stride32, out.stride32)
    args.table_stride = Int32(batch.maximumPages)
    args.window = Int32(window ?? 0)
    if case .local(let sink, let recent) = span {
      (args.local, args.sink_pages, args.recent_pages) = (1, Int32(sink), Int32(recent))
    }
    args.scale = 1 / Float(headDim).squareRoot()
    try kernels.launch(
      "polar_attention_prefill", headDim: headDim,
      grid: (ceilDiv(rows, Int(POLAR_PREFILL_ROWS) / group), kvHeads, 1), block: Int(POLAR_PREFILL_THREADS),
      shared: Int(polar_prefill_shared(Int32(headDim))), args)
    guard out.isIntact else { throw EmulatorFailure(description: "wrote outside of its tensors") }
    return out.host
  }
}

func ceilDiv(_ a: Int, _ b: Int) -> Int { (a + b - 1) / b }
