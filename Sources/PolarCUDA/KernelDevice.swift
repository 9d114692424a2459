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

/// What kernels may count on.
package struct KernelLimits: Sendable, Equatable {
  /// Streaming multiprocessors: persistent kernels launch a multiple of it.
  package var multiprocessors: Int
  /// The most bytes of shared memory of a block.
  package var sharedBytesPerBlock: Int

  package init(multiprocessors: Int, sharedBytesPerBlock: Int) {
    self.multiprocessors = multiprocessors
    self.sharedBytesPerBlock = sharedBytesPerBlock
  }
}

/// The little that ``CUDABackend`` needs of a machine that runs kernels: a GPU through its driver or, in tests, the
/// emulator that runs the same kernel sources on the CPU.
///
/// Work runs in the order in which it was given, except between ``beginSide()`` and ``join()``.
package protocol KernelDevice: AnyObject, Sendable {
  /// Such as `cuda:0 NVIDIA H200`.
  var name: String { get }
  var limits: KernelLimits { get }
  /// The first error of any call that cannot throw.
  var failure: PolarError? { get }

  /// Zeroed memory, aligned to 256 bytes.
  func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory
  /// Copies host bytes; they may change as soon as this returns.
  func upload(_ bytes: UnsafeRawBufferPointer, to address: Address)
  /// Waits for earlier work, then copies to the host.
  func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer)
  func synchronize()

  /// Finds a kernel, compiling it where needed, and lets it have up to `sharedBytes` of shared memory a block.
  func prepare(_ kernel: String, sharedBytes: Int) throws(PolarError) -> KernelHandle
  /// Enqueues a kernel whose one argument is the struct at `arguments`. `op` names the op in error messages.
  func launch(
    _ kernel: KernelHandle, _ geometry: LaunchGeometry, _ arguments: UnsafeRawBufferPointer, op: StaticString)

  /// From now on work goes to a second queue that starts after all work so far.
  func beginSide()
  /// From now on work goes to the first queue again, beside what the second one does.
  func endSide()
  /// What follows waits for both queues.
  func join()

  /// Records what `body` launches instead of running it; nil when that failed (see ``failure``) .
  func record(_ body: () -> Void) -> (any RecordedWork)?

  /// The vendor's matrix multiplication, where there is one.
  var library: (any MatrixLibrary)? { get }
}

/// A kernel that a device has ready.
package struct KernelHandle: Sendable, Equatable {
  package let index: Int
  package init(index: Int) { self.index = index }
}

/// A vendor's matrix multiplication.
package protocol MatrixLibrary: AnyObject, Sendable {
  /// Whether ``multiply(out:x:weight:bias:rows:outputs:inputs:)`` takes this shape.
  func supports(rows: Int, outputs: Int, inputs: Int) -> Bool
  /// `out = x weight' + bias`: out f32 `[rows, outputs]` with `outStride` elements from row to row, x bf16
  /// `[rows, inputs]`, weight bf16 `[outputs, inputs]`, bias f32 `[outputs]` or nil.
  func multiply(
    out: Address, outStride: Int, x: Address, weight: Address, bias: Address?, rows: Int, outputs: Int,
    inputs: Int)
}
