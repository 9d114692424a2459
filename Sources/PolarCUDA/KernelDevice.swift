package import PolarCore

/// Blocks, threads and shared memory of a kernel launch.
package struct LaunchGeometry: Sendable, Equatable, CustomStringConvertible {
  package var gridX: UInt32
  package var gridY: UInt32
  package var gridZ: UInt32
  /// Threads of a block.
  package var block: UInt32
  /// Bytes of dynamic shared memory of a block.
  package var sharedBytes: UInt32

  package init(grid: Int, _ gridY: Int = 1, _ gridZ: Int = 1, block: Int, shared: Int = 0) {
    self.gridX = UInt32(grid)
    self.gridY = UInt32(gridY)
    self.gridZ = UInt32(gridZ)
    self.block = UInt32(block)
    self.sharedBytes = UInt32(shared)
  }

  package var description: String {
    "grid \(gridX) x \(gridY) x \(gridZ), block \(block), \(sharedBytes) bytes shared"
  }
}

/// A launch of one kernel, whose one argument is the struct at `arguments`.
package struct KernelLaunch {
  package let kernel: Kernel
  /// Of attention kernels; 0 for others.
  package let headDim: Int
  package let geometry: LaunchGeometry
  package let arguments: UnsafeRawBufferPointer
  /// The op, for error messages.
  package let op: StaticString
}

/// The little that ``CUDABackend`` needs of a machine that runs kernels: a GPU through its driver or, in tests, the
/// emulator that runs the same kernel sources on the CPU.
///
/// Work runs in the order in which it was given, except between ``beginSide()`` and ``join()``.
package protocol KernelDevice: AnyObject, Sendable {
  /// Such as `cuda:0`.
  var name: String { get }
  /// What its kernels are compiled for.
  var element: CUDAElement { get }
  /// Streaming multiprocessors: what persistent kernels' grids are multiples of.
  var multiprocessors: Int { get }
  /// The first error of any call that cannot throw.
  var failure: PolarError? { get }
  /// Bytes of memory that are free, where the device says.
  var availableMemory: Int? { get }

  /// Zeroed memory, aligned to 256 bytes.
  func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory
  /// Copies host bytes; they may change as soon as this returns.
  func upload(_ bytes: UnsafeRawBufferPointer, to address: Address)
  /// Waits for earlier work, then copies to the host.
  func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer)
  /// Copies within the device's memory and returns the seconds that it took.
  func copySeconds(_ from: Address, to: Address, byteCount: Int) throws(PolarError) -> Double
  /// Waits for earlier work.
  func synchronize()

  /// Makes kernels ready: compiles and loads them, and lets each have as much shared memory as it asks for. Kernels that
  /// are ready already are left alone.
  /// - Parameter sharedBytes: the most dynamic shared memory that a launch of the kernel takes.
  func prepare(_ kernel: Kernel, headDim: Int, sharedBytes: Int) throws(PolarError)
  /// Enqueues a kernel that was prepared.
  func launch(_ launch: KernelLaunch)

  /// Whether a vendor's library is there and has an algorithm for the product, found and timed at the first question about
  /// its shape with rows in the same ``RowBucket``. What `out` and `x` hold does not matter. While recording, only shapes that
  /// were asked about before may be.
  func supports(_ product: MatrixProduct) -> Bool
  /// Enqueues a product that ``supports(_:)`` affirmed.
  func multiply(_ product: MatrixProduct)

  /// From now on work goes to a second queue that starts after all work so far.
  func beginSide()
  /// From now on work goes to the first queue again, beside what the second one does.
  func endSide()
  /// What follows waits for both queues.
  func join()

  /// Records what `body` launches instead of running it; nil when that failed (see ``failure``).
  func record(_ body: () -> Void) -> (any RecordedWork)?
}

/// `out = x weight' + bias` for a vendor's library: out f32 `[rows, outputs]`, x elements `[rows, inputs]`, weight elements
/// `[outputs, inputs]`, bias f32 `[outputs]` or nil.
package struct MatrixProduct: Sendable {
  package var out: Address
  package var outStride: Int
  package var x: Address
  package var weight: Address
  package var bias: Address?
  package var rows: Int
  package var outputs: Int
  package var inputs: Int
  /// Elements from row to row of `x` and `weight`.
  package var pitch: Int

  /// For messages.
  var description: String { Self.describe(rows, outputs, inputs) }

  static func describe(_ rows: Int, _ outputs: Int, _ inputs: Int) -> String {
    "op linear, \(rows) rows, \(outputs) outputs of \(inputs) inputs"
  }

  /// Bytes that all addresses of a product for a library are multiples of.
  static let alignment: UInt = 16
  /// Whether they are; `x` is working memory, which always is.
  var isAligned: Bool { (out.bits | weight.bits | (bias?.bits ?? 0)) % Self.alignment == 0 }
}

extension KernelDevice {
  package var availableMemory: Int? { nil }
  package func supports(_ product: MatrixProduct) -> Bool { false }
  package func multiply(_ product: MatrixProduct) {}
}
