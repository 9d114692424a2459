internal import CPolarCUDA
internal import PolarCore
import Synchronization

/// cuBLASLt: `out = x weight' + bias` in elements with f32 sums.
///
/// For each shape, with rows rounded up to a ``RowBucket``, the library proposes algorithms, all of which are timed once on cold
/// weights; only such reductions are allowed as give the same bits every time. Other numbers of rows in the bucket take the same
/// algorithm, or the library's first proposal for them where it cannot do that.
final class CUBLASLt: Sendable {
  private struct Shape: Hashable {
    /// A ``RowBucket``.
    let rows: Int
    let outputs: Int
    let inputs: Int
    let pitch: Int
    let outStride: Int
    let isBiased: Bool

    init(_ product: MatrixProduct) {
      rows = RowBucket.size(holding: product.rows)
      outputs = product.outputs
      inputs = product.inputs
      pitch = product.pitch
      outStride = product.outStride
      isBiased = product.bias != nil
    }
  }

  /// The most bytes that an algorithm may work in: what NVIDIA recommends for Hopper.
  private static let workspaceBytes = 32 << 20
  private static let candidates = 16
  private static let repeats = 5

  private let device: CUDADevice
  private let arena: DeviceArena
  private let element: CUDAElement
  private nonisolated(unsafe) let handle: cublasLtHandle_t
  /// One for each queue, since both may multiply at the same time.
  private let workspaces: [ArenaMemory]
  private let plans = Mutex<[Shape: Plan?]>([:])

  init(_ device: CUDADevice, arena: DeviceArena, element: CUDAElement) throws(CUDAError) {
    try device.makeCurrent()
    var handle: cublasLtHandle_t?
    try Self.check(pc_cublasLtCreate(&handle), "cublasLtCreate")
    guard let handle else { throw CUDAError(.cublasLt, 1, "cublasLtCreate") }
    self.handle = handle
    self.device = device
    self.arena = arena
    self.element = element
    do throws(PolarError) {
      workspaces = [try arena.allocate(Self.workspaceBytes), try arena.allocate(Self.workspaceBytes)]
    } catch {
      _ = pc_cublasLtDestroy(handle)
      throw CUDAError(.driver, Int32(POLAR_CU_ERROR_OUT_OF_MEMORY), "cuMemAlloc", "workspace of cuBLASLt")
    }
  }

  deinit {
    try? device.makeCurrent()
    plans.withLock { $0.removeAll() }
    _ = pc_cublasLtDestroy(handle)
  }

  /// Whether there is an algorithm for the product.
  func supports(_ product: MatrixProduct, on stream: CUDAStream) -> Bool {
    // Whole 16 bytes are what the fast algorithms need, and what the algorithms are asked for.
    guard product.inputs % 8 == 0, product.outputs % 4 == 0, product.outStride % 4 == 0, product.isAligned
    else {
      return false
    }
    return plans.withLock { plans in
      let shape = Shape(product)
      let plan: Plan?
      if let known = plans[shape] {
        plan = known
      } else {
        plan = try? fastest(shape, weight: CUdeviceptr(product.weight.bits), on: stream)
        plans[shape] = .some(plan)
      }
      guard let plan else { return false }
      return algorithm(of: plan, rows: product.rows) != nil
    }
  }

  func multiply(_ product: MatrixProduct, on stream: CUDAStream, queue: Int) throws(CUDAError) {
    try plans.withLock { plans throws(CUDAError) in
      guard let plan = plans[Shape(product)] ?? nil, let algorithm = algorithm(of: plan, rows: product.rows)
      else {
        throw CUDAError(
          .cublasLt, Int32(POLAR_CUBLAS_STATUS_NOT_SUPPORTED), "cublasLtMatmul",
          product.description)
      }
      try plan.set(rows: product.rows)
      try run(
        plan, algorithm, out: CUdeviceptr(product.out.bits), x: CUdeviceptr(product.x.bits),
        weight: CUdeviceptr(product.weight.bits), bias: product.bias.map { CUdeviceptr($0.bits) },
        queue: queue, on: stream)
    }
  }

  /// The algorithm for so many of a plan's rows: that of the bucket where it can do them. Nil when there is none.
  private func algorithm(of plan: Plan, rows: Int) -> cublasLtMatmulAlgo_t? {
    if let known = plan.algorithms[rows] { return known }
    var chosen: cublasLtMatmulAlgo_t?
    do throws(CUDAError) {
      try plan.set(rows: rows)
      if let timed = plan.algorithms[plan.shape.rows] ?? nil, isUsable(timed, plan) {
        chosen = timed
      } else {
        chosen = try heuristics(plan).first { isUsable($0.algo, plan) }?.algo
      }
    } catch {
      chosen = nil
    }
    plan.algorithms[rows] = .some(chosen)
    return chosen
  }

  /// Whether an algorithm can do a plan's product with the rows that are set.
  private func isUsable(_ algorithm: cublasLtMatmulAlgo_t, _ plan: Plan) -> Bool {
    var algorithm = algorithm
    var result = cublasLtMatmulHeuristicResult_t()
    let status = pc_cublasLtMatmulAlgoCheck(
      handle, plan.operation, plan.weight, plan.x, plan.out, plan.out, &algorithm, &result)
    return status == 0 && result.state == 0 && result.workspaceSize <= Self.workspaceBytes
  }

