internal import CPolarCUDA
package import PolarCore
internal import Synchronization

/// A GPU behind its driver.
package final class DriverDevice: KernelDevice {
  private struct KernelKey: Hashable {
    let kernel: Kernel
    let headDim: Int
  }

  private struct State {
    var modules: [String: CUDAModule] = [:]
    var kernels: [KernelKey: CUDAKernel] = [:]
    var failure: PolarError?
    var isOnSide = false
    var isRecording = false
    /// What was launched last, for errors that show only at a wait.
    var lastOp: StaticString = "none"
    var lastKernel: Kernel?
    /// Where the next small upload goes in the pinned buffer.
    var pinnedOffset = 0
  }

  let device: CUDADevice
  private let arena: DeviceArena
  private let cache: KernelCache
  private let library: CUBLASLt?
  private let mainStream: CUDAStream
  private let sideStream: CUDAStream
  /// For what must neither wait for the other streams nor become part of what they record.
  private let setupStream: CUDAStream
  private let forked: CUDAEvent
  private let joined: CUDAEvent
  private let pinned: PinnedBuffer
  private let state = Mutex(State())

  package let name: String
  package let element: CUDAElement
  package var multiprocessors: Int { device.info.multiprocessors }
  package var failure: PolarError? { state.withLock { $0.failure } }
  /// What the GPU is.
  package var info: CUDADeviceInfo { device.info }
  /// The matrix library's version, where it is used.
  package var libraryVersion: String? { library == nil ? nil : CUDALibrary.cublasLt.load().version }

  /// The GPU number `ordinal`, with kernels for `element`.
  /// - Throws: ``PolarError/device(name:reason:)`` that says what is missing.
  package init(ordinal: Int, element: CUDAElement = .bf16) throws(PolarError) {
    self.element = element
    name = "cuda:\(ordinal)"
    cache = KernelCache()
    let driver = CUDALibrary.driver.load()
    guard driver.isLoaded else {
      throw .device(
        name: name, reason: "no CUDA driver (\(driver.tried.first ?? "")); \(CUDALibrary.driver.advice)")
    }
    do throws(CUDAError) {
      device = try CUDADevice(ordinal)
      guard device.info.capability >= 80 else {
        throw CUDAError(
          .driver, 209, "\(device.info.name)", "compute capability \(device.info.capability) is less than 80")
      }
      arena = DeviceArena(device)
      mainStream = try CUDAStream(device)
      sideStream = try CUDAStream(device)
      setupStream = try CUDAStream(device)
      forked = try CUDAEvent(device)
      joined = try CUDAEvent(device)
      pinned = try PinnedBuffer(device, byteCount: 4 << 20)
      library =
        CUDALibrary.cublasLt.load().isLoaded ? try CUBLASLt(device, arena: arena, element: element) : nil
    } catch {
      throw error.asPolarError(device: "cuda:\(ordinal)")
    }
  }

  // MARK: Memory

  package func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    let memory = try arena.allocate(byteCount)
    guard byteCount > 0 else { return memory }
    do throws(CUDAError) {
      try device.makeCurrent()
      // A block that was given back may still be in use by what was issued before. While recording nothing can be waited for.
      if !state.withLock({ $0.isRecording }) {
        try mainStream.synchronize()
        try sideStream.synchronize()
      }
      try check(
        pc_cuMemsetD8Async(CUdeviceptr(memory.base.bits), 0, byteCount, setupStream.raw), "cuMemsetD8Async")
      try setupStream.synchronize()
    } catch {
      throw error.asPolarError(device: name)
    }
    return memory
  }

  package func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) {
    attempt { () throws(CUDAError) in
      try device.makeCurrent()
      var source = bytes.baseAddress
      let isStaged = bytes.count <= pinned.byteCount
      if isStaged, let host = source {
        let staged = pinned.base + (try reserveStaging(bytes.count))
        staged.copyMemory(from: host, byteCount: bytes.count)
        source = UnsafeRawPointer(staged)
      }
      try check(
        pc_cuMemcpyHtoDAsync(CUdeviceptr(address.bits), source, bytes.count, mainStream.raw),
        "cuMemcpyHtoDAsync", "\(bytes.count) bytes")
      // Where a GPU reads the host's memory by itself, the copy may be under way when the call returns.
      if !isStaged { try mainStream.synchronize() }
    }
  }

  /// The offset of `byteCount` bytes of pinned memory that no copy under way reads.
  private func reserveStaging(_ byteCount: Int) throws(CUDAError) -> Int {
    let wraps = state.withLock { $0.pinnedOffset + byteCount > pinned.byteCount }
    if wraps { try mainStream.synchronize() }
    return state.withLock { state in
      if wraps { state.pinnedOffset = 0 }
      defer { state.pinnedOffset += (byteCount + 63) & ~63 }
      return state.pinnedOffset
    }
  }

  package func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    attempt { () throws(CUDAError) in
      try device.makeCurrent()
      try check(
        pc_cuMemcpyDtoHAsync(bytes.baseAddress, CUdeviceptr(address.bits), bytes.count, mainStream.raw),
        "cuMemcpyDtoHAsync", "\(bytes.count) bytes")
      try wait()
    }
  }

  package func synchronize() {
    attempt { () throws(CUDAError) in
      try device.makeCurrent()
      try wait()
    }
  }

  /// Waits for the main stream. A kernel's own errors show here, not where it was launched.
  private func wait() throws(CUDAError) {
    try check(pc_cuStreamSynchronize(mainStream.raw), "cuStreamSynchronize", lastLaunch)
  }

  private var lastLaunch: String {
    let (op, kernel) = state.withLock { ($0.lastOp, $0.lastKernel) }
    return kernel.map { "last launched: op \(op), kernel \($0.rawValue)" } ?? ""
  }

  // MARK: Kernels

  package func prepare(_ kernel: Kernel, headDim: Int, sharedBytes: Int) throws(PolarError) {
    let key = KernelKey(kernel: kernel, headDim: headDim)
    guard state.withLock({ $0.kernels[key] == nil }) else { return }
    guard
      let unit = KernelUnit(
        kernel.file, headDim: kernel.dependsOnHeadDim ? headDim : nil, element: element)
    else {
      throw .device(name: name, reason: "there is no source of \(kernel.rawValue)")
    }
    do throws(CUDAError) {
      let module = try module(of: unit)
      let function = try module.kernel(kernel.rawValue)
      if sharedBytes > 0 { try function.allowSharedMemory(sharedBytes) }
      state.withLock { $0.kernels[key] = function }
    } catch {
      throw error.asPolarError(device: name)
    }
  }

  private func module(of unit: KernelUnit) throws(CUDAError) -> CUDAModule {
    if let module = state.withLock({ $0.modules[unit.name] }) { return module }
    let image = try cache.image(of: unit, architecture: device.info.architecture)
    let module = try CUDAModule(image, name: unit.name, on: device)
    state.withLock { $0.modules[unit.name] = module }
    return module
  }

  package func launch(_ launch: KernelLaunch) {
    let key = KernelKey(kernel: launch.kernel, headDim: launch.headDim)
    let (kernel, onSide) = state.withLock { state in
      (state.lastOp, state.lastKernel) = (launch.op, launch.kernel)
      return (state.kernels[key], state.isOnSide)
    }
    attempt { () throws(CUDAError) in
      try device.makeCurrent()
      guard let kernel, let arguments = launch.arguments.baseAddress else {
        throw CUDAError(.driver, 500, "cuLaunchKernel", Self.describe(launch))
      }
      try check(
        kernel.launch(launch.geometry, arguments, on: onSide ? sideStream : mainStream), "cuLaunchKernel",
        Self.describe(launch))
    }
  }

  private static func describe(_ launch: KernelLaunch) -> String {
    let dim = launch.headDim > 0 ? " of head dim \(launch.headDim)" : ""
    return "op \(launch.op), kernel \(launch.kernel.rawValue)\(dim), \(launch.geometry)"
  }

  package func supports(_ product: MatrixProduct) -> Bool {
    library?.supports(product, on: mainStream) ?? false
  }

  package func multiply(_ product: MatrixProduct) {
    let onSide = state.withLock { $0.isOnSide }
    attempt { () throws(CUDAError) in
      try device.makeCurrent()
      try library?.multiply(product, on: onSide ? sideStream : mainStream, queue: onSide ? 1 : 0)
    }
  }

  // MARK: Order

  package func beginSide() {
    attempt { () throws(CUDAError) in
      try device.makeCurrent()
      try forked.record(on: mainStream)
      try sideStream.wait(for: forked)
    }
    state.withLock { $0.isOnSide = true }
  }

  package func endSide() {
    attempt { () throws(CUDAError) in try joined.record(on: sideStream) }
    state.withLock { $0.isOnSide = false }
  }

  package func join() {
    attempt { () throws(CUDAError) in try mainStream.wait(for: joined) }
  }

  package func record(_ body: () -> Void) -> (any RecordedWork)? {
    state.withLock { $0.isRecording = true }
    defer { state.withLock { $0.isRecording = false } }
    do throws(CUDAError) {
      try device.makeCurrent()
      let graph = try mainStream.capture { () throws(CUDAError) in body() }
      return failure == nil ? Recording(graph, self) : nil
    } catch {
      fail(error)
      return nil
    }
  }

  private final class Recording: RecordedWork {
    private let graph: CUDAGraph
    private let device: DriverDevice

    init(_ graph: CUDAGraph, _ device: DriverDevice) {
      self.graph = graph
      self.device = device
    }

    func replay() {
      device.attempt { () throws(CUDAError) in
        try device.device.makeCurrent()
        try graph.launch(on: device.mainStream)
      }
    }
  }

  // MARK: Measurement

  package func copySeconds(_ from: Address, to: Address, byteCount: Int) throws(PolarError) -> Double {
    do throws(CUDAError) {
      try device.makeCurrent()
      let (start, end) = (try CUDAEvent(device, timing: true), try CUDAEvent(device, timing: true))
      try start.record(on: mainStream)
      try check(
        pc_cuMemcpyDtoDAsync(CUdeviceptr(to.bits), CUdeviceptr(from.bits), byteCount, mainStream.raw),
        "cuMemcpyDtoDAsync", "\(byteCount) bytes")
      try end.record(on: mainStream)
      return try end.seconds(since: start)
    } catch {
      throw error.asPolarError(device: name)
    }
  }

  package var availableMemory: Int? { try? device.availableBytes() }

  // MARK: Failure

  /// Runs a call whose error nobody can take: the first one is kept.
  private func attempt(_ body: () throws(CUDAError) -> Void) {
    do throws(CUDAError) { try body() } catch { fail(error) }
  }

  private func fail(_ error: CUDAError) {
    state.withLock { if $0.failure == nil { $0.failure = error.asPolarError(device: name) } }
  }
}

/// Host memory that the device reads directly.
private final class PinnedBuffer: Sendable {
  nonisolated(unsafe) let base: UnsafeMutableRawPointer
  let byteCount: Int
  private let device: CUDADevice

  init(_ device: CUDADevice, byteCount: Int) throws(CUDAError) {
    try device.makeCurrent()
    var pointer: UnsafeMutableRawPointer?
    try check(pc_cuMemAllocHost(&pointer, byteCount), "cuMemAllocHost", "\(byteCount) bytes")
    guard let pointer else { throw CUDAError(.driver, 1, "cuMemAllocHost") }
    base = pointer
    self.byteCount = byteCount
    self.device = device
  }

  deinit {
    try? device.makeCurrent()
    _ = pc_cuMemFreeHost(base)
  }
}
