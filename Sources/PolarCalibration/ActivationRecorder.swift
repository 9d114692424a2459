public import PolarCore
import PolarFormats
public import PolarSparsity

/// Records what routers learn from while a model runs dense prefill, in bounded memory.
///
/// Per layer and token it takes the block input, the output norms `||o_h||`, the relative deviations
/// `||W_o,h (o_h - f_h)|| / ||residual||`, where `f_h` is the local fallback's output on the same K and V, and, of a ReLU
/// MLP, one bit per neuron. A unit of several heads has the root of their summed squares. Tokens whose whole context
/// lies in the local pages are left out: there the fallback is exact.
///
/// Everything is reduced where the model runs. Block inputs stay there, as bf16; norms, sums and bits come to the host when a
/// pass is over.
public final class ActivationRecorder: ForwardTap {
  /// Recorded samples by layer; nil for layers without routers.
  public private(set) var samples: [LayerSamples?]
  /// Tokens that were eligible so far.
  public private(set) var tokens = 0

  private let config: ModelConfig
  private let units: SelectionUnits
  private let gram: OutputGram
  private let projections: [Projection]
  private let sinkPages: Int
  private let recentPages: Int
  private let shapes: [RecordedShape?]
  private let keep: Double
  private let ops: any TrainingOps
  private let pass: RecordedPass
  private var eligibleRows: [Int32] = []
  private var keptRows: [Int32] = []
  private var importanceSums: [Double]
  private var largestCounts: [Int]
  private var deviationSums: [Double]
  private var normSums: [Double]
  private var outputSums: [Double]

  /// A layer's attention out-projection.
  public struct Projection: Sendable {
    /// `[hidden, heads * headDim]`.
    public var weight: PackedMatrix
    /// f32 `[hidden]`.
    public var bias: Tensor?

    /// A projection.
    public init(weight: PackedMatrix, bias: Tensor? = nil) {
      self.weight = weight
      self.bias = bias
    }
  }

  /// A recorder.
  /// - Parameters:
  ///   - projections: the out-projection of every layer.
  ///   - shapes: what is recorded of every layer.
  ///   - plan: how much of it.
  ///   - rows: rows of a pass at most.
  ///   - ops: where the model runs.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``.
  init(
    config: ModelConfig, units: SelectionUnits, gram: OutputGram, projections: [Projection],
    sinkPages: Int, recentPages: Int, shapes: [RecordedShape?], plan: RecordingPlan, rows: Int,
    on ops: any TrainingOps
  ) throws(PolarError) {
    self.config = config
    self.units = units
    self.gram = gram
    self.projections = projections
    self.sinkPages = sinkPages
    self.recentPages = recentPages
    self.shapes = shapes
    self.ops = ops
    keep = Double(plan.tokens) / Double(max(1, plan.expected))
    samples = []
    for shape in shapes {
      guard let shape else {
        samples.append(nil)
        continue
      }
      samples.append(
        try LayerSamples(
          inputs: shape.inputs, localFeatures: shape.localFeatures, units: shape.units,
          neurons: shape.neurons, capacity: plan.tokens, on: ops))
    }
    pass = try RecordedPass(
      rows: rows, units: units.count, outputs: config.heads * config.headDim,
      neurons: config.intermediate, recordsNeurons: shapes.map { ($0?.neurons ?? 0) > 0 }, on: ops)
    importanceSums = Array(repeating: 0, count: config.layers)
    largestCounts = Array(repeating: 0, count: config.layers * units.count)
    deviationSums = Array(repeating: 0, count: config.layers * units.count)
    normSums = deviationSums
    outputSums = Array(repeating: 0, count: config.layers * config.heads * config.headDim)
  }

  /// The first position whose context reaches beyond the local pages.
  public var firstPosition: Int { (sinkPages + recentPages + 1) * KVPage.tokens }

  /// Bytes of workspace that recording takes for `rows` rows, beside the model's own.
  public func workspaceByteCount(rows: Int) -> Int {
    rows * 4 * (config.heads * config.headDim + 3 * config.heads + config.hidden) + 4 * 64
  }

  /// Mean relative deviation: `[layers, units]`.
  public var meanDeviations: [Float] { means(deviationSums) }
  /// Mean output norm: `[layers, units]`.
  public var meanNorms: [Float] { means(normSums) }
  /// Mean output of each head: `[layers, heads, headDim]`.
  public var meanOutputs: [Float] { means(outputSums) }

  /// Mean `1 - cos(x, x + attention(x))` of the residual stream `x` at each layer's attention: how much it turns the
  /// stream (Polar Sparsity, figure 3b).
  public var attentionImportance: [Double] { importanceSums.map { $0 / Double(max(1, tokens)) } }

  /// Fraction of tokens on which each unit is among the larger half of its layer by norm: `[layers][units]`.
  public var largestUnits: [[Double]] {
    (0..<config.layers).map { layer in
      largestCounts[layer * units.count..<(layer + 1) * units.count].map {
        Double($0) / Double(max(1, tokens))
      }
    }
  }

  private func means(_ sums: [Double]) -> [Float] { sums.map { Float($0 / Double(max(1, tokens))) } }

