// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCPU
public import PolarCore

extension CPUBackend {
  public func rotaryStoreKV(
    _ kv: KVLayer, _ x: Tensor, heads: Int, positions: Tensor, inverseFrequencies: Tensor, slots: Tensor
  ) {
    var args = polar_rotary_args()
    args.kv = Self.cache(kv)
    args.x = x.floats
    args.x_stride = x.stride
    args.rows = Int64(x.rows)
    args.heads = Int32(heads)
    args.positions = UnsafePointer(positions.integers)
    args.slots = UnsafePointer(slots.integers)
    args.inverse_frequencies = UnsafePointer(inverseFrequencies.floats)
    polar_rotary_store_kv(context, &args)
  }

  public func storeKV(_ kv: KVLayer, key: Tensor, value: Tensor, slots: Tensor) {
    var cache = Self.cache(kv)
    polar_store_kv(
      context, &cache, key.floats, key.stride, value.floats, value.stride, slots.integers,
      Int64(slots.count))
  }

  public func prefillAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, span: AttentionSpan
  ) {
    var args = Self.arguments(out, query: query, kv: kv, batch: batch, scale: scale)
    if case .local(let sinkPages, let recentPages) = span {
      Self.setLocal(&args, sinkPages, recentPages)
    }
    polar_prefill_attention(context, &args)
  }

  public func decodeAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, heads: ActiveHeads?
  ) {
    var args = Self.arguments(out, query: query, kv: kv, batch: batch, scale: scale)
    if let heads {
      args.mask = UnsafePointer(heads.mask.bytes)
      args.mask_stride = heads.mask.stride
      switch heads.fallback {
      case .zero: break
      case .constant(let values):
        args.fallback = Int32(POLAR_FALLBACK_CONSTANT)
        args.constant = UnsafePointer(values.floats)
        // One row per head, or all heads in one row.
        args.constant_stride = values.rows > 1 ? values.stride : Int64(kv.headDim)
      case .computed(let values):
        args.fallback = Int32(POLAR_FALLBACK_CONSTANT)
        args.constant = UnsafePointer(values.floats)
        args.constant_stride = Int64(kv.headDim)
        args.constant_row_stride = values.stride
      case .local(let sinkPages, let recentPages):
        Self.setLocal(&args, sinkPages, recentPages)
      }
    }
    polar_decode_attention(context, &args)
  }

  private static func cache(_ kv: KVLayer) -> polar_kv {
    polar_kv(
      blocks: kv.address.raw, pages: Int64(kv.pages), kv_heads: Int32(kv.kvHeads),
      head_dim: Int32(kv.headDim), type: Int32(kv.dtype == .i8 ? POLAR_KV_INT8 : POLAR_KV_BF16))
  }

  private static func arguments(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float
  ) -> polar_attention_args {
    var args = polar_attention_args()
    args.kv = cache(kv)
    args.query = UnsafePointer(query.floats)
    args.query_stride = query.stride
    args.out = out.floats
    args.out_stride = out.stride
    args.positions = UnsafePointer(batch.positions.integers)
    args.sequences = UnsafePointer(batch.rowSequences.integers)
    args.tables = UnsafePointer(batch.blockTables.integers)
    args.table_stride = batch.blockTables.stride
    args.rows = Int64(batch.rows)
    args.heads = Int32(query.columns / max(1, kv.headDim))
    args.scale = scale
    args.window = Int32(clamping: kv.window ?? 0)
    return args
  }

  private static func setLocal(_ args: inout polar_attention_args, _ sinkPages: Int, _ recentPages: Int) {
    // More pages than any context has are as good as all of them.
    let most = 1 << 24
    args.fallback = Int32(POLAR_FALLBACK_LOCAL)
    args.sink_pages = Int32(min(max(0, sinkPages), most))
    args.recent_pages = Int32(min(max(0, recentPages), most))
  }
}
