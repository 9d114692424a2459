public import PolarCore

/// The routers of all sparse layers in a backend's memory.
public final class HeadRouter: Sendable {
  private struct Layer: Sendable {
    let matrices: HeadRouterMatrices
    let localFeatures: Int
  }

  private let layers: [Layer?]
  private let memory: any DeviceMemory
  /// Number of scores per row.
  public let units: Int
  private let hiddenUnits: Int
  private let inputs: Int
  private let looksLocally: Bool
  private let heads: Int
  private let headDim: Int
  private let sinkPages: Int
  private let recentPages: Int

  /// Uploads routers.
  /// - Parameters:
  ///   - weights: by layer; nil where a layer is dense.
  ///   - heads: query heads of a layer.
  ///   - headDim: elements of a head's vectors.
  ///   - sinkPages: first pages of the local attention that local features come from.
  ///   - recentPages: last pages of it.
  public init(
    _ weights: [RouterWeights?], heads: Int, headDim: Int, sinkPages: Int = 1, recentPages: Int = 4,
    on backend: any Backend
  ) throws(PolarError) {
    func aligned(_ bytes: Int) -> Int { (bytes + 63) & ~63 }
    var total = 0
    for router in weights.compactMap({ $0 }) {
      total += aligned(backend.packedByteCount(outputs: router.units, inputs: router.inputs))
      total += aligned(router.units * 4)
      if router.hiddenUnits > 0 {
        total += aligned(backend.packedByteCount(outputs: router.hiddenUnits, inputs: router.inputs))
        total += aligned(router.hiddenUnits * 4)
        total += aligned(backend.packedByteCount(outputs: router.units, inputs: router.hiddenUnits))
      }
    }
    let memory = try backend.allocate(byteCount: max(64, total))
    var offset = 0
    func matrix(_ values: [Float], outputs: Int, inputs: Int) -> PackedMatrix {
      let packed = PackedMatrix(
        memory.base.advanced(by: offset), outputs: outputs, inputs: inputs, format: backend.wideFormat)
      values.withUnsafeBufferPointer { backend.packRows(packed, firstRow: 0, values: $0) }
      offset += aligned(backend.packedByteCount(outputs: outputs, inputs: inputs))
      return packed
    }
    func vector(_ values: [Float]) -> Tensor {
      let tensor = Tensor(memory.base.advanced(by: offset), columns: values.count)
      values.withUnsafeBytes { backend.upload($0, to: tensor.address) }
      offset += aligned(values.count * 4)
      return tensor
    }
    var layers: [Layer?] = []
    for router in weights {
      guard let router else {
        layers.append(nil)
        continue
      }
      let hidden = router.hiddenUnits
      let (weight, bias) = (
        matrix(router.weight, outputs: router.units, inputs: router.inputs), vector(router.bias)
      )
      var layer: HeadRouterMatrices.HiddenLayer?
      if hidden > 0 {
        layer = .init(
          weight: matrix(router.hiddenWeight, outputs: hidden, inputs: router.inputs),
          bias: vector(router.hiddenBias),
          output: matrix(router.outputWeight, outputs: router.units, inputs: hidden))
      }
      layers.append(
        Layer(
          matrices: HeadRouterMatrices(weight: weight, bias: bias, hidden: layer),
          localFeatures: router.localFeatures))
    }
    self.layers = layers
    self.memory = memory
    self.units = weights.lazy.compactMap { $0?.units }.first ?? 0
    self.hiddenUnits = weights.lazy.compactMap { $0?.hiddenUnits }.max() ?? 0
    self.inputs = weights.lazy.compactMap { $0?.inputs }.max() ?? 0
    self.looksLocally = weights.contains { ($0?.localFeatures ?? 0) > 0 }
    self.heads = heads
    self.headDim = headDim
    self.sinkPages = sinkPages
    self.recentPages = recentPages
  }

  /// Whether `layer` is routed; dense layers are not.
  public func routes(layer: Int) -> Bool { layer < layers.count && layers[layer] != nil }

  /// Bytes of workspace that routing takes for `rows` rows, the scores included and the mask not.
  public func workspaceByteCount(rows: Int) -> Int {
    let local = looksLocally ? rows * (inputs * 4 + heads * headDim * 4 + heads * 5) + 64 * 4 : 0
    return (rows * units * 4 + 64) * 2 + rows * hiddenUnits * 4 + 64 + local
  }

  /// Chooses the heads of one layer of a decode step in `mask` u8 `[rows, units * headsPerUnit]`; false when the layer is
  /// dense.
  ///
  /// `local` receives the local attention of all heads f32 `[rows, heads * headDim]`, in the workspace, where the router
  /// looked at it.
  func choose(
    _ mask: Tensor, local: inout Tensor?, _ context: AttentionContext, choice: ScoreChoice, headsPerUnit: Int,
    workspace: inout Workspace, on backend: any Backend
  ) -> Bool {
    guard context.layer < layers.count, let router = layers[context.layer] else { return false }
    let rows = context.input.rows
    local = router.localFeatures > 0 ? workspace.take(rows: rows, columns: heads * headDim) : nil
    let mark = workspace.mark()
    var input = context.input
    if let local {
      input = withLocalFeatures(
        router.localFeatures, local: local, context, workspace: &workspace, on: backend)
    }
    let scores = workspace.take(rows: rows, columns: units)
    let columns = router.matrices.scratchColumns
    backend.routeHeads(
      mask, scores: scores, input, router: router.matrices,
      scratch: columns > 0 ? workspace.take(rows: rows, columns: columns) : nil, choice: choice,
      headsPerUnit: headsPerUnit)
    workspace.release(to: mark)
    return true
  }

  /// Attends locally into `local`, and returns the block input and, beside it, the norms of `count` pieces of that:
  /// f32 `[rows, hidden + count]`.
  private func withLocalFeatures(
    _ count: Int, local: Tensor, _ context: AttentionContext, workspace: inout Workspace,
    on backend: any Backend
  ) -> Tensor {
    let rows = context.input.rows
    let hidden = context.input.columns
    let wide = workspace.take(rows: rows, columns: hidden + count)
    let any = workspace.take(rows: rows, columns: heads)
    let none = workspace.take(rows: rows, columns: heads, dtype: .u8)
    // No number is above infinity: the mask is all zero, and every head attends locally.
    backend.selectAbove(none, scores: any, threshold: .infinity, headsPerUnit: 1)
    backend.decodeAttention(
      local, query: context.query, kv: context.kv, batch: context.batch, scale: context.scale,
      heads: ActiveHeads(mask: none, fallback: .local(sinkPages: sinkPages, recentPages: recentPages)))
    // In a decode step row i belongs to sequence i, so this copies the rows in order.
    backend.gatherRows(wide.columns(0..<hidden), context.input, indices: context.batch.rowSequences)
    backend.headNorms(wide.columns(hidden..<hidden + count), attention: local)
    return wide
  }
}
