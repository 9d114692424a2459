internal import PolarCore
internal import PolarSparsity

/// What every layer of one forward pass shares.
struct ForwardPass {
  let batch: ForwardBatch
  let cache: KVCache
  let policy: any SparsityPolicy
  let tap: (any ForwardTap)?
  let backend: any Backend
}

extension Workspace {
  /// Bytes that ``take(rows:columns:dtype:)`` uses for f32 `[rows, columns]`.
  static func byteCount(rows: Int, columns: Int) -> Int {
    (rows * columns * DType.f32.byteCount + 63) & ~63
  }
}
