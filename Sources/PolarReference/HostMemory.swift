import PolarCore

/// A block of ordinary memory: 64-byte aligned, zeroed, freed with its last reference.
final class HostMemory: DeviceMemory {
  let base: Address
  let byteCount: Int

  init(byteCount: Int) throws(PolarError) {
    guard byteCount >= 0, byteCount <= Self.largestBlock else {
      throw .outOfMemory(what: "reference memory", bytes: byteCount)
    }
    let block = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 1), alignment: 64)
    block.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    self.base = Address(UInt(bitPattern: block))
    self.byteCount = byteCount
  }

  deinit { UnsafeMutableRawPointer(bitPattern: base.bits)?.deallocate() }

  /// 1 TiB: sizes beyond it are arithmetic gone wrong, and are refused before the allocator aborts on them.
  private static let largestBlock = 1 << 40
}

extension Address {
  /// The host pointer behind an address of this backend.
  func pointer<Element>(to type: Element.Type) -> UnsafeMutablePointer<Element> {
    UnsafeMutablePointer(bitPattern: bits)!
  }
}

extension Tensor {
  /// Row `index` as floats.
  func f32(_ index: Int) -> UnsafeMutablePointer<Float> {
    address.pointer(to: Float.self) + index * rowStride
  }

  /// Row `index` as 32-bit integers.
  func i32(_ index: Int) -> UnsafeMutablePointer<Int32> {
    address.pointer(to: Int32.self) + index * rowStride
  }

  /// Row `index` as bytes.
  func u8(_ index: Int) -> UnsafeMutablePointer<UInt8> {
    address.pointer(to: UInt8.self) + index * rowStride
  }
}
