import PolarCore

/// Times ops on any backend: recorded and replayed where the backend records, so that issuing them does not count.
struct DeviceTimer {
  let backend: any Backend
  /// Timed runs, of which the median counts.
  let repeats: Int

  /// Seconds of one call of `body` out of `inner` in a row. The index lets calls use different data, so that none finds its
  /// data in a cache.
  func seconds(inner: Int, _ body: (Int) -> Void) -> Double {
    // The first call sizes working memory and finds algorithms.
    body(0)
    backend.synchronize()
    let work = backend.recordsWork ? backend.record { for index in 0..<inner { body(index) } } : nil
    func run() {
      if let work { work.replay() } else { for index in 0..<inner { body(index) } }
      backend.synchronize()
    }
    run()
    return median((0..<repeats).map { _ in PolarBench.seconds(run) }) / Double(inner)
  }
}

/// Device memory of a bench: tensors one after the other, filled with small random values.
struct BenchMemory {
  private let memory: any DeviceMemory
  private let backend: any Backend
  private var used = 0

  /// `byteCount` bytes of random values: 16-bit words in +-1/16, of the format in which the backend stores K and V; read as f32 they are
  /// in +-1/16, too.
  init(_ byteCount: Int, on backend: any Backend) throws(PolarError) {
    memory = try backend.allocate(byteCount: byteCount + 4096)
    self.backend = backend
    Self.fill(memory.base, byteCount: byteCount, on: backend)
  }

  /// Fills memory with random 16-bit words in +-1/16.
  static func fill(_ address: Address, byteCount: Int, on backend: any Backend) {
    (backend.kvDType == .f16 ? f16Block : bf16Block).withUnsafeBytes { block in
      var offset = copyOnDevice(block, address, byteCount: byteCount, on: backend)
      while offset < byteCount {
        let count = min(block.count, byteCount - offset)
        backend.upload(
          UnsafeRawBufferPointer(rebasing: block[..<count]), to: address.advanced(by: offset))
        offset += count
      }
    }
  }

  private static let bf16Block = block { UInt16(truncatingIfNeeded: $0.bitPattern >> 16) }
  private static let f16Block = block { Float16($0).bitPattern }

  private static func block(_ word: (Float) -> UInt16) -> [UInt16] {
    var generator = SplitMix64(seed: 1)
    return (0..<1 << 20).map { _ in word((generator.unitFloat() - 0.5) / 8) }
  }

  /// Fills memory with copies of one block made by the device, as far as whole blocks go, and returns how far.
  private static func copyOnDevice(
    _ block: UnsafeRawBufferPointer, _ address: Address, byteCount: Int, on backend: any Backend
  ) -> Int {
    // The rows that are copied, all of them row 0, lie at the end meanwhile.
    let most = 256
    let copies = (byteCount - most * 4) / block.count - 1
    guard copies > 0 else { return 0 }
    let indices = Tensor(
      address.advanced(by: (byteCount - most * 4) & ~63), columns: most, dtype: .i32)
    [Int32](repeating: 0, count: most).withUnsafeBytes { backend.upload($0, to: indices.address) }
    backend.upload(block, to: address)
    let source = Tensor(address, columns: block.count / 4)
    for first in stride(from: 0, to: copies, by: most) {
      let count = min(most, copies - first)
      backend.gatherRows(
        Tensor(
          address.advanced(by: (1 + first) * block.count), rows: count, columns: source.columns), source,
        indices: indices.columns(0..<count))
    }
    backend.synchronize()
    return (1 + copies) * block.count
  }

  /// The next tensor.
  mutating func take(rows: Int = 1, columns: Int, dtype: DType = .f32) -> Tensor {
    Tensor(take(rows * columns * dtype.byteCount), rows: rows, columns: columns, dtype: dtype)
  }

  /// The next weight.
  mutating func matrix(outputs: Int, inputs: Int) -> PackedMatrix {
    PackedMatrix(
      take(backend.packedByteCount(outputs: outputs, inputs: inputs)), outputs: outputs, inputs: inputs,
      format: backend.wideFormat)
  }

  /// A tensor of integers.
  mutating func integers(_ values: [Int32], rows: Int = 1) -> Tensor {
    let tensor = take(rows: rows, columns: values.count / rows, dtype: .i32)
    values.withUnsafeBytes { backend.upload($0, to: tensor.address) }
    return tensor
  }

  private mutating func take(_ bytes: Int) -> Address {
    defer { used += (bytes + 255) & ~255 }
    precondition(used + bytes <= memory.byteCount, "bench memory is too small")
    return memory.base.advanced(by: used)
  }
}
