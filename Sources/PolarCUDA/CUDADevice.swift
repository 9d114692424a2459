internal import CPolarCUDA
internal import PolarCore

/// What a GPU is, as the driver tells it.
public struct CUDADeviceInfo: Sendable, Equatable {
  /// Its number, from 0.
  public let ordinal: Int
  /// Such as `NVIDIA H200`.
  public let name: String
  /// Compute capability times ten: 80, 90, 100.
  public let capability: Int
  /// Streaming multiprocessors.
  public let multiprocessors: Int
  /// Bytes of its memory.
  public let memoryBytes: Int
  /// Bytes of its L2 cache.
  public let l2Bytes: Int
  /// The most bytes of shared memory of a block.
  public let sharedBytesPerBlock: Int
  /// Bytes per second that memory clock and bus width give, or nil where the driver does not tell them.
  public let peakBandwidth: Double?

  /// The architecture that kernels are compiled for: `sm_90a` is Hopper with its own instructions.
  public var architecture: String { capability == 90 ? "sm_90a" : "sm_\(capability)" }
}

/// A GPU with its primary context, which lives as long as the device and all that was made from it.
final class CUDADevice: Sendable {
  let info: CUDADeviceInfo
  private let handle: Int32
  private nonisolated(unsafe) let context: CUcontext

  /// All GPUs that the driver shows; none when the driver is missing or refuses.
  static func all() throws(CUDAError) -> [CUDADeviceInfo] {
    try check(pc_cuInit(0), "cuInit")
    var count: Int32 = 0
    try check(pc_cuDeviceGetCount(&count), "cuDeviceGetCount")
    var devices: [CUDADeviceInfo] = []
    for ordinal in 0..<Int(count) { devices.append(try info(of: ordinal).info) }
    return devices
  }

  private static func info(of ordinal: Int) throws(CUDAError) -> (info: CUDADeviceInfo, handle: Int32) {
    var device: Int32 = 0
    try check(pc_cuDeviceGet(&device, Int32(clamping: ordinal)), "cuDeviceGet", "device \(ordinal)")
    func attribute(_ which: Int) throws(CUDAError) -> Int {
      var value: Int32 = 0
      try check(
        pc_cuDeviceGetAttribute(&value, Int32(which), device), "cuDeviceGetAttribute", "attribute \(which)")
      return Int(value)
    }
    var name = [CChar](repeating: 0, count: 256)
    try check(pc_cuDeviceGetName(&name, 255, device), "cuDeviceGetName")
    var bytes = 0
    try check(pc_cuDeviceTotalMem(&bytes, device), "cuDeviceTotalMem")
    // Drivers need not tell these two.
    let clock = Double((try? attribute(POLAR_CU_ATTRIBUTE_MEMORY_CLOCK_KHZ)) ?? 0)
    let bus = Double((try? attribute(POLAR_CU_ATTRIBUTE_BUS_WIDTH_BITS)) ?? 0)
    // Two transfers per clock.
    let bandwidth: Double? = clock > 0 && bus > 0 ? 2e3 * clock * bus / 8 : nil
    let major = try attribute(POLAR_CU_ATTRIBUTE_MAJOR)
    let minor = try attribute(POLAR_CU_ATTRIBUTE_MINOR)
    let info = CUDADeviceInfo(
      ordinal: ordinal,
      name: String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self),
      capability: major * 10 + minor,
      multiprocessors: try attribute(POLAR_CU_ATTRIBUTE_MULTIPROCESSORS), memoryBytes: bytes,
      l2Bytes: try attribute(POLAR_CU_ATTRIBUTE_L2_BYTES),
      sharedBytesPerBlock: try attribute(POLAR_CU_ATTRIBUTE_SHARED_PER_BLOCK_OPTIN),
      peakBandwidth: bandwidth)
    return (info, device)
  }

  init(_ ordinal: Int) throws(CUDAError) {
    try check(pc_cuInit(0), "cuInit")
    (info, handle) = try Self.info(of: ordinal)
    var context: CUcontext?
    try check(pc_cuDevicePrimaryCtxRetain(&context, handle), "cuDevicePrimaryCtxRetain", info.name)
    guard let context else { throw CUDAError(.driver, 1, "cuDevicePrimaryCtxRetain", info.name) }
    self.context = context
    try makeCurrent()
  }

  deinit { _ = pc_cuDevicePrimaryCtxRelease(handle) }

  /// The driver keeps the current context by thread, and work moves between threads: to be called before any other call.
  @inline(__always) func makeCurrent() throws(CUDAError) {
    try check(pc_cuCtxSetCurrent(context), "cuCtxSetCurrent")
  }

  /// Bytes of memory that are free now.
  func availableBytes() throws(CUDAError) -> Int {
    try makeCurrent()
    var (available, total) = (0, 0)
    try check(pc_cuMemGetInfo(&available, &total), "cuMemGetInfo")
    return available
  }
}

