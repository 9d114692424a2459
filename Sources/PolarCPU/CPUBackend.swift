internal import CPolarCPU
public import PolarCore

/// The instruction sets that the CPU kernels exist for.
@frozen public enum CPUISA: Int32, Sendable, BitwiseCopyable, CaseIterable {
  /// Plain C on 128-bit vectors.
  case generic = 0
  /// AVX2 with FMA and F16C.
  case avx2 = 1
  /// AVX2 with FMA and F16C, and AVX-VNNI for weights of 8 and 4 bits.
  case avxVNNI = 2
  /// AVX-512 with BF16 and VNNI.
  case avx512 = 3
  /// NEON with I8MM (arm64).
  case neon = 4

  /// True when this machine runs the instruction set.
  public var isSupported: Bool { polar_isa_supported(rawValue) != 0 }

  /// The fastest instruction set that this machine runs.
  public static var best: CPUISA { CPUISA(rawValue: polar_isa_best()) ?? .generic }

  /// A short name such as `avx2`.
  public var name: String { String(cString: polar_cpu_isa_name(rawValue)) }
}

/// The CPU: C kernels for several instruction sets, chosen at run time, and one pool of threads.
///
/// The KV cache is bf16 or int8, activations f32. Every op returns when its result is written. All scratch is
/// allocated at creation; ops do not allocate. Results depend on the instruction set, but not on the number of
/// threads or on the other rows of a batch, bit for bit. Ops may be called from any thread; those that use the pool
/// run one at a time.
public final class CPUBackend: Backend {
  /// The kernels' threads and scratch. They are internally synchronised.
  nonisolated(unsafe) let context: OpaquePointer

  /// The instruction set in use.
  public let isa: CPUISA
  /// Threads that work on an op, the caller included.
  public let threads: Int

  /// `cpu-` and the instruction set.
  public var name: String { "cpu-\(isa.name)" }
  /// K and V are stored as bf16 or as i8 with scales.
  public let kvDType: DType

  /// A backend with `threads` threads (nil: as many as the process may run on, less where a control group limits its
  /// processor time) and the kernels of `isa` (nil: the best one), whose K and V are stored as `kvDType`: bf16 or i8.
  ///
  /// - Throws: ``PolarError/configuration(field:reason:)`` for a thread count below one, an instruction set that
  ///   this machine lacks or another `kvDType`, ``PolarError/outOfMemory(what:bytes:)`` when scratch memory or
  ///   threads cannot be had.
  public init(threads: Int? = nil, isa: CPUISA? = nil, kvDType: DType = .bf16) throws(PolarError) {
    guard kvDType == .bf16 || kvDType == .i8 else {
      throw .configuration(field: "kvDType", reason: "the CPU stores K and V as bf16 or i8, not \(kvDType)")
    }
    self.kvDType = kvDType
    let isa = isa ?? .best
    guard isa.isSupported else {
      throw .configuration(field: "isa", reason: "this processor does not run \(isa.name)")
    }
    if let threads, threads < 1 || threads > 1024 {
      throw .configuration(field: "threads", reason: "\(threads) is not in 1...1024")
    }
    guard let context = polar_context_create(Int32(threads ?? 0), isa.rawValue) else {
      throw .outOfMemory(what: "CPU backend scratch and threads", bytes: 0)
    }
    self.context = context
    self.isa = isa
    self.threads = Int(polar_context_threads(context))
  }

  deinit { polar_context_destroy(context) }

  // MARK: Memory

  /// Memory aligned to 64 bytes; blocks of 2 MiB and more ask for huge pages.
  public func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    guard byteCount >= 0, let pointer = polar_memory_allocate(byteCount) else {
      throw .outOfMemory(what: "CPU memory", bytes: byteCount)
    }
    return CPUMemory(pointer, byteCount: byteCount)
  }

  /// Copies host bytes to `address`.
  public func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) {
    guard let source = bytes.baseAddress else { return }
    address.raw?.copyMemory(from: source, byteCount: bytes.count)
  }

  /// Copies bytes at `address` out.
  public func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    guard let source = address.raw else { return }
    bytes.baseAddress?.copyMemory(from: source, byteCount: bytes.count)
  }

  /// The memory itself.
  public func hostPointer(_ address: Address) -> UnsafeRawPointer? { UnsafeRawPointer(address.raw) }

  /// Does nothing: ops return when they are done.
  public func synchronize() {}

  // MARK: Measurement

  /// Processor seconds that the backend's own threads have used; the callers' are not counted. It stands still while the
  /// threads are parked, which they are soon after the last op.
  public var workerSeconds: Double { polar_context_worker_seconds(context) }

  /// Processors, rounded up, that the control groups of a process leave it; nil when they set no limit.
  ///
  /// - Parameters:
  ///   - membership: its `/proc/PID/cgroup`.
  ///   - mount: where the hierarchies are mounted, such as `/sys/fs/cgroup`.
  public static func controlGroupLimit(membership: String, mount: String) -> Int? {
    let limit = Int(polar_cgroup_processors(membership, mount))
    return limit > 0 ? limit : nil
  }

  /// GB/s (1e9 bytes) that all threads together read from memory, one sequential stream each: the best of
  /// `repeats` passes over `byteCount` bytes, which should be many times the size of the caches. 0 if memory is short.
  public func measuredReadBandwidth(byteCount: Int = 1 << 30, repeats: Int = 5) -> Double {
    polar_measure_read_bandwidth(context, max(0, byteCount), Int32(clamping: repeats))
  }

  /// GFLOP/s of the multiply-add that linear layers use, all threads together.
  public func measuredFMAPeak() -> Double { polar_measure_fma_peak(context) }

  /// GOP/s of the products of bytes that linear layers on quantised weights use, all threads together.
  public func measuredIntegerPeak() -> Double { polar_measure_int_peak(context) }
}

/// Host memory of the CPU backend.
private final class CPUMemory: DeviceMemory {
  let base: Address
  let byteCount: Int

  init(_ pointer: UnsafeMutableRawPointer, byteCount: Int) {
    self.base = Address(UInt(bitPattern: pointer))
    self.byteCount = byteCount
  }

  deinit { polar_memory_free(base.raw, byteCount) }
}

extension Address {
  /// The address as host memory.
  @inline(__always) var raw: UnsafeMutableRawPointer? { UnsafeMutableRawPointer(bitPattern: bits) }
  /// The address as host memory of `T`.
  @inline(__always) func pointer<T: BitwiseCopyable>(_: T.Type) -> UnsafeMutablePointer<T>? {
    UnsafeMutablePointer(bitPattern: bits)
  }
}

extension Tensor {
  /// The elements as f32.
  @inline(__always) var floats: UnsafeMutablePointer<Float>? { address.pointer(Float.self) }
  /// The elements as i32.
  @inline(__always) var integers: UnsafeMutablePointer<Int32>? { address.pointer(Int32.self) }
  /// The elements as u8.
  @inline(__always) var bytes: UnsafeMutablePointer<UInt8>? { address.pointer(UInt8.self) }
  /// The row stride as C takes it.
  @inline(__always) var stride: Int64 { Int64(rowStride) }
}
