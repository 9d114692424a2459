// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

public import PolarCore
public import PolarSparsity
import Synchronization

/// A backend that forwards every op to another one and adds up where the time goes.
///
/// Meant for synchronous backends: an op's time is the wall time of its call. Used from one thread at a time.
public final class ProfilingBackend: Backend, @unchecked Sendable {
  /// The kinds of work that a breakdown shows.
  public enum Part: Int, CaseIterable, Sendable {
    case linear, attention, routing, norms, other

    /// The name in reports.
    public var title: String {
      switch self {
      case .linear: "linear layers"
      case .attention: "attention"
      case .routing: "routing"
      case .norms: "norms, rotary with K/V store, activations"
      case .other: "embedding, choice of tokens, copies"
      }
    }
  }

  private let base: any Backend
  private let clock = ContinuousClock()
  private let opNanoseconds = Atomic<Int>(0)
  // Mutated by the one thread that runs the forward pass; see the type's comment.
  private var seconds = [Double](repeating: 0, count: Part.allCases.count)

  // Set while a policy runs: whatever ops it calls count as routing.
  fileprivate var isRouting = false

  /// Wraps `base`.
  public init(_ base: any Backend) { self.base = base }

  /// Seconds spent per part since the last ``reset()``.
  public var breakdown: [Part: Double] {
    Dictionary(uniqueKeysWithValues: Part.allCases.map { ($0, seconds[$0.rawValue]) })
  }

  /// Sets all times to zero.
  public func reset() {
    for index in seconds.indices { seconds[index] = 0 }
  }

  /// Seconds spent in ops since the start, uploads and downloads excluded. May be read on any thread.
  public var opSeconds: Double { Double(opNanoseconds.load(ordering: .relaxed)) * 1e-9 }

  private func time(_ part: Part, isOp: Bool = true, _ work: () -> Void) {
    let part = isRouting ? .routing : part
    let start = clock.now
    work()
    let elapsed = (clock.now - start).components
    let time = Double(elapsed.seconds) + Double(elapsed.attoseconds) * 1e-18
    seconds[part.rawValue] += time
    if isOp { opNanoseconds.wrappingAdd(Int(time * 1e9), ordering: .relaxed) }
  }

