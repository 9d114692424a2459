internal import CPolarCUDA
public import PolarCore
internal import Synchronization

/// An NVIDIA GPU.
///
/// Weights, K and V are bf16 or f16 (``CUDAElement``), activations f32, sums f32. Ops only enqueue; ``synchronize()`` and downloads wait. An error of
/// the device cannot be reported by an op: it is kept in ``failure``. A row of a result does not depend on the other rows,
/// except that linear layers of more than ``libraryRows`` rows use cuBLASLt where it is there, whose sums depend on the
/// number of rows: results are batch-invariant within a bucket, and throughout with ``Options/batchInvariant``.
public final class CUDABackend: Backend {
  /// What a backend may be asked for.
  public struct Options: Sendable {
    /// Never use cuBLASLt, so that a row's result is the same in every batch.
    public var batchInvariant = false
    /// What weights, K and V are.
    public var element = CUDAElement.bf16

    /// The defaults.
    public init(batchInvariant: Bool = false, element: CUDAElement = .bf16) {
      self.batchInvariant = batchInvariant
      self.element = element
    }
  }

  /// Linear layers of at most this many rows use the own kernel, which reads the weights once and is as fast.
  static let libraryRows = 4

  let device: any KernelDevice
  private let options: Options
  /// Working memory of ops, and what a step has planned already.
  let scratch: Mutex<Scratch>
  /// Held while a product of training is issued, which takes working memory for several launches.
  let product = Mutex(())

  /// Such as `cuda:0`.
  public var name: String { device.name }
  /// K and V are stored as elements.
  public var kvDType: DType { device.element.dtype }
  /// Neuron-major weights are elements.
  public var neuronDType: DType { device.element.dtype }
  /// Rows lie one after the other.
  public func neuronStride(columns: Int) -> Int { columns }
  /// Tokens are chosen where the logits are.
  public var tokenDrawing: (any TokenDrawing)? { self }
  /// Pages lie one after the other, all heads in each.
  public var kvLayout: KVLayout { .byPage }
  /// Prefill works in tiles of its own: the two differ by rounding.
  public var prefillMatchesDecode: Bool { false }
  /// The first error of the device.
  public var failure: PolarError? { device.failure ?? scratch.withLock { $0.failure } }

  /// The GPU number `ordinal`.
  /// - Throws: ``PolarError/device(name:reason:)`` when there is no such GPU, its driver is missing, or kernels can neither
  ///   be compiled nor found compiled.
  public convenience init(ordinal: Int = 0, options: Options = Options()) throws(PolarError) {
    try self.init(device: try DriverDevice(ordinal: ordinal, element: options.element), options: options)
  }

  /// A backend on a device, of the device's element type. All kernels that neither depend on a model nor serve calibration alone
  /// are made ready here.
  package init(device: any KernelDevice, options: Options = Options()) throws(PolarError) {
    self.device = device
    self.options = options
    scratch = Mutex(Scratch())
    for kernel in Kernel.allCases where !kernel.dependsOnHeadDim && !kernel.isForTraining {
      try device.prepare(kernel, headDim: 0, sharedBytes: Self.sharedBytes(kernel))
    }
  }

  /// Whether cuBLASLt may be used.
  var usesLibrary: Bool { !options.batchInvariant }

  /// The most dynamic shared memory of a kernel whose need does not depend on the head dimension.
  private static func sharedBytes(_ kernel: Kernel) -> Int {
    if kernel == .routeHeads { return Int(polar_up_shared(Int32(POLAR_ROUTE_ROWS), 0)) }
    for tokens: Int32 in [8, 16, 32, 64] {
      if kernel == .linear(tokens: Int(tokens)) || kernel == .selectiveUp(tokens: Int(tokens), gated: false)
        || kernel == .routeNeurons(tokens: Int(tokens))
      {
        return Int(polar_up_shared(tokens, 0))
      }
      if kernel == .selectiveUp(tokens: Int(tokens), gated: true) { return Int(polar_up_shared(tokens, 1)) }
      if kernel == .selectiveDown(tokens: Int(tokens)) { return Int(polar_down_shared(tokens)) }
    }
    return 0
  }

  /// Makes the attention kernels of a model ready.
  /// - Throws: ``PolarError/configuration(field:reason:)`` for a head dimension or group that no kernel is made for.
  public func prepare(_ shape: AttentionShape) throws(PolarError) {
    guard shape.headDim % 2 == 0, (2...256).contains(shape.headDim) else {
      throw .configuration(
        field: "headDim", reason: "\(shape.headDim) is not an even number up to 256, as \(name) needs")
    }
    let group = shape.heads / max(1, shape.kvHeads)
    guard group <= Int(POLAR_MAX_GROUP) else {
      throw .configuration(
        field: "heads", reason: "\(group) query heads of a KV head are more than the 16 that \(name) takes")
    }
    try prepareAttention(headDim: shape.headDim)
  }

  private func prepareAttention(headDim: Int) throws(PolarError) {
    let dim = Int32(headDim)
    for kernel in Kernel.allCases where kernel.dependsOnHeadDim {
      let shared =
        switch kernel {
        case .attentionDecode: Int(polar_decode_shared(dim))
        case .attentionPrefill: Int(polar_prefill_shared(dim))
        default: 0
        }
      try device.prepare(kernel, headDim: headDim, sharedBytes: shared)
    }
    scratch.withLock { $0.headDims.append(headDim) }
  }

