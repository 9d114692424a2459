internal import CPolarEmulator
package import PolarCUDA
package import PolarCore
import Synchronization

/// A machine without a GPU that runs the CUDA kernels, the very sources, thread by thread on the CPU.
///
/// What a GPU may do at the same time is done in the order that is least expected: the side of an overlap comes last. Recorded
/// work holds the launches with the bytes of their arguments and nothing else, so whatever else a step needs from the host is
/// missing at its replay.
package final class EmulatedDevice: KernelDevice {
  private struct Launch {
    let kernel: Kernel
    let headDim: Int
    let geometry: LaunchGeometry
    let arguments: [UInt8]
    let op: String
  }

  private struct State {
    var failure: PolarError?
    var prepared: Set<String> = []
    /// What is being recorded.
    var recording: [Launch]?
    /// Launches of the side that wait for the join; nil outside of a side.
    var side: [Launch]?
    var isOnSide = false
    var launches = 0
    var kernels: Set<Kernel> = []
    var recordings = 0
    var replays = 0
    var products: Set<[Int]> = []
    var seed: UInt64
  }

  private let state: Mutex<State>
  /// A fault that is planted in the kernels that it concerns.
  private let mutation: String?
  /// The one kernel that the fault is in; nil: in all that it concerns.
  private let mutated: Kernel?
  package let multiprocessors: Int
  package let element: CUDAElement
  package var name: String { "cuda-emulated" }
  package var failure: PolarError? { state.withLock { $0.failure } }

  /// Kernels run so far.
  package var launches: Int { state.withLock { $0.launches } }
  /// Which kernels ran.
  package var kernels: Set<Kernel> { state.withLock { $0.kernels } }
  /// Recordings made and replayed so far.
  package var recordings: (made: Int, replayed: Int) { state.withLock { ($0.recordings, $0.replays) } }

  /// Rows, in a bucket, outputs and inputs of the products that a vendor's library was asked for.
  package var products: Set<[Int]> { state.withLock { $0.products } }

  /// A machine of a few multiprocessors. The seed decides in which order threads and blocks run; `mutation` is a fault that is
  /// planted in those kernels that it concerns.
  package init(
    multiprocessors: Int = 3, seed: UInt64 = 1, element: CUDAElement = .bf16, mutation: String? = nil,
    mutated: Kernel? = nil
  ) {
    self.multiprocessors = multiprocessors
    self.element = element
    self.mutation = mutation
    self.mutated = mutated
    state = Mutex(State(seed: seed))
  }

  // MARK: Memory

  package func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    guard byteCount >= 0, byteCount < 1 << 36 else {
      throw .outOfMemory(what: "emulated GPU memory", bytes: byteCount)
    }
    return Memory(byteCount)
  }

  package func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) {
    guard refusesNothing("upload"), let source = bytes.baseAddress else { return }
    UnsafeMutableRawPointer(bitPattern: address.bits)?.copyMemory(from: source, byteCount: bytes.count)
  }

  package func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    guard refusesNothing("download"), let source = UnsafeRawPointer(bitPattern: address.bits) else { return }
    bytes.baseAddress?.copyMemory(from: source, byteCount: bytes.count)
  }

  package func copySeconds(_ from: Address, to: Address, byteCount: Int) throws(PolarError) -> Double {
    let start = ContinuousClock.now
    if let source = UnsafeRawPointer(bitPattern: from.bits) {
      UnsafeMutableRawPointer(bitPattern: to.bits)?.copyMemory(from: source, byteCount: byteCount)
    }
    return max(1e-9, (ContinuousClock.now - start) / .seconds(1))
  }

  package func synchronize() { _ = refusesNothing("synchronize") }

  /// Copies to and from the host, and waits, cannot be part of recorded work.
  private func refusesNothing(_ call: String) -> Bool {
    state.withLock { state in
      guard state.recording != nil else { return true }
      if state.failure == nil {
        state.failure = .device(name: "cuda-emulated", reason: "\(call) while recording")
      }
      return false
    }
  }

  private final class Memory: DeviceMemory {
    let base: Address
    let byteCount: Int

    init(_ byteCount: Int) {
      let block = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 1), alignment: 256)
      block.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
      base = Address(UInt(bitPattern: block))
      self.byteCount = byteCount
    }

    deinit { UnsafeMutableRawPointer(bitPattern: base.bits)?.deallocate() }
  }

  // MARK: Kernels

  package func prepare(_ kernel: Kernel, headDim: Int, sharedBytes: Int) throws(PolarError) {
    state.withLock { _ = $0.prepared.insert("\(kernel.rawValue) \(headDim)") }
  }

  package func launch(_ launch: KernelLaunch) {
    let copy = Launch(
      kernel: launch.kernel, headDim: launch.headDim, geometry: launch.geometry,
      arguments: Array(launch.arguments), op: "\(launch.op)")
    let isReady = state.withLock { state in
      guard state.prepared.contains("\(copy.kernel.rawValue) \(copy.headDim)") else {
        if state.failure == nil {
          state.failure = .device(name: "cuda-emulated", reason: "\(copy.kernel.rawValue) was not prepared")
        }
        return false
      }
      if state.isOnSide {
        state.side?.append(copy)
        return false
      }
      if state.recording != nil {
        state.recording?.append(copy)
        return false
      }
      return true
    }
    if isReady { run(copy) }
  }

  private func run(_ launch: Launch) {
    let seed = state.withLock { state in
      state.launches += 1
      state.kernels.insert(launch.kernel)
      state.seed &+= 1
      return state.seed
    }
    var message = [CChar](repeating: 0, count: 512)
    let result = launch.kernel.rawValue.withCString { name in
      launch.arguments.withUnsafeBytes { arguments in
        var emulated = PolarEmulatorLaunch()
        emulated.kernel = name
        emulated.head_dim = Int32(launch.headDim)
        emulated.element_f16 = element == .f16 ? 1 : 0
        emulated.grid = (launch.geometry.gridX, launch.geometry.gridY, launch.geometry.gridZ)
        emulated.block = (launch.geometry.block, 1, 1)
        emulated.shared_bytes = UInt(launch.geometry.sharedBytes)
        emulated.args = arguments.baseAddress
        emulated.args_bytes = UInt(arguments.count)
        emulated.seed = seed
        guard let mutation, mutated ?? launch.kernel == launch.kernel, Self.concerns(mutation, launch.kernel)
        else {
          return polar_emulator_launch(&emulated, &message, UInt(message.count))
        }
        return mutation.withCString { fault in
          emulated.mutation = fault
          return polar_emulator_launch(&emulated, &message, UInt(message.count))
        }
      }
    }
    guard result != 0 else { return }
    let text = String(decoding: message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    state.withLock { state in
      if state.failure == nil {
        state.failure = .device(
          name: "cuda-emulated", reason: "op \(launch.op), \(launch.geometry): \(text)")
      }
    }
  }

  /// Whether a fault is planted in a kernel.
  private static func concerns(_ mutation: String, _ kernel: Kernel) -> Bool {
    var index: Int32 = 0
    while let name = polar_emulator_mutation(kernel.rawValue, index) {
      if String(cString: name) == mutation { return true }
      index += 1
    }
    return false
  }

  /// There is no library.
  package func supports(_ product: MatrixProduct) -> Bool {
    state.withLock {
      _ = $0.products.insert([RowBucket.size(holding: product.rows), product.outputs, product.inputs])
    }
    return false
  }

  // MARK: Order

  package func beginSide() {
    state.withLock { state in
      state.side = []
      state.isOnSide = true
    }
  }

  package func endSide() { state.withLock { $0.isOnSide = false } }

  package func join() {
    let side = state.withLock { state in
      defer { state.side = nil }
      let side = state.side ?? []
      guard state.recording == nil else {
        state.recording? += side
        return [Launch]()
      }
      return side
    }
    for launch in side { run(launch) }
  }

  package func record(_ body: () -> Void) -> (any RecordedWork)? {
    state.withLock { $0.recording = [] }
    body()
    let launches = state.withLock { state in
      state.recordings += 1
      defer { state.recording = nil }
      return state.recording ?? []
    }
    return failure == nil ? Recording(launches, self) : nil
  }

  private final class Recording: RecordedWork {
    private let launches: [Launch]
    private let device: EmulatedDevice

    init(_ launches: [Launch], _ device: EmulatedDevice) {
      self.launches = launches
      self.device = device
    }

    func replay() {
      device.state.withLock { $0.replays += 1 }
      for launch in launches { device.run(launch) }
    }
  }
}
