/// What an attention head that is not selected contributes.
@frozen public enum HeadFallback: BitwiseCopyable, Sendable {
  /// Nothing: its output is zero (Polar Sparsity, section 4).
  case zero
  /// A constant vector per head: f32 `[heads, headDim]`.
  case constant(Tensor)
  /// What was computed before, for example as a router's input: f32 `[rows, heads * headDim]`.
  case computed(Tensor)
  /// Exact softmax over the first `sinkPages` pages and the last `recentPages` pages of the sequence, as far as they lie
  /// in the layer's window.
  case local(sinkPages: Int, recentPages: Int)
}

/// Which heads a selective attention step computes in full, per sequence. Counts may differ between rows.
@frozen public struct ActiveHeads: BitwiseCopyable, Sendable {
  /// 1 where the head is selected, else 0: u8 `[rows, heads]`. Grouped selection sets all heads of a KV group alike.
  public let mask: Tensor
  /// What the others contribute.
  public let fallback: HeadFallback
  /// Counters u64 `[2]` that a backend which records work adds to: heads selected, and rows, of rows that are no padding.
  /// Others ignore it: there the host reads the mask.
  public var tally: Address?

  /// A selection by mask.
  @inlinable public init(mask: Tensor, fallback: HeadFallback, tally: Address? = nil) {
    self.mask = mask
    self.fallback = fallback
    self.tally = tally
  }
}

/// Which keys a query attends to in ``Backend/prefillAttention(_:query:kv:batch:scale:span:)``.
@frozen public enum AttentionSpan: BitwiseCopyable, Sendable {
  /// Its own position and all earlier ones in the layer's window.
  case full
  /// The local set of ``HeadFallback/local(sinkPages:recentPages:)``, as seen from each query's position.
  case local(sinkPages: Int, recentPages: Int)
}