/// An ordered queue of work on a device.
final class CUDAStream: Sendable {
  let device: CUDADevice
  nonisolated(unsafe) let raw: CUstream

  init(_ device: CUDADevice) throws(CUDAError) {
    try device.makeCurrent()
    var stream: CUstream?
    try check(pc_cuStreamCreate(&stream, UInt32(POLAR_CU_STREAM_NON_BLOCKING)), "cuStreamCreate")
    guard let stream else { throw CUDAError(.driver, 1, "cuStreamCreate") }
    raw = stream
    self.device = device
  }

  deinit {
    try? device.makeCurrent()
    _ = pc_cuStreamDestroy(raw)
  }

  func synchronize() throws(CUDAError) { try check(pc_cuStreamSynchronize(raw), "cuStreamSynchronize") }

  /// What comes later on this stream waits for `event`.
  func wait(for event: CUDAEvent) throws(CUDAError) {
    try check(pc_cuStreamWaitEvent(raw, event.raw, 0), "cuStreamWaitEvent")
  }

  /// Records what `body` enqueues on this stream, and on streams that wait for it, as a graph. `body` may neither
  /// allocate nor synchronise.
  func capture(_ body: () throws(CUDAError) -> Void) throws(CUDAError) -> CUDAGraph {
    try check(
      pc_cuStreamBeginCapture(raw, Int32(POLAR_CU_CAPTURE_RELAXED)), "cuStreamBeginCapture")
    var graph: CUgraph?
    defer { if let graph { _ = pc_cuGraphDestroy(graph) } }
    do throws(CUDAError) {
      try body()
    } catch {
      // The stream must leave capture mode whatever happened.
      _ = pc_cuStreamEndCapture(raw, &graph)
      throw error
    }
    try check(pc_cuStreamEndCapture(raw, &graph), "cuStreamEndCapture")
    guard let graph else { throw CUDAError(.driver, 1, "cuStreamEndCapture") }
    var work: CUgraphExec?
    try check(pc_cuGraphInstantiate(&work, graph, 0), "cuGraphInstantiate")
    guard let work else { throw CUDAError(.driver, 1, "cuGraphInstantiate") }
    return CUDAGraph(work, device)
  }
}

/// A point in a stream that others can wait for, or measure from.
final class CUDAEvent: Sendable {
  private let device: CUDADevice
  nonisolated(unsafe) let raw: CUevent

  init(_ device: CUDADevice, timing: Bool = false) throws(CUDAError) {
    try device.makeCurrent()
    var event: CUevent?
    try check(
      pc_cuEventCreate(&event, timing ? 0 : UInt32(POLAR_CU_EVENT_DISABLE_TIMING)), "cuEventCreate")
    guard let event else { throw CUDAError(.driver, 1, "cuEventCreate") }
    raw = event
    self.device = device
  }

  deinit {
    try? device.makeCurrent()
    _ = pc_cuEventDestroy(raw)
  }

  func record(on stream: CUDAStream) throws(CUDAError) {
    try check(pc_cuEventRecord(raw, stream.raw), "cuEventRecord")
  }

