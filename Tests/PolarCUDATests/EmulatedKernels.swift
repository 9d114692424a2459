import CPolarCUDA
import CPolarEmulator
import PolarCore
import PolarReference

/// What the emulator reports of a launch that did not run to its end.
struct EmulatorFailure: Error, CustomStringConvertible {
  let description: String
}

/// Runs kernels on the emulator, one after another.
struct EmulatedKernels {
  /// Decides in which order threads run.
  var seed: UInt64 = 1
  /// The planted fault, nil for the kernels as they ship.
  var mutation: String?
  /// Elements are f16 instead of bf16.
  var isF16 = false

  /// Launches a kernel.
  func launch<Arguments>(
    _ kernel: String, headDim: Int = 0, grid: (Int, Int, Int), block: Int, shared: Int = 0,
    _ arguments: Arguments
  ) throws {
    var message = [CChar](repeating: 0, count: 1024)
    let result = withUnsafeBytes(of: arguments) { bytes in
      kernel.withCString { name in
        withOptionalCString(mutation) { fault in
          var launch = PolarEmulatorLaunch()
          launch.kernel = name
          launch.head_dim = Int32(headDim)
          launch.element_f16 = isF16 ? 1 : 0
          launch.mutation = fault
          launch.grid = (UInt32(grid.0), UInt32(grid.1), UInt32(grid.2))
          launch.block = (UInt32(block), 1, 1)
          launch.shared_bytes = UInt(shared)
          launch.args = bytes.baseAddress
          launch.args_bytes = UInt(bytes.count)
          launch.seed = seed
          return polar_emulator_launch(&launch, &message, UInt(message.count))
        }
      }
    }
    if result != 0 {
      throw EmulatorFailure(
        description: String(decoding: message.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self))
    }
  }

  private func withOptionalCString<Result>(
    _ text: String?, _ body: (UnsafePointer<CChar>?) -> Result
  ) -> Result {
    guard let text else { return body(nil) }
    return text.withCString(body)
  }

  /// An element's bits.
  func element(_ value: Float) -> UInt16 {
    if isF16 { return Float16(value).bitPattern }
    return UInt16(truncatingIfNeeded: value.roundedToBF16.bitPattern >> 16)
  }
}

/// Memory that kernels work in, freed with the last reference: 256-byte aligned, with a margin that ``isIntact`` checks.
final class KernelBuffer<Element: BitwiseCopyable> {
  private let memory: UnsafeMutableRawBufferPointer
  private let bytes: Int

  /// Memory filled with 0xff bytes: NaN as floats, and out of range as indices.
  init(count: Int) {
    bytes = count * MemoryLayout<Element>.stride
    memory = .allocate(byteCount: bytes + 256, alignment: 256)
    memory.initializeMemory(as: UInt8.self, repeating: 0xff)
  }

  convenience init(_ values: [Element]) {
    self.init(count: values.count)
    self.values = values
  }

  deinit { memory.deallocate() }

  var address: UInt64 { UInt64(UInt(bitPattern: memory.baseAddress)) }

  var values: [Element] {
    get { Array(memory[..<bytes].bindMemory(to: Element.self)) }
    set { newValue.withUnsafeBytes { memory.copyBytes(from: $0) } }
  }

  /// Whether nothing was written behind the end.
  var isIntact: Bool { memory[bytes...].allSatisfy { $0 == 0xff } }
}

/// Rows of a matrix in kernel memory, `stride` elements apart; what is between them is 0xff.
struct KernelMatrix {
  let buffer: KernelBuffer<Float>
  let rows: Int
  let columns: Int
  let stride: Int

  init(rows: Int, columns: Int, gap: Int = 0) {
    (self.rows, self.columns, stride) = (rows, columns, columns + gap)
    buffer = KernelBuffer(count: rows * (columns + gap))
  }

  init(_ host: HostTensor<Float>, gap: Int = 0) {
    self.init(rows: host.rows, columns: host.columns, gap: gap)
    var values = buffer.values
    for row in 0..<rows {
      for column in 0..<columns { values[row * stride + column] = host[row, column] }
    }
    buffer.values = values
  }

  var address: UInt64 { buffer.address }
  var stride32: Int32 { Int32(stride) }

  var host: HostTensor<Float> {
    let values = buffer.values
    return HostTensor(
      (0..<rows).flatMap { values[$0 * stride..<$0 * stride + columns] }, rows: rows, columns: columns)
  }

  /// Whether nothing was written between rows or behind the last.
  var isIntact: Bool {
    let values = buffer.values
    return buffer.isIntact
      && (0..<rows).allSatisfy { row in
        (columns..<stride).allSatisfy { values[row * stride + $0].bitPattern == 0xffff_ffff }
      }
  }
}

/// The largest difference, relative to the largest magnitude of the row or `floor`; infinite where a value is NaN.
func worstError(_ got: HostTensor<Float>, _ want: HostTensor<Float>, floor: Float = 0.05) -> Float {
  guard got.rows == want.rows, got.columns == want.columns else { return .infinity }
  var worst: Float = 0
  for row in 0..<want.rows {
    var scale = floor
    for column in 0..<want.columns { scale = max(scale, want[row, column].magnitude) }
    for column in 0..<want.columns where got[row, column] != want[row, column] {
      let error = (got[row, column] - want[row, column]).magnitude / scale
      if !(error <= worst) { worst = error.isNaN ? .infinity : error }
    }
  }
  return worst
}

/// Whether two results have the same bits.
func sameBits(_ a: HostTensor<Float>, _ b: HostTensor<Float>) -> Bool {
  a.values.count == b.values.count
    && zip(a.values, b.values).allSatisfy { $0.bitPattern == $1.bitPattern }
}

/// The seeds that kernels are run with: each runs the threads in another order.
let schedules: [UInt64] = [1, 2, 3]
