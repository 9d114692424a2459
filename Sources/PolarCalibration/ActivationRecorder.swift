public import PolarCore
public import PolarFormats
public import PolarSparsity

/// Records what routers learn from while a model runs dense prefill, in bounded memory.
///
/// Per layer and token it takes the block input, the output norms `||o_h||`, the relative deviations
/// `||W_o,h (o_h - f_h)|| / ||residual||`, where `f_h` is the local fallback's output on the same K and V, and, of a ReLU
/// MLP, one bit per neuron. A unit of several heads has the root of their summed squares. Tokens whose whole context
/// lies in the local pages are left out: there the fallback is exact.
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
  private let keep: Double
  private var keptRows: [Int] = []
  private var eligibleRows: [Int] = []
  private var positions: [Int32] = []
  private var input: [Float] = []
  private var output: [Float] = []
  private var deviations: [Float] = []
  private var norms: [Float] = []
  private var features: [Float] = []
  private var row: [Float] = []
  private var residual: [Float] = []
  private var delta: [Float] = []
  private var activations: [Float] = []
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
  ///   - denseLayers: layers without head routers; of their heads only means are recorded.
  ///   - recordsNeurons: whether MLP activations are recorded.
  ///   - expectedTokens: tokens that will be run, to spread the kept ones evenly.
  ///   - memoryLimit: bytes of samples to keep at most.
  public init(
    config: ModelConfig, units: SelectionUnits, gram: OutputGram, projections: [Projection],
    sinkPages: Int, recentPages: Int, denseLayers: Set<Int>, recordsNeurons: Bool = false,
    expectedTokens: Int, memoryLimit: Int
  ) {
    self.config = config
    self.units = units
    self.gram = gram
    self.projections = projections
    self.sinkPages = sinkPages
    self.recentPages = recentPages
    let features = Self.localFeatures(config)
    let neurons = recordsNeurons ? config.intermediate : 0
    /// Whether a layer has head routers, and the width of its samples.
    func shape(_ layer: Int) -> (routesHeads: Bool, inputs: Int, units: Int) {
      denseLayers.contains(layer)
        ? (false, config.hidden, 0) : (true, config.hidden + features, units.count)
    }
    let recorded = (0..<config.layers).filter { recordsNeurons || shape($0).routesHeads }
    let bytes = recorded.reduce(0) { sum, layer in
      let shape = shape(layer)
      return sum
        + LayerSamples.bytesPerToken(inputs: shape.inputs, units: shape.units, neurons: neurons)
    }
    let capacity = min(expectedTokens, max(1, memoryLimit / max(1, bytes)))
    keep = Double(capacity) / Double(max(1, expectedTokens))
    samples = Array(repeating: nil, count: config.layers)
    for layer in recorded {
      let shape = shape(layer)
      samples[layer] = LayerSamples(
        inputs: shape.inputs, localFeatures: shape.routesHeads ? features : 0, units: shape.units,
        neurons: neurons, capacity: capacity)
    }
    importanceSums = Array(repeating: 0, count: config.layers)
    largestCounts = Array(repeating: 0, count: config.layers * units.count)
    deviationSums = Array(repeating: 0, count: config.layers * units.count)
    normSums = deviationSums
    outputSums = Array(repeating: 0, count: config.layers * config.heads * config.headDim)
  }

  /// The first position whose context reaches beyond the local pages.
  public var firstPosition: Int { (sinkPages + recentPages + 1) * KVPage.tokens }

  /// Local features of a model: the norms of the two halves of every head's local output, an even number.
  static func localFeatures(_ config: ModelConfig) -> Int { 2 * config.heads }

  /// Bytes of workspace that recording takes for `rows` rows, beside the model's own.
  public func workspaceByteCount(rows: Int) -> Int {
    rows * 4 * (config.heads * config.headDim + 3 * config.heads + 2 * units.count + config.hidden)
      + 6 * 64
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
    let rows = context.input.rows
    if context.layer == 0 { chooseRows(context.batch, on: backend) }
    guard !eligibleRows.isEmpty else { return }
    let mark = workspace.mark()
    let local = workspace.take(rows: rows, columns: output.columns)
    let headDeviations = workspace.take(rows: rows, columns: config.heads)
    let unitDeviations = workspace.take(rows: rows, columns: units.count)
    let unitNorms = workspace.take(rows: rows, columns: units.count)
    let localNorms = workspace.take(rows: rows, columns: Self.localFeatures(config))
    let projected = workspace.take(rows: rows, columns: config.hidden)
    backend.prefillAttention(
      local, query: context.query, kv: context.kv, batch: context.batch, scale: context.scale,
      span: .local(sinkPages: sinkPages, recentPages: recentPages))
    backend.headDeviations(
      headDeviations, attention: output, fallback: local, gram: gram[context.layer],
      residual: context.residual)
    backend.headNorms(unitDeviations, attention: headDeviations)
    backend.headNorms(unitNorms, attention: output)
    backend.headNorms(localNorms, attention: local)
    let projection = projections[context.layer]
    backend.linear(projected, output, weight: projection.weight, bias: projection.bias)
    Self.read(projected, into: &delta, from: backend)
    Self.read(context.residual, into: &residual, from: backend)
    Self.read(unitDeviations, into: &deviations, from: backend)
    Self.read(unitNorms, into: &norms, from: backend)
    Self.read(localNorms, into: &features, from: backend)
    Self.read(output, into: &self.output, from: backend)
    workspace.release(to: mark)
    addToMeans(context.layer)
    // A copy of the samples held here would make every append copy their memory.
    guard let count = samples[context.layer]?.units, !keptRows.isEmpty else { return }
    let pieces = samples[context.layer]?.localFeatures ?? 0
    let hidden = config.hidden
    Self.read(context.input, into: &input, from: backend)
    for index in keptRows {
      row.removeAll(keepingCapacity: true)
      row += input[index * hidden..<(index + 1) * hidden]
      row += features[index * pieces..<(index + 1) * pieces]
      let labels = index * count..<(index + 1) * count
      samples[context.layer]?.append(input: row, deviations: deviations[labels], norms: norms[labels])
    }
  }

  /// Records the neurons of one layer of a prefill step.
  public func mlp(
    layer: Int, activations: Tensor, neurons: ActiveNeurons?, workspace: inout Workspace,
    on backend: any Backend
  ) {
    guard samples[layer]?.activations != nil, !keptRows.isEmpty else { return }
    precondition(neurons == nil, "recording runs dense")
    Self.read(activations, into: &self.activations, from: backend)
    self.activations.withUnsafeBufferPointer { values in
      for index in keptRows {
        let row = index * config.intermediate..<(index + 1) * config.intermediate
        samples[layer]?.append(activations: UnsafeBufferPointer(rebasing: values[row]))
      }
    }
  }

  /// Decides, once per forward pass, which rows count and which of them are kept.
  private func chooseRows(_ batch: ForwardBatch, on backend: any Backend) {
    positions = Array(repeating: 0, count: batch.rows)
    positions.withUnsafeMutableBytes { backend.download(batch.positions.address, into: $0) }
    eligibleRows.removeAll(keepingCapacity: true)
    keptRows.removeAll(keepingCapacity: true)
    for row in 0..<batch.rows where Int(positions[row]) >= firstPosition {
      eligibleRows.append(row)
      if Int(Double(tokens + 1) * keep) > Int(Double(tokens) * keep) { keptRows.append(row) }
      tokens += 1
    }
  }

  private func addToMeans(_ layer: Int) {
    let (count, width) = (units.count, config.heads * config.headDim)
    for row in eligibleRows {
      for unit in 0..<count {
        deviationSums[layer * count + unit] += Double(deviations[row * count + unit])
        normSums[layer * count + unit] += Double(norms[row * count + unit])
      }
      let largest = ThresholdSearch.largest((count + 1) / 2, of: norms[row * count..<(row + 1) * count])
      for unit in largest { largestCounts[layer * count + unit] += 1 }
    }
    let hidden = config.hidden
    var turned = 0.0
    residual.withUnsafeBufferPointer { residual in
      delta.withUnsafeBufferPointer { delta in
        for row in eligibleRows {
          let range = row * hidden..<(row + 1) * hidden
          turned += Self.turn(
            UnsafeBufferPointer(rebasing: residual[range]), UnsafeBufferPointer(rebasing: delta[range]))
        }
      }
    }
    importanceSums[layer] += turned
    output.withUnsafeBufferPointer { output in
      outputSums.withUnsafeMutableBufferPointer { sums in
        for row in eligibleRows {
          for i in 0..<width { sums[layer * width + i] += Double(output[row * width + i]) }
        }
      }
    }
  }

  /// `1 - cos(x, x + delta)`; 0 where either is zero.
  static func turn(_ x: UnsafeBufferPointer<Float>, _ delta: UnsafeBufferPointer<Float>) -> Double {
    var (xx, xy, yy) = (0.0, 0.0, 0.0)
    for i in x.indices {
      let (a, b) = (Double(x[i]), Double(x[i]) + Double(delta[i]))
      xx += a * a
      xy += a * b
      yy += b * b
    }
    return xx > 0 && yy > 0 ? 1 - xy / (xx * yy).squareRoot() : 0
  }

  /// Downloads a tensor as contiguous rows.
  private static func read(_ tensor: Tensor, into values: inout [Float], from backend: any Backend) {
    if values.count < tensor.count { values = Array(repeating: 0, count: tensor.count) }
    values.withUnsafeMutableBytes { bytes in
      let rowBytes = tensor.columns * 4
      let step = tensor.isContiguous ? tensor.rows : 1
      for row in stride(from: 0, to: tensor.rows, by: max(1, step)) {
        let view = tensor.rows(row..<row + step)
        backend.download(
          view.address,
          into: UnsafeMutableRawBufferPointer(rebasing: bytes[row * rowBytes..<(row + step) * rowBytes]))
      }
    }
  }
}
