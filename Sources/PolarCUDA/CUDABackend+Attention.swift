// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCUDA
public import PolarCore
import Synchronization

extension CUDABackend {
  public func rotaryStoreKV(
    _ kv: KVLayer, _ x: Tensor, heads: Int, positions: Tensor, inverseFrequencies: Tensor, slots: Tensor
  ) {
    guard hasAttention(headDim: kv.headDim) else { return }
    launch(
      .rotaryStoreKV, headDim: kv.headDim, LaunchGeometry(grid: slots.count, kv.kvHeads, block: 64),
      PolarRotaryStoreKVArgs(
        kv: kv.address.device, x: x.device, positions: positions.device,
        inverse_frequencies: inverseFrequencies.device, slots: slots.device, heads: Int32(heads),
        kv_heads: Int32(kv.kvHeads), x_stride: x.stride, reserved: 0), op: "rotaryStoreKV")
  }

  public func storeKV(_ kv: KVLayer, key: Tensor, value: Tensor, slots: Tensor) {
    guard hasAttention(headDim: kv.headDim) else { return }
    launch(
      .storeKV, headDim: kv.headDim, LaunchGeometry(grid: slots.count, kv.kvHeads, block: 64),
      PolarStoreKVArgs(
        kv: kv.address.device, key: key.device, value: value.device, slots: slots.device,
        kv_heads: Int32(kv.kvHeads), key_stride: key.stride, value_stride: value.stride, reserved: 0),
      op: "storeKV")
  }

  public func prefillAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, span: AttentionSpan
  ) {
    guard hasAttention(headDim: kv.headDim), batch.rows > 0 else { return }
    let heads = query.columns / kv.headDim
    var local = LocalPages()
    if case .local(let sinkPages, let recentPages) = span { local = LocalPages(sinkPages, recentPages) }
    let tokens = Int(POLAR_PREFILL_ROWS) / max(1, heads / kv.kvHeads)
    launch(
      .attentionPrefill, headDim: kv.headDim,
      LaunchGeometry(
        grid: ceilDiv(batch.rows, tokens), kv.kvHeads, block: Int(POLAR_PREFILL_THREADS),
        shared: Int(polar_prefill_shared(Int32(kv.headDim)))),
      PolarAttentionPrefillArgs(
        query: query.device, kv: kv.address.device, tables: batch.blockTables.device,
        positions: batch.positions.device, sequences: batch.rowSequences.device, out: out.device,
        rows: Int32(batch.rows), heads: Int32(heads), kv_heads: Int32(kv.kvHeads),
        query_stride: query.stride, out_stride: out.stride, table_stride: batch.blockTables.stride,
        window: Int32(clamping: kv.window ?? 0), local: local.isLocal ? 1 : 0, sink_pages: local.sink,
        recent_pages: local.recent, scale: scale, reserved: 0), op: "prefillAttention")
  }

  public func decodeAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, heads: ActiveHeads?
  ) {
    guard hasAttention(headDim: kv.headDim), batch.rows > 0 else { return }
    let step = DecodeStep(query: query, kv: kv, batch: batch, selection: heads)
    guard let plan = plan(step, batch: batch),
      let partialOut = working(.partialOut, step.chunks * step.group * kv.headDim * 4),
      let partialSums = working(.partialSums, step.chunks * step.group * 8)
    else { return }
    launch(
      .attentionDecode, headDim: kv.headDim,
      LaunchGeometry(
        grid: blocks, block: Int(polar_decode_threads(Int32(kv.headDim))),
        shared: Int(polar_decode_shared(Int32(kv.headDim)))),
      PolarAttentionDecodeArgs(
        query: query.device, kv: kv.address.device, tables: batch.blockTables.device,
        positions: batch.positions.device, mask: step.mask, chunks: plan.chunks, ranges: plan.ranges,
        out: out.device, partial_out: partialOut.device, partial_sums: partialSums.device,
        rows: Int32(batch.rows), heads: Int32(step.heads), kv_heads: Int32(kv.kvHeads),
        query_stride: query.stride, out_stride: out.stride, table_stride: batch.blockTables.stride,
        mask_stride: step.maskStride, window: step.window, fallback: step.fallback,
        sink_pages: step.local.sink, recent_pages: step.local.recent, scale: scale), op: "decodeAttention")
    launch(
      .attentionCombine, headDim: kv.headDim,
      LaunchGeometry(grid: kv.kvHeads, batch.rows, block: Int(POLAR_COMBINE_THREADS)),
      PolarAttentionCombineArgs(
        positions: batch.positions.device, mask: step.mask, first_chunk: plan.firstChunk, out: out.device,
        partial_out: partialOut.device, partial_sums: partialSums.device, values: step.values,
        heads: Int32(step.heads), kv_heads: Int32(kv.kvHeads), out_stride: out.stride,
        mask_stride: step.maskStride, values_stride: step.valuesStride, fallback: step.fallback),
      op: "decodeAttention")
  }

  /// Blocks of the persistent decode kernel: two on each multiprocessor.
  private var blocks: Int { 2 * device.multiprocessors }

  /// Where a plan lies.
  private struct Plan {
    let firstChunk: PolarAddress
    let chunks: PolarAddress
    let ranges: PolarAddress
  }

  /// The plan of a step: made once for all dense layers of a step, and anew for each selection.
  private func plan(_ step: DecodeStep, batch: ForwardBatch) -> Plan? {
    func aligned(_ bytes: Int) -> Int { (bytes + 255) & ~255 }
    let firstBytes = aligned((step.entries + 1) * 4)
    let chunkBytes = aligned(step.chunks * MemoryLayout<PolarAttentionChunk>.stride)
    let bytes = firstBytes + chunkBytes + aligned((blocks + 1) * 4)
    guard let base = working(step.mask == 0 ? .densePlan : .selectivePlan, bytes) else { return nil }
    let plan = Plan(
      firstChunk: base.device, chunks: base.advanced(by: firstBytes).device,
      ranges: base.advanced(by: firstBytes + chunkBytes).device)
    if step.mask == 0 {
      let isPlanned = scratch.withLock { scratch in
        scratch.isPlanned(
          Scratch.DensePlan(
            positions: batch.positions.address, rows: batch.rows, heads: step.heads, kvHeads: step.kvHeads,
            window: Int(step.window), chunks: step.chunks, queue: scratch.queue))
      }
      if isPlanned { return plan }
    }
    launch(
      .attentionPlan, headDim: step.headDim, LaunchGeometry(grid: 1, block: Int(POLAR_PLAN_THREADS)),
      PolarAttentionPlanArgs(
        positions: batch.positions.device, mask: step.mask, first_chunk: plan.firstChunk,
        chunks: plan.chunks, ranges: plan.ranges, tally: step.tally, rows: Int32(batch.rows),
        heads: Int32(step.heads),
        kv_heads: Int32(step.kvHeads), mask_stride: step.maskStride, window: step.window,
        fallback: step.fallback, sink_pages: step.local.sink, recent_pages: step.local.recent,
        blocks: Int32(blocks), reserved: 0), op: "decodeAttention")
    return plan
  }
}

