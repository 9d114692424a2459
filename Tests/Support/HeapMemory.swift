public import PolarCore

/// A zeroed, 64-byte aligned block of ordinary memory, for tests that need memory and no backend.
public final class HeapMemory: DeviceMemory {
  /// Where the block starts.
  public let base: Address
  /// Its size.
  public let byteCount: Int

  /// A block of `byteCount` bytes.
  public init(byteCount: Int) {
    let block = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 1), alignment: 64)
    block.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    self.base = Address(UInt(bitPattern: block))
    self.byteCount = byteCount
  }

  deinit { UnsafeMutableRawPointer(bitPattern: base.bits)?.deallocate() }
}