  /// Records one layer of a prefill step.
  public func attention(
    _ context: AttentionContext, output: Tensor, workspace: inout Workspace, on backend: any Backend
  ) {
    let (rows, layer) = (context.input.rows, context.layer)
    if layer == 0 { chooseRows(context.batch, on: backend) }
    guard !eligibleRows.isEmpty else { return }
    let mark = workspace.mark()
    let local = workspace.take(rows: rows, columns: output.columns)
    let headDeviations = workspace.take(rows: rows, columns: config.heads)
    let projected = workspace.take(rows: rows, columns: config.hidden)
    backend.prefillAttention(
      local, query: context.query, kv: context.kv, batch: context.batch, scale: context.scale,
      span: .local(sinkPages: sinkPages, recentPages: recentPages))
    backend.headDeviations(
      headDeviations, attention: output, fallback: local, gram: gram[layer], residual: context.residual)
    backend.headNorms(pass.deviations(layer), attention: headDeviations)
    backend.headNorms(pass.norms(layer), attention: output)
    backend.selectTopK(
      pass.largest(layer), scores: pass.norms(layer), k: (units.count + 1) / 2, headsPerUnit: 1)
    let projection = projections[layer]
    backend.linear(projected, output, weight: projection.weight, bias: projection.bias)
    ops.turns(pass.turns(layer), context.residual, projected)
    ops.sumRows(pass.sums(layer), output, rows: pass.eligible)
    if let samples = samples[layer], !keptRows.isEmpty {
      let inputs = samples.inputRows(samples.count..<samples.count + keptRows.count)
      let hidden = config.hidden
      ops.storeRows(inputs.columns(0..<hidden), context.input, rows: pass.kept)
      if samples.localFeatures > 0 {
        let localNorms = workspace.take(rows: rows, columns: samples.localFeatures)
        backend.headNorms(localNorms, attention: local)
        ops.storeRows(
          inputs.columns(hidden..<hidden + samples.localFeatures), localNorms, rows: pass.kept)
      }
    }
    workspace.release(to: mark)
  }

  /// Records the neurons of one layer of a prefill step.
  public func mlp(
    layer: Int, activations: Tensor, neurons: ActiveNeurons?, workspace: inout Workspace,
    on backend: any Backend
  ) {
    guard !keptRows.isEmpty, let packed = pass.packed(layer) else { return }
    precondition(neurons == nil, "recording runs dense")
    ops.packActive(packed, activations, rows: pass.kept)
  }

  /// Takes what a prefill step has left, once it is over.
  public func hiddenState(layer: Int, _ state: Tensor, on backend: any Backend) {
    guard layer == config.layers, !eligibleRows.isEmpty else { return }
    pass.end()
    for layer in 0..<config.layers {
      addToMeans(layer)
      // A copy of the samples held here would make every append copy their memory.
      guard samples[layer] != nil, !keptRows.isEmpty else { continue }
      let count = samples[layer]?.units ?? 0
      let (deviations, norms) = (pass.values(pass.deviations(layer)), pass.values(pass.norms(layer)))
      func kept(_ values: ArraySlice<Float>) -> [Float] {
        keptRows.flatMap { values.dropFirst(Int($0) * count).prefix(count) }
      }
      samples[layer]?.append(tokens: keptRows.count, deviations: kept(deviations), norms: kept(norms))
      pass.withPacked(layer) { samples[layer]?.append(packed: $0) }
    }
  }

  /// Decides, once per forward pass, which rows count and which of them are kept.
  private func chooseRows(_ batch: ForwardBatch, on backend: any Backend) {
    var positions = [Int32](repeating: 0, count: batch.rows)
    positions.withUnsafeMutableBytes { backend.download(batch.positions.address, into: $0) }
    eligibleRows.removeAll(keepingCapacity: true)
    keptRows.removeAll(keepingCapacity: true)
    for row in 0..<batch.rows where Int(positions[row]) >= firstPosition {
      eligibleRows.append(Int32(row))
      if Int(Double(tokens + 1) * keep) > Int(Double(tokens) * keep) { keptRows.append(Int32(row)) }
      tokens += 1
    }
    pass.begin(rows: batch.rows, eligible: eligibleRows, kept: keptRows)
  }

  private func addToMeans(_ layer: Int) {
    let (count, width) = (units.count, config.heads * config.headDim)
    let (deviations, norms) = (pass.values(pass.deviations(layer)), pass.values(pass.norms(layer)))
    let turns = pass.values(pass.turns(layer))
    for row in eligibleRows.lazy.map(Int.init) {
      for unit in 0..<count {
        deviationSums[layer * count + unit] += Double(deviations[deviations.startIndex + row * count + unit])
        normSums[layer * count + unit] += Double(norms[norms.startIndex + row * count + unit])
      }
      importanceSums[layer] += Double(turns[turns.startIndex + row])
    }
    pass.withLargest(layer) { mask in
      for row in eligibleRows.lazy.map(Int.init) {
        for unit in 0..<count { largestCounts[layer * count + unit] += Int(mask[row * count + unit]) }
      }
    }
    for (i, sum) in pass.values(pass.sums(layer)).enumerated() {
      outputSums[layer * width + i] += Double(sum)
    }
  }
}