  /// Seconds of the device between `start` and this event; waits for this event.
  func seconds(since start: CUDAEvent) throws(CUDAError) -> Double {
    try check(pc_cuEventSynchronize(raw), "cuEventSynchronize")
    var milliseconds: Float = 0
    try check(pc_cuEventElapsedTime(&milliseconds, start.raw, raw), "cuEventElapsedTime")
    return Double(milliseconds) / 1e3
  }
}

/// Captured work, ready to be launched again and again.
final class CUDAGraph: Sendable {
  private let device: CUDADevice
  private nonisolated(unsafe) let raw: CUgraphExec

  fileprivate init(_ raw: CUgraphExec, _ device: CUDADevice) {
    self.raw = raw
    self.device = device
  }

  deinit {
    try? device.makeCurrent()
    _ = pc_cuGraphExecDestroy(raw)
  }

  func launch(on stream: CUDAStream) throws(CUDAError) {
    try check(pc_cuGraphLaunch(raw, stream.raw), "cuGraphLaunch")
  }
}

/// Machine code of one source file, loaded on a device.
final class CUDAModule: Sendable {
  private let device: CUDADevice
  private nonisolated(unsafe) let raw: CUmodule

  init(_ image: [UInt8], name: String, on device: CUDADevice) throws(CUDAError) {
    try device.makeCurrent()
    var module: CUmodule?
    let result = image.withUnsafeBytes { pc_cuModuleLoadData(&module, $0.baseAddress) }
    try check(result, "cuModuleLoadData", "\(name) for \(device.info.architecture)")
    guard let module else { throw CUDAError(.driver, 1, "cuModuleLoadData", name) }
    raw = module
    self.device = device
  }

  deinit {
    try? device.makeCurrent()
    _ = pc_cuModuleUnload(raw)
  }

  /// A kernel by its name, allowed as much dynamic shared memory as a block of the device can have.
  func kernel(_ name: String) throws(CUDAError) -> CUDAKernel {
    var function: CUfunction?
    try check(pc_cuModuleGetFunction(&function, raw, name), "cuModuleGetFunction", name)
    guard let function else { throw CUDAError(.driver, 1, "cuModuleGetFunction", name) }
    return CUDAKernel(raw: function, module: self)
  }
}

/// A kernel of a loaded module.
struct CUDAKernel: Sendable {
  fileprivate nonisolated(unsafe) let raw: CUfunction
  /// Keeps the code loaded.
  private let module: CUDAModule

  fileprivate init(raw: CUfunction, module: CUDAModule) {
    self.raw = raw
    self.module = module
  }

  /// Lets the kernel have `bytes` of dynamic shared memory, and as many blocks of it a multiprocessor as that leaves room for. Without
  /// leave a block has 48 KiB, static shared memory included.
  func allowSharedMemory(_ bytes: Int) throws(CUDAError) {
    try check(
      pc_cuFuncSetAttribute(raw, Int32(POLAR_CU_FUNCTION_MAX_DYNAMIC_SHARED), Int32(clamping: bytes)),
      "cuFuncSetAttribute", "\(bytes) bytes of shared memory")
    try check(
      pc_cuFuncSetAttribute(
        raw, Int32(POLAR_CU_FUNCTION_SHARED_CARVEOUT), Int32(POLAR_CU_CARVEOUT_MAX_SHARED)),
      "cuFuncSetAttribute", "shared memory before L1")
  }

  /// Enqueues the kernel; `arguments` points to the one struct that is its argument.
  @inline(__always)
  func launch(_ geometry: LaunchGeometry, _ arguments: UnsafeRawPointer, on stream: CUDAStream) -> Int32 {
    var pointer: UnsafeMutableRawPointer? = UnsafeMutableRawPointer(mutating: arguments)
    return pc_cuLaunchKernel(
      raw, geometry.gridX, geometry.gridY, geometry.gridZ, geometry.block, 1, 1, geometry.sharedBytes,
      stream.raw, &pointer, nil)
  }
}