  /// Descriptors of a shape and its algorithms.
  private final class Plan: Sendable {
    nonisolated(unsafe) let operation: cublasLtMatmulDesc_t
    nonisolated(unsafe) let weight: cublasLtMatrixLayout_t
    nonisolated(unsafe) let x: cublasLtMatrixLayout_t
    nonisolated(unsafe) let out: cublasLtMatrixLayout_t
    /// By rows, of which the bucket's own has the algorithm that was fastest; nil where there is none.
    nonisolated(unsafe) var algorithms: [Int: cublasLtMatmulAlgo_t?] = [:]
    let shape: Shape

    /// A row-major `[n, k]` matrix is a column-major `[k, n]` one: `out' = weight x'`, the weight transposed.
    init(_ shape: Shape, _ element: CUDAElement) throws(CUDAError) {
      self.shape = shape
      let type = element == .f16 ? POLAR_CUDA_R_16F : POLAR_CUDA_R_16BF
      var operation: cublasLtMatmulDesc_t?
      try CUBLASLt.check(
        pc_cublasLtMatmulDescCreate(&operation, Int32(POLAR_CUBLAS_COMPUTE_32F), Int32(POLAR_CUDA_R_32F)),
        "cublasLtMatmulDescCreate")
      guard let operation else { throw CUDAError(.cublasLt, 1, "cublasLtMatmulDescCreate") }
      func layout(_ type: Int, _ rows: Int, _ columns: Int, _ stride: Int) throws(CUDAError)
        -> cublasLtMatrixLayout_t
      {
        var layout: cublasLtMatrixLayout_t?
        try CUBLASLt.check(
          pc_cublasLtMatrixLayoutCreate(&layout, Int32(type), UInt64(rows), UInt64(columns), Int64(stride)),
          "cublasLtMatrixLayoutCreate")
        guard let layout else { throw CUDAError(.cublasLt, 1, "cublasLtMatrixLayoutCreate") }
        return layout
      }
      self.operation = operation
      weight = try layout(type, shape.inputs, shape.outputs, shape.pitch)
      x = try layout(type, shape.inputs, shape.rows, shape.pitch)
      out = try layout(POLAR_CUDA_R_32F, shape.outputs, shape.rows, shape.outStride)
      try set(POLAR_CUBLASLT_DESC_TRANSA, Int32(POLAR_CUBLAS_OP_T))
      try set(
        POLAR_CUBLASLT_DESC_EPILOGUE,
        UInt32(shape.isBiased ? POLAR_CUBLASLT_EPILOGUE_BIAS : POLAR_CUBLASLT_EPILOGUE_DEFAULT))
    }

    deinit {
      _ = pc_cublasLtMatmulDescDestroy(operation)
      for layout in [weight, x, out] { _ = pc_cublasLtMatrixLayoutDestroy(layout) }
    }

    /// The rows of products from now on.
    func set(rows: Int) throws(CUDAError) {
      for layout in [x, out] {
        let result = withUnsafeBytes(of: UInt64(rows)) {
          pc_cublasLtMatrixLayoutSetAttribute(
            layout, Int32(POLAR_CUBLASLT_LAYOUT_COLS), $0.baseAddress, $0.count)
        }
        try CUBLASLt.check(result, "cublasLtMatrixLayoutSetAttribute", "\(rows) columns")
      }
    }

    func set<Value: BitwiseCopyable>(_ attribute: Int, _ value: Value) throws(CUDAError) {
      let result = withUnsafeBytes(of: value) {
        pc_cublasLtMatmulDescSetAttribute(operation, Int32(attribute), $0.baseAddress, $0.count)
      }
      try CUBLASLt.check(result, "cublasLtMatmulDescSetAttribute", "attribute \(attribute)")
    }
  }

  private func run(
    _ plan: Plan, _ algorithm: cublasLtMatmulAlgo_t, out: CUdeviceptr, x: CUdeviceptr, weight: CUdeviceptr,
    bias: CUdeviceptr?, queue: Int, on stream: CUDAStream
  ) throws(CUDAError) {
    if let bias { try plan.set(POLAR_CUBLASLT_DESC_BIAS_POINTER, bias) }
    func pointer(_ address: CUdeviceptr) -> UnsafeMutableRawPointer? {
      UnsafeMutableRawPointer(bitPattern: UInt(address))
    }
    var (one, zero): (Float, Float) = (1, 0)
    var algorithm = algorithm
    let result = pc_cublasLtMatmul(
      handle, plan.operation, &one, pointer(weight), plan.weight, pointer(x), plan.x, &zero, pointer(out),
      plan.out, pointer(out), plan.out, &algorithm, pointer(CUdeviceptr(workspaces[queue].base.bits)),
      Self.workspaceBytes, stream.raw)
    try Self.check(
      result, "cublasLtMatmul",
      MatrixProduct.describe(plan.shape.rows, plan.shape.outputs, plan.shape.inputs))
  }

