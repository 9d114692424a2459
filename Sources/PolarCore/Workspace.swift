/// The bump arena that all scratch tensors of a forward pass come from. It is allocated once, at start-up.
///
/// Taking a tensor is a few instructions and never allocates. ``mark()`` and ``release(to:)`` let a layer give its
/// scratch back.
public struct Workspace: ~Copyable {
  private let memory: any DeviceMemory
  private var used = 0
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
    precondition(
      used + bytes <= memory.byteCount, "workspace too small: \(used + bytes) > \(memory.byteCount)")
    let tensor = Tensor(memory.base.advanced(by: used), rows: rows, columns: columns, dtype: dtype)
    used += bytes
    peak = max(peak, used)
    return tensor
  }

  /// The current fill level, for ``release(to:)``.
  public func mark() -> Int { used }

  /// Gives back everything taken since `mark`.
  public mutating func release(to mark: Int) { used = mark }

  /// Gives everything back.
  public mutating func reset() { used = 0 }
}
