import PolarCore

/// A contiguous tensor with memory of its own, where training computes. Before the last reference goes, work that uses it must
/// be done: reading any tensor waits for that.
struct OwnedTensor: Sendable {
  let tensor: Tensor
  private let memory: any DeviceMemory
  private let ops: any TrainingOps

  /// Zeros.
  init(rows: Int = 1, columns: Int, dtype: DType = .f32, on ops: any TrainingOps) throws(PolarError) {
    memory = try ops.allocate(byteCount: rows * columns * dtype.byteCount)
    tensor = Tensor(memory.base, rows: rows, columns: columns, dtype: dtype)
    self.ops = ops
  }

  /// A copy of host values.
  init(_ values: [Float], rows: Int = 1, on ops: any TrainingOps) throws(PolarError) {
    try self.init(rows: rows, columns: values.count / max(1, rows), on: ops)
    write(values)
  }

  /// Replaces the first values.
  func write<Value: BitwiseCopyable>(_ values: ArraySlice<Value>) {
    precondition(
      values.count * MemoryLayout<Value>.stride <= memory.byteCount, "more values than there is room for")
    values.withUnsafeBytes { ops.upload($0, to: tensor.address) }
  }

  /// Replaces the first values.
  func write<Value: BitwiseCopyable>(_ values: [Value]) { write(values[...]) }

  /// All values, once earlier work is done.
  func read() -> [Float] { read(rows: tensor.rows) }

  /// The values of the first `rows` rows, once earlier work is done.
  func read(rows: Int) -> [Float] {
    let count = rows * tensor.columns
    return [Float](unsafeUninitializedCapacity: count) { values, initialized in
      ops.download(
        tensor.address,
        into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(values)[..<(count * 4)]))
      initialized = count
    }
  }

  /// Waits until all work so far is done.
  func wait() {
    var first: UInt8 = 0
    withUnsafeMutableBytes(of: &first) { ops.download(tensor.address, into: $0) }
  }

  /// The first `count` rows.
  func rows(_ count: Int) -> Tensor { tensor.rows(0..<count) }
}