  /// Times the algorithms that the library proposes for a shape, of which `weight` is one; nil when it has none.
  private func fastest(_ shape: Shape, weight: CUdeviceptr, on stream: CUDAStream) throws(CUDAError) -> Plan?
  {
    try device.makeCurrent()
    let plan = try Plan(shape, element)
    let results = try heuristics(plan)
    guard let first = results.first else { return nil }
    plan.algorithms[shape.rows] = first.algo
    guard results.count > 1,
      let buffers = try? TrialBuffers(
        rows: shape.rows, outputs: shape.outputs, pitch: shape.pitch, outStride: shape.outStride,
        weight: weight,
        l2Bytes: device.info.l2Bytes, arena)
    else { return plan }
    let (start, end) = (try CUDAEvent(device, timing: true), try CUDAEvent(device, timing: true))
    var best = Double.infinity
    for result in results {
      do throws(CUDAError) {
        for trial in -1..<Self.repeats {
          // The first run warms up.
          if trial == 0 { try start.record(on: stream) }
          try run(
            plan, result.algo, out: buffers.out, x: buffers.x, weight: buffers.weight(trial + 1),
            bias: shape.isBiased ? buffers.out : nil, queue: 0, on: stream)
        }
        try end.record(on: stream)
        let seconds = try end.seconds(since: start)
        if seconds < best { (best, plan.algorithms[shape.rows]) = (seconds, result.algo) }
      } catch {
        // An algorithm that the library proposes and then refuses is no reason to do without the others.
        continue
      }
    }
    return best < .infinity ? plan : nil
  }

  private func heuristics(_ plan: Plan) throws(CUDAError) -> [cublasLtMatmulHeuristicResult_t] {
    var preference: cublasLtMatmulPreference_t?
    try Self.check(pc_cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate")
    defer { if let preference { _ = pc_cublasLtMatmulPreferenceDestroy(preference) } }
    func set<Value: BitwiseCopyable>(_ attribute: Int, _ value: Value) throws(CUDAError) {
      let result = withUnsafeBytes(of: value) {
        pc_cublasLtMatmulPreferenceSetAttribute(preference, Int32(attribute), $0.baseAddress, $0.count)
      }
      try Self.check(result, "cublasLtMatmulPreferenceSetAttribute", "attribute \(attribute)")
    }
    try set(POLAR_CUBLASLT_PREFERENCE_WORKSPACE_BYTES, UInt64(Self.workspaceBytes))
    // By itself the library takes all addresses for multiples of 256 bytes.
    for attribute in [
      POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_A, POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_B,
      POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_C, POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_D,
    ] { try set(attribute, UInt32(MatrixProduct.alignment)) }
    // Partial sums in a buffer of their own, added in a fixed order; in-place reduction would use atomics.
    try set(POLAR_CUBLASLT_PREFERENCE_REDUCTION_MASK, UInt32(POLAR_CUBLASLT_REDUCTION_COMPUTE_TYPE))
    var results = [cublasLtMatmulHeuristicResult_t](
      repeating: cublasLtMatmulHeuristicResult_t(), count: Self.candidates)
    var found: Int32 = 0
    let result = pc_cublasLtMatmulAlgoGetHeuristic(
      handle, plan.operation, plan.weight, plan.x, plan.out, plan.out, preference, Int32(Self.candidates),
      &results, &found)
    // No algorithm is an answer, not an error.
    guard result == 0 else { return [] }
    return results.prefix(Int(found)).filter { $0.state == 0 }
  }

  private static func check(
    _ result: Int32, _ call: StaticString, _ detail: @autoclosure () -> String = ""
  ) throws(CUDAError) {
    if result != 0 { throw CUDAError(.cublasLt, result, "\(call)", detail()) }
  }
}

/// Operands for timing: as many copies of the weight as keep it out of the L2 cache; of one that does that by its size the
/// weight itself.
private struct TrialBuffers {
  let x: CUdeviceptr
  let out: CUdeviceptr
  private let weights: CUdeviceptr
  private let weightBytes: Int
  private let copies: Int
  private let memory: ArenaMemory

  init(
    rows: Int, outputs: Int, pitch: Int, outStride: Int, weight: CUdeviceptr, l2Bytes: Int,
    _ arena: DeviceArena
  ) throws(PolarError) {
    func aligned(_ bytes: Int) -> Int { (bytes + 255) & ~255 }
    weightBytes = aligned(outputs * pitch * 2)
    copies = max(1, min(6, 2 * l2Bytes / max(1, weightBytes) + 1))
    let own = copies > 1 ? copies * weightBytes : 0
    let xBytes = aligned(rows * pitch * 2)
    memory = try arena.allocate(own + xBytes + aligned(max(rows * outStride, outputs) * 4))
    let base = CUdeviceptr(memory.base.bits)
    weights = own > 0 ? base : weight
    x = base + UInt64(own)
    out = x + UInt64(xBytes)
  }

  func weight(_ trial: Int) -> CUdeviceptr { weights + UInt64(trial % copies * weightBytes) }
}