/// Pages of a local span, within what the kernels' integers hold.
private struct LocalPages {
  var isLocal = false
  var sink: Int32 = 0
  var recent: Int32 = 0

  init() {}

  init(_ sinkPages: Int, _ recentPages: Int) {
    // More pages than any context has are as good as all of them.
    let most = 1 << 24
    isLocal = true
    sink = Int32(min(max(0, sinkPages), most))
    recent = Int32(min(max(0, recentPages), most))
  }
}

/// What the kernels of a decode step share. Nothing in it depends on positions or lengths, so that a recorded step holds
/// for every later one: the bounds are those of the page table.
private struct DecodeStep {
  let heads: Int
  let kvHeads: Int
  let headDim: Int
  let window: Int32
  private(set) var mask: PolarAddress = 0
  private(set) var maskStride: Int32 = 0
  private(set) var fallback = Int32(POLAR_FALLBACK_ZERO)
  private(set) var local = LocalPages()
  private(set) var values: PolarAddress = 0
  private(set) var valuesStride: Int32 = 0
  private(set) var tally: PolarAddress = 0
  /// Entries of the plan.
  let entries: Int
  /// The most chunks of the plan.
  let chunks: Int

  var group: Int { heads / kvHeads }

  init(query: Tensor, kv: KVLayer, batch: ForwardBatch, selection: ActiveHeads?) {
    heads = query.columns / kv.headDim
    kvHeads = kv.kvHeads
    headDim = kv.headDim
    window = Int32(clamping: kv.window ?? 0)
    if let selection {
      mask = selection.mask.device
      maskStride = selection.mask.stride
      tally = selection.tally?.device ?? 0
      switch selection.fallback {
      case .zero: break
      case .constant(let vectors):
        fallback = Int32(POLAR_FALLBACK_CONSTANT)
        values = vectors.device
        // One row per head, or all heads in one row.
        valuesStride = vectors.rows > 1 ? vectors.stride : Int32(kv.headDim)
      case .computed(let computed):
        fallback = Int32(POLAR_FALLBACK_COMPUTED)
        values = computed.device
        valuesStride = computed.stride
      case .local(let sinkPages, let recentPages):
        fallback = Int32(POLAR_FALLBACK_LOCAL)
        local = LocalPages(sinkPages, recentPages)
      }
    }
    let pages = max(1, batch.blockTables.rowStride)
    let localPages = min(pages, Int(local.sink) + Int(local.recent))
    let perEntry = Int(POLAR_CHUNK_PAGES)
    entries = batch.rows * kvHeads * (local.isLocal ? 2 : 1)
    chunks = batch.rows * kvHeads * (ceilDiv(pages, perEntry) + ceilDiv(localPages, perEntry))
  }
}
