/// Geometry of the paged KV cache, shared by all backends.
public enum KVPage {
  /// Tokens in one page.
  public static let tokens = 16
}

/// One layer's paged K and V.
///
/// Layout: `[kvHeads][pages]` blocks of `2 * 16 * headDim` elements. A block holds the K page, then the V page, of one
/// KV head, pair-interleaved so that one 64-byte line feeds a dot-product instruction:
/// - K page: `[headDim / 2][16 tokens][2]`, element `(d, t)` at `(d / 2) * 32 + t * 2 + d % 2`;
/// - V page: `[16 / 2][headDim][2]`, element `(t, d)` at `16 * headDim + (t / 2) * 2 * headDim + d * 2 + t % 2`.
///
/// With ``DType/i8`` an element is a code times its token's scale, one scale per token and head of K and of V. Let `P` be
/// `headDim` (at most 512) rounded up to a multiple of 4; a block of `32 * P + 64` bytes holds
/// - the K page, `[P / 4][16 tokens][4]` codes, `(d, t)` at `(d / 4) * 64 + t * 4 + d % 4`;
/// - the V page, `[16 / 4][P][4]` codes, `(t, d)` at `16 * P + (t / 4) * 4 * P + d * 4 + t % 4`;
/// - at `32 * P` the bf16 scales of K by token, then those of V.
///
/// The scale is the least bf16 number that is at least `max |x| / 127` over the vector, a code the nearest integer to
/// `x / scale`, ties to even. A vector with an element that is not finite has NaN for its scale.
///
/// All pages of one KV head lie one after the other, so that a sequence with consecutive pages is one sequential stream.
@frozen public struct KVLayer: BitwiseCopyable, Sendable {
  /// Where the layer's first block starts.
  public let address: Address
  /// Pages in the pool.
  public let pages: Int
  /// KV heads (groups of query heads).
  public let kvHeads: Int
  /// Elements of one head's K or V vector; even.
  public let headDim: Int
  /// Element type: ``DType/bf16``, ``DType/i8``, or ``DType/f32`` on the reference backend.
  public let dtype: DType
  /// Tokens that a query attends to, itself included: the key positions `> position - window`; nil for all earlier ones.
  /// Every attention op honours it: dense, selective and all fallbacks. Pages wholly before the window are not read.
  public let window: Int?

  /// Describes one layer's cache at `address`.
  @inlinable
  public init(
    _ address: Address, pages: Int, kvHeads: Int, headDim: Int, dtype: DType, window: Int? = nil
  ) {
    self.address = address
    self.pages = pages
    self.kvHeads = kvHeads
    self.headDim = headDim
    self.dtype = dtype
    self.window = window
  }

  /// Elements of one block (the K page and the V page of one KV head).
  @inlinable public var blockElements: Int { 2 * KVPage.tokens * headDim }

  /// Bytes of one block, the scales included.
  @inlinable public var blockByteCount: Int { Self.blockByteCount(headDim: headDim, dtype: dtype) }

  /// Bytes of the whole layer.
  @inlinable public var byteCount: Int { kvHeads * pages * blockByteCount }

  /// Bytes of a block: what 16 tokens of one KV head take.
  @inlinable public static func blockByteCount(headDim: Int, dtype: DType) -> Int {
    dtype == .i8
      ? 2 * KVPage.tokens * ((headDim + 3) / 4 * 4) + 4 * KVPage.tokens
      : 2 * KVPage.tokens * headDim * dtype.byteCount
  }
}

/// In which order a backend's cache holds what ``KVLayer`` describes.
@frozen public enum KVLayout: BitwiseCopyable, Sendable {
  /// All pages of a head one after the other, pair-interleaved: the order that ``KVLayer`` documents.
  case byHead
  /// `[pages][K, V][kvHeads][16 tokens][headDim]`: all heads of a page one after the other, tokens row by row.
  case byPage
}

/// What of a model's shape attention kernels depend on (see ``Backend/prepare(_:)``).
@frozen public struct AttentionShape: BitwiseCopyable, Sendable, Equatable {
  /// Query heads.
  public let heads: Int
  /// KV heads.
  public let kvHeads: Int
  /// Elements of a head's vectors.
  public let headDim: Int

  /// A shape.
  @inlinable public init(heads: Int, kvHeads: Int, headDim: Int) {
    self.heads = heads
    self.kvHeads = kvHeads
    self.headDim = headDim
  }
}