  public var name: String { base.name }
  public var kvDType: DType { base.kvDType }
  public var neuronDType: DType { base.neuronDType }
  public func neuronStride(columns: Int) -> Int { base.neuronStride(columns: columns) }
  public var wideFormat: WeightFormat { base.wideFormat }
  public func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    try base.allocate(byteCount: byteCount)
  }
  public func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) {
    time(.other, isOp: false) { base.upload(bytes, to: address) }
  }
  public func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    time(.other, isOp: false) { base.download(address, into: bytes) }
  }
  public func hostPointer(_ address: Address) -> UnsafeRawPointer? { base.hostPointer(address) }
  public func synchronize() { base.synchronize() }
  public var failure: PolarError? { base.failure }
  public var training: (any TrainingOps)? { base.training }
  public var weightFormats: Set<WeightFormat> { base.weightFormats }
  public func packedByteCount(outputs: Int, inputs: Int, format: WeightFormat) -> Int {
    base.packedByteCount(outputs: outputs, inputs: inputs, format: format)
  }
  public func packRows(_ weight: PackedMatrix, firstRow: Int, values: UnsafeBufferPointer<Float>) {
    base.packRows(weight, firstRow: firstRow, values: values)
  }
  public func packBlocks(_ weight: PackedMatrix, firstRow: Int, blocks: UnsafeRawBufferPointer) {
    base.packBlocks(weight, firstRow: firstRow, blocks: blocks)
  }
  public func unpackRows(
    _ weight: PackedMatrix, firstRow: Int, into values: UnsafeMutableBufferPointer<Float>
  ) {
    base.unpackRows(weight, firstRow: firstRow, into: values)
  }
  public func embed(_ out: Tensor, tokens: Tensor, table: PackedMatrix) {
    time(.other) { base.embed(out, tokens: tokens, table: table) }
  }
  public func gatherRows(_ out: Tensor, _ x: Tensor, indices: Tensor) {
    time(.other) { base.gatherRows(out, x, indices: indices) }
  }
  public func rmsNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, epsilon: Float) {
    time(.norms) { base.rmsNorm(out, x, weight: weight, epsilon: epsilon) }
  }
  public func addRMSNorm(
    _ out: Tensor, residual: Tensor, delta: Tensor, weight: Tensor, epsilon: Float
  ) {
    time(.norms) {
      base.addRMSNorm(out, residual: residual, delta: delta, weight: weight, epsilon: epsilon)
    }
  }
  public func headRMSNorm(_ x: Tensor, weight: Tensor, epsilon: Float, heads: Int) {
    time(.norms) { base.headRMSNorm(x, weight: weight, epsilon: epsilon, heads: heads) }
  }
  public func layerNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Float) {
    time(.norms) { base.layerNorm(out, x, weight: weight, bias: bias, epsilon: epsilon) }
  }
  public func linear(_ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?) {
    time(.linear) {
      base.linear(out, x, weight: weight, bias: bias)
    }
  }
  public func linearGated(
    _ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?, activation: GateActivation,
    scratch: Tensor
  ) {
    time(.linear) {
      base.linearGated(out, x, weight: weight, bias: bias, activation: activation, scratch: scratch)
    }
  }
  public func siluMul(_ out: Tensor, _ gateUp: Tensor) { time(.norms) { base.siluMul(out, gateUp) } }
  public func reluMul(_ out: Tensor, _ gateUp: Tensor, threshold: Float) {
    time(.norms) { base.reluMul(out, gateUp, threshold: threshold) }
  }
  public func relu(_ x: Tensor) { time(.norms) { base.relu(x) } }
  public func gelu(_ x: Tensor) { time(.norms) { base.gelu(x) } }
  public func add(_ x: Tensor, _ y: Tensor) { time(.norms) { base.add(x, y) } }
  public func rotaryStoreKV(
    _ kv: KVLayer, _ x: Tensor, heads: Int, positions: Tensor, inverseFrequencies: Tensor, slots: Tensor
  ) {
    time(.norms) {
      base.rotaryStoreKV(
        kv, x, heads: heads, positions: positions, inverseFrequencies: inverseFrequencies, slots: slots)
    }
  }
  public func storeKV(_ kv: KVLayer, key: Tensor, value: Tensor, slots: Tensor) {
    time(.other) { base.storeKV(kv, key: key, value: value, slots: slots) }
  }
  public func prefillAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float,
    span: AttentionSpan
  ) {
    time(.attention) {
      base.prefillAttention(out, query: query, kv: kv, batch: batch, scale: scale, span: span)
    }
  }
  public func decodeAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float,
    heads: ActiveHeads?
  ) {
    time(.attention) {
      base.decodeAttention(out, query: query, kv: kv, batch: batch, scale: scale, heads: heads)
    }
  }
  public func argmax(_ tokens: Tensor, logits: Tensor) {
    time(.other) { base.argmax(tokens, logits: logits) }
  }
  public func selectTopK(_ mask: Tensor, scores: Tensor, k: Int, headsPerUnit: Int) {
    time(.routing) { base.selectTopK(mask, scores: scores, k: k, headsPerUnit: headsPerUnit) }
  }
  public func selectAbove(_ mask: Tensor, scores: Tensor, threshold: Float, headsPerUnit: Int) {
    time(.routing) {
      base.selectAbove(mask, scores: scores, threshold: threshold, headsPerUnit: headsPerUnit)
    }
  }
  public func routeHeads(
    _ mask: Tensor, scores: Tensor, _ x: Tensor, router: HeadRouterMatrices, scratch: Tensor?,
    choice: ScoreChoice, headsPerUnit: Int
  ) {
    time(.routing) {
      base.routeHeads(
        mask, scores: scores, x, router: router, scratch: scratch, choice: choice, headsPerUnit: headsPerUnit)
    }
  }
  public func routeNeurons(
    _ neurons: ActiveNeurons, _ x: Tensor, weight: PackedMatrix, scores: Tensor, aggregate: Tensor,
    choice: ScoreChoice
  ) {
    time(.routing) {
      base.routeNeurons(
        neurons, x, weight: weight, scores: scores, aggregate: aggregate, choice: choice)
    }
  }
  public func headNorms(_ out: Tensor, attention: Tensor) {
    time(.routing) { base.headNorms(out, attention: attention) }
  }
  public func headDeviations(
    _ out: Tensor, attention: Tensor, fallback: Tensor?, gram: Tensor, residual: Tensor
  ) {
    time(.routing) {
      base.headDeviations(
        out, attention: attention, fallback: fallback, gram: gram, residual: residual)
    }
  }
  public func selectiveUp(
    _ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor?, threshold: Float, neurons: ActiveNeurons?
  ) {
    time(.linear) {
      base.selectiveUp(out, x, weight: weight, bias: bias, threshold: threshold, neurons: neurons)
    }
  }
  public func selectiveDown(
    _ out: Tensor, _ h: Tensor, weight: Tensor, bias: Tensor?, neurons: ActiveNeurons?
  ) {
    time(.linear) { base.selectiveDown(out, h, weight: weight, bias: bias, neurons: neurons) }
  }
  public func topKUnion(_ neurons: ActiveNeurons, sums: Tensor, scores: Tensor, k: Int) {
    time(.routing) { base.topKUnion(neurons, sums: sums, scores: scores, k: k) }
  }
  public func unionAbove(_ neurons: ActiveNeurons, peaks: Tensor, scores: Tensor, threshold: Float) {
    time(.routing) { base.unionAbove(neurons, peaks: peaks, scores: scores, threshold: threshold) }
  }
}

/// A policy whose ops are counted as routing by a ``ProfilingBackend``.
public struct ProfilingPolicy: SparsityPolicy {
  private let base: any SparsityPolicy
  private let profiler: ProfilingBackend

  /// Wraps `base`; its ops are expected to run on `profiler`.
  public init(_ base: any SparsityPolicy, profiler: ProfilingBackend) {
    self.base = base
    self.profiler = profiler
  }

  public var name: String { base.name }
  public func workspaceByteCount(rows: Int) -> Int { base.workspaceByteCount(rows: rows) }
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    profiler.isRouting = true
    defer { profiler.isRouting = false }
    return base.select(context, workspace: &workspace, on: backend)
  }
  public var looksAtActivations: Bool { base.looksAtActivations }
  public var isRecordable: Bool { base.isRecordable }
  public func selectNeurons(
    _ context: NeuronContext, workspace: inout Workspace, on backend: any Backend
  ) -> ActiveNeurons? {
    profiler.isRouting = true
    defer { profiler.isRouting = false }
    return base.selectNeurons(context, workspace: &workspace, on: backend)
  }
}
