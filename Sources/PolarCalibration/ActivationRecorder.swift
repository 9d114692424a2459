public import PolarCore
public import PolarFormats
public import PolarSparsity

/// Records what routers learn from while a model runs dense prefill, in bounded memory.
///
/// Per layer and token it takes the block input, the output norms `||o_h||`, and the relative deviations
/// `||W_o,h (o_h - f_h)|| / ||residual||`, where `f_h` is the local fallback's output on the same K and V. A unit of
/// several heads has the root of their summed squares. Tokens whose whole context lies in the local pages are left out:
/// there the fallback is exact.
public final class ActivationRecorder: ForwardTap {
  /// Recorded samples by layer; nil for dense layers.
  public private(set) var samples: [LayerSamples?]
  /// Tokens that were eligible so far.
  public private(set) var tokens = 0

  private let config: ModelConfig
  private let units: SelectionUnits
  private let gram: OutputGram
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
  private var deviationSums: [Double]
  private var normSums: [Double]
  private var outputSums: [Double]

  /// A recorder.
  /// - Parameters:
  ///   - denseLayers: layers without routers; only their means are recorded.
  ///   - expectedTokens: tokens that will be run, to spread the kept ones evenly.
  ///   - memoryLimit: bytes of samples to keep at most.
  public init(
    config: ModelConfig, units: SelectionUnits, gram: OutputGram, sinkPages: Int, recentPages: Int,
    denseLayers: Set<Int>, expectedTokens: Int, memoryLimit: Int
  ) {
    self.config = config
    self.units = units
    self.gram = gram
    self.sinkPages = sinkPages
    self.recentPages = recentPages
    let sparseLayers = max(1, config.layers - denseLayers.count)
    let features = Self.localFeatures(config)
    let width = config.hidden + features
    let bytes = LayerSamples.bytesPerToken(inputs: width, units: units.count) * sparseLayers
    let capacity = min(expectedTokens, max(1, memoryLimit / bytes))
    keep = Double(capacity) / Double(max(1, expectedTokens))
    samples = (0..<config.layers).map { layer in
      denseLayers.contains(layer)
        ? nil
        : LayerSamples(
          inputs: width, localFeatures: features, units: units.count, capacity: capacity)
    }
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
    rows * 4 * (config.heads * config.headDim + 3 * config.heads + 2 * units.count) + 5 * 64
  }

  /// Mean relative deviation: `[layers, units]`.
  public var meanDeviations: [Float] { means(deviationSums) }
  /// Mean output norm: `[layers, units]`.
  public var meanNorms: [Float] { means(normSums) }
  /// Mean output of each head: `[layers, heads, headDim]`.
  public var meanOutputs: [Float] { means(outputSums) }

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
    backend.prefillAttention(
      local, query: context.query, kv: context.kv, batch: context.batch, scale: context.scale,
      span: .local(sinkPages: sinkPages, recentPages: recentPages))
    backend.headDeviations(
      headDeviations, attention: output, fallback: local, gram: gram[context.layer],
      residual: context.residual)
    backend.headNorms(unitDeviations, attention: headDeviations)
    backend.headNorms(unitNorms, attention: output)
    backend.headNorms(localNorms, attention: local)
    Self.read(unitDeviations, into: &deviations, from: backend)
    Self.read(unitNorms, into: &norms, from: backend)
    Self.read(localNorms, into: &features, from: backend)
    Self.read(output, into: &self.output, from: backend)
    workspace.release(to: mark)
    addToMeans(context.layer)
    guard samples[context.layer] != nil, !keptRows.isEmpty else { return }
    Self.read(context.input, into: &input, from: backend)
    let (hidden, count, pieces) = (config.hidden, units.count, Self.localFeatures(config))
    for index in keptRows {
      row.removeAll(keepingCapacity: true)
      row += input[index * hidden..<(index + 1) * hidden]
      row += features[index * pieces..<(index + 1) * pieces]
      let labels = index * count..<(index + 1) * count
      samples[context.layer]?.append(input: row, deviations: deviations[labels], norms: norms[labels])
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
    }
    output.withUnsafeBufferPointer { output in
      outputSums.withUnsafeMutableBufferPointer { sums in
        for row in eligibleRows {
          for i in 0..<width { sums[layer * width + i] += Double(output[row * width + i]) }
        }
      }
    }
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
