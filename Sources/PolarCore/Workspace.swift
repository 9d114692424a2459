/// The bump arena that all scratch tensors of a forward pass come from. It is allocated once, at start-up.
///
/// Taking a tensor is a few instructions and never allocates. ``mark()`` and ``release(to:)`` let a layer give its
/// scratch back. What outlives its taker (a selection that a later sub-layer uses) comes from the other end of the arena,
/// by ``keep(rows:columns:dtype:)``.
public struct Workspace: ~Copyable {
  private let memory: any DeviceMemory
  private var used = 0
  private var kept = 0
  /// The most bytes that were in use at once.
  public private(set) var peak = 0

  /// An arena over `memory`.
  public init(_ memory: any DeviceMemory) { self.memory = memory }

  /// Bytes the arena holds.
  public var capacity: Int { memory.byteCount }

  /// A tensor `[rows, columns]` of scratch. Its content is undefined.
  ///
  /// Running out is a programmer error: the arena is sized for the largest batch at start-up.
  public mutating func take(rows: Int = 1, columns: Int, dtype: DType = .f32) -> Tensor {
    let bytes = (rows * columns * dtype.byteCount + 63) & ~63
    let tensor = Tensor(memory.base.advanced(by: used), rows: rows, columns: columns, dtype: dtype)
    used += bytes
    noteUse()
    return tensor
  }

  /// As ``take(rows:columns:dtype:)``, but valid until ``releaseKept()``, whatever is released before.
  public mutating func keep(rows: Int = 1, columns: Int, dtype: DType = .f32) -> Tensor {
    kept += (rows * columns * dtype.byteCount + 63) & ~63
    noteUse()
    let end = memory.byteCount & ~63
    return Tensor(memory.base.advanced(by: end - kept), rows: rows, columns: columns, dtype: dtype)
  }

  private mutating func noteUse() {
    precondition(
      used + kept <= memory.byteCount & ~63, "workspace too small: \(used + kept) > \(memory.byteCount)")
    peak = max(peak, used + kept)
  }

  /// The current fill level, for ``release(to:)``.
  public func mark() -> Int { used }

  /// Gives back everything taken since `mark`.
  public mutating func release(to mark: Int) { used = mark }

  /// Bytes that are kept.
  public var keptByteCount: Int { kept }

  /// Gives back everything that was kept.
  public mutating func releaseKept() { kept = 0 }

  /// Gives everything back.
  public mutating func reset() {
    used = 0
    kept = 0
  }
}
