internal import CPolarCUDA
internal import PolarCore
import Synchronization

/// All memory that is taken from a device. Small blocks share slabs; large ones (weights, the KV cache) have their own.
///
/// Blocks are few and live long: the driver's own free waits for all work of the device.
final class DeviceArena: Sendable {
  private struct Slab {
    let base: CUdeviceptr
    var list: FreeList
  }
  private struct State {
    var slabs: [Slab] = []
    var bytes = 0
  }

  private static let alignment = 256
  private static let slabBytes = 32 << 20

  private let device: CUDADevice
  private let state = Mutex(State())

  init(_ device: CUDADevice) { self.device = device }

  deinit {
    try? device.makeCurrent()
    for slab in state.withLock({ $0.slabs }) { _ = pc_cuMemFree(slab.base) }
  }

  /// Bytes taken from the device.
  var byteCount: Int { state.withLock { $0.bytes } }

  /// Memory, not zeroed.
  func allocate(_ byteCount: Int) throws(PolarError) -> ArenaMemory {
    guard byteCount >= 0 else { throw .outOfMemory(what: "GPU memory", bytes: byteCount) }
    if byteCount > Self.slabBytes / 8 {
      let base = try take(byteCount)
      return ArenaMemory(self, base: base, byteCount: byteCount, slab: nil)
    }
    return try state.withLock { state throws(PolarError) in
      for index in state.slabs.indices {
        if let offset = state.slabs[index].list.take(byteCount) {
          let base = state.slabs[index].base
          return ArenaMemory(self, base: base + UInt64(offset), byteCount: byteCount, slab: base)
        }
      }
      let base = try Self.take(Self.slabBytes, device)
      var list = FreeList(byteCount: Self.slabBytes, alignment: Self.alignment)
      let offset = list.take(byteCount) ?? 0
      state.bytes += Self.slabBytes
      state.slabs.append(Slab(base: base, list: list))
      return ArenaMemory(self, base: base + UInt64(offset), byteCount: byteCount, slab: base)
    }
  }

  private func take(_ byteCount: Int) throws(PolarError) -> CUdeviceptr {
    let base = try Self.take(byteCount, device)
    state.withLock { $0.bytes += byteCount }
    return base
  }

  private static func take(_ byteCount: Int, _ device: CUDADevice) throws(PolarError) -> CUdeviceptr {
    var base: CUdeviceptr = 0
    do throws(CUDAError) {
      try device.makeCurrent()
      try check(pc_cuMemAlloc(&base, max(byteCount, 1)), "cuMemAlloc", "\(byteCount) bytes")
    } catch {
      if error.code == Int32(POLAR_CU_ERROR_OUT_OF_MEMORY) {
        throw .outOfMemory(what: "GPU memory", bytes: byteCount)
      }
      throw error.asPolarError(device: "cuda:\(device.info.ordinal)")
    }
    return base
  }

  fileprivate func free(_ base: CUdeviceptr, _ byteCount: Int, slab: CUdeviceptr?) {
    try? device.makeCurrent()
    guard let slab else {
      _ = pc_cuMemFree(base)
      return state.withLock { $0.bytes -= byteCount }
    }
    state.withLock { state in
      guard let index = state.slabs.firstIndex(where: { $0.base == slab }) else { return }
      state.slabs[index].list.give(Int(base - slab), byteCount)
    }
  }
}

/// A block of an arena.
final class ArenaMemory: DeviceMemory {
  let base: Address
  let byteCount: Int
  private let arena: DeviceArena
  private let slab: CUdeviceptr?

  fileprivate init(_ arena: DeviceArena, base: CUdeviceptr, byteCount: Int, slab: CUdeviceptr?) {
    self.arena = arena
    self.base = Address(UInt(base))
    self.byteCount = byteCount
    self.slab = slab
  }

  deinit { arena.free(CUdeviceptr(base.bits), byteCount, slab: slab) }
}