  /// Whether the attention kernels of a head dimension are ready; makes them so if ``prepare(_:)`` has not.
  func hasAttention(headDim: Int) -> Bool {
    if scratch.withLock({ $0.headDims.contains(headDim) }) { return true }
    do throws(PolarError) {
      try prepareAttention(headDim: headDim)
      return true
    } catch {
      scratch.withLock { if $0.failure == nil { $0.failure = error } }
      return false
    }
  }

  // MARK: Memory

  /// Zeroed device memory.
  public func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    try device.allocate(byteCount: byteCount)
  }

  /// Bytes of the device's memory that are free, where it says.
  public var availableMemory: Int? { device.availableMemory }

  /// Copies host bytes to the device.
  public func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) {
    // One at a time: rows may be packed from several threads.
    scratch.withLock { scratch in
      scratch.forgetPlans()
      if !bytes.isEmpty { device.upload(bytes, to: address) }
    }
  }

  /// Waits for earlier work, then copies from the device.
  public func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    guard !bytes.isEmpty else { return }
    device.download(address, into: bytes)
  }

  /// Waits for all earlier work.
  public func synchronize() { device.synchronize() }

  /// GB/s, bytes read and written, at which the device copies `byteCount` bytes within its memory.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)`` when two such blocks do not fit.
  public func measuredCopyBandwidth(byteCount: Int = 4 << 30, repeats: Int = 9) throws(PolarError) -> Double {
    let (from, to) = (try allocate(byteCount: byteCount), try allocate(byteCount: byteCount))
    var best = 0.0
    for _ in 0..<max(1, repeats) {
      let seconds = try device.copySeconds(from.base, to: to.base, byteCount: byteCount)
      best = max(best, 2 * Double(byteCount) / seconds / 1e9)
    }
    return best
  }

  // MARK: Order and replay

  /// Runs `side` on a second stream.
  public func overlap(side: () -> Void, main: () -> Void) {
    device.beginSide()
    scratch.withLock { $0.queue = 1 }
    side()
    device.endSide()
    scratch.withLock { $0.queue = 0 }
    main()
    device.join()
  }

  /// Steps are recorded as CUDA graphs.
  public var recordsWork: Bool { true }

  /// Records the kernels of `body` as a graph.
  public func record(_ body: () -> Void) -> (any RecordedWork)? {
    // A plan made before would be missing from the graph, one made in it is not there after it.
    scratch.withLock { $0.forgetPlans() }
    defer { scratch.withLock { $0.forgetPlans() } }
    return device.record(body)
  }

  // MARK: Launching

  /// Enqueues a kernel with its argument struct.
  @inline(__always)
  func launch<Arguments: BitwiseCopyable>(
    _ kernel: Kernel, headDim: Int = 0, _ geometry: LaunchGeometry, _ arguments: Arguments, op: StaticString
  ) {
    guard geometry.gridX > 0, geometry.gridY > 0 else { return }
    withUnsafeBytes(of: arguments) {
      device.launch(
        KernelLaunch(kernel: kernel, headDim: headDim, geometry: geometry, arguments: $0, op: op))
    }
  }

  /// At least `byteCount` bytes of working memory for a purpose, the same until the next call for that purpose and queue.
  /// Nil, and ``failure`` set, when there is not enough.
  func working(_ purpose: Scratch.Purpose, _ byteCount: Int) -> Address? {
    scratch.withLock { $0.memory(purpose, byteCount, on: device) }
  }
}

/// Working memory of ops.
///
/// A block grows when an op needs more than any before, which the first steps of a run do; blocks that it outgrew stay, since
/// recorded work may hold their addresses. Each queue has its own, since ops on two queues run at the same time.
struct Scratch: ~Copyable {
  enum Purpose: Int, CaseIterable {
    case densePlan, selectivePlan, partialOut, partialSums, product, rounded, up, down, operand, weight,
      addend, scores, bits
    /// Counters of blocks: zero before and after every kernel.
    case counters
  }

  /// What a dense plan was made for.
  struct DensePlan: Equatable {
    let positions: Address
    let rows: Int
    let heads: Int
    let kvHeads: Int
    let window: Int
    let chunks: Int
    let queue: Int
  }

  private struct Block {
    var memories: [any DeviceMemory] = []
  }

  /// 0, or 1 on the side of an overlap.
  var queue = 0
  /// The first error of an op.
  var failure: PolarError?
  /// Head dimensions whose attention kernels are ready.
  var headDims: [Int] = []
  private var plan: DensePlan?
  private var blocks: [Block] = Array(repeating: Block(), count: 2 * Purpose.allCases.count)

  /// Notes a dense plan; returns whether it is there already.
  mutating func isPlanned(_ wanted: DensePlan) -> Bool {
    if plan == wanted { return true }
    plan = wanted
    return false
  }

  /// Positions may have changed: what was planned no longer holds.
  mutating func forgetPlans() { plan = nil }

  mutating func memory(_ purpose: Purpose, _ byteCount: Int, on device: any KernelDevice) -> Address? {
    let index = purpose.rawValue + queue * Purpose.allCases.count
    if let memory = blocks[index].memories.last, memory.byteCount >= byteCount { return memory.base }
    // Doubling bounds what outgrown blocks hold.
    let size = max(byteCount, 2 * (blocks[index].memories.last?.byteCount ?? 0), 1 << 16)
    do throws(PolarError) {
      let memory = try device.allocate(byteCount: size)
      blocks[index].memories.append(memory)
      return memory.base
    } catch {
      if failure == nil { failure = error }
      return nil
    }
  }
}
