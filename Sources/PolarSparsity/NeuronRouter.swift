public import PolarCore

/// The neuron routers of all sparse layers in a backend's memory.
public final class NeuronRouter: Sendable {
  private struct Layer: Sendable {
    /// `[rank, inputs]`
    let down: PackedMatrix
    /// `[neurons, rank]`
    let up: PackedMatrix
  }

  private let layers: [Layer?]
  private let memory: any DeviceMemory
  private let rank: Int
  private let neurons: Int

  /// Uploads routers, by layer; nil where a layer is dense.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``.
  public init(_ weights: [NeuronRouterWeights?], on backend: any Backend) throws(PolarError) {
    func bytes(_ outputs: Int, _ inputs: Int) -> Int {
      (backend.packedByteCount(outputs: outputs, inputs: inputs) + 63) & ~63
    }
    let total = weights.reduce(0) { sum, router in
      router.map { sum + bytes($0.rank, $0.inputs) + bytes($0.neurons, $0.rank) } ?? sum
    }
    let memory = try backend.allocate(byteCount: max(64, total))
    var offset = 0
    func matrix(_ values: [Float], outputs: Int, inputs: Int) -> PackedMatrix {
      let packed = PackedMatrix(memory.base.advanced(by: offset), outputs: outputs, inputs: inputs)
      values.withUnsafeBufferPointer { backend.packRows(packed, firstRow: 0, values: $0) }
      offset += bytes(outputs, inputs)
      return packed
    }
    layers = weights.map { router in
      router.map {
        Layer(
          down: matrix($0.down, outputs: $0.rank, inputs: $0.inputs),
          up: matrix($0.up, outputs: $0.neurons, inputs: $0.rank))
      }
    }
    self.memory = memory
    rank = weights.lazy.compactMap { $0?.rank }.max() ?? 0
    neurons = weights.lazy.compactMap { $0?.neurons }.max() ?? 0
  }

  /// Bytes of workspace that ``score(layer:_:workspace:on:)`` takes for `rows` rows.
  public func workspaceByteCount(rows: Int) -> Int { rows * (rank + neurons) * 4 + 128 }

  /// Scores f32 `[rows, neurons]` of a layer from its normalised block input f32 `[rows, inputs]`, in `workspace`; nil
  /// where the layer has no router.
  public func score(
    layer: Int, _ input: Tensor, workspace: inout Workspace, on backend: any Backend
  ) -> Tensor? {
    guard layer < layers.count, let router = layers[layer] else { return nil }
    let middle = workspace.take(rows: input.rows, columns: router.down.outputs)
    let scores = workspace.take(rows: input.rows, columns: router.up.outputs)
    backend.linear(middle, input, weight: router.down, bias: nil)
    backend.linear(scores, middle, weight: router.up, bias: nil)
    return scores
  }
}

/// Chooses a batch's neurons by trained routers: the policy that serves. Heads stay dense.
///
/// The same batch in the same order gives the same neurons; a row's result depends on the other rows by nature.
public struct RoutedNeuronPolicy: SparsityPolicy {
  private let sparsity: NeuronSparsity
  private let router: NeuronRouter
  /// `routed`.
  public var name: String { "routed" }

  /// The policy of a profile's neuron routers.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``.
  public init(_ sparsity: NeuronSparsity, on backend: any Backend) throws(PolarError) {
    router = try NeuronRouter(sparsity.layers.map { $0?.router }, on: backend)
    // The weights are on the device now; what is kept answers for budgets and thresholds.
    var sparsity = sparsity
    for layer in sparsity.layers.indices where sparsity.layers[layer] != nil {
      sparsity.layers[layer]?.router = NeuronRouterWeights(inputs: 0, rank: 0, neurons: 0)
    }
    self.sparsity = sparsity
  }

  /// Bytes of workspace that selecting takes or keeps for `rows` rows, the list included.
  public func workspaceByteCount(rows: Int) -> Int {
    router.workspaceByteCount(rows: rows) + neuronListByteCount(sparsity.neurons)
  }

  /// The neurons of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    let rows = context.input.rows
    guard let budget = sparsity.budget(layer: context.layer, rows: rows) else { return .dense }
    let mark = workspace.mark()
    defer { workspace.release(to: mark) }
    guard
      let scores = router.score(layer: context.layer, context.input, workspace: &workspace, on: backend)
    else { return .dense }
    let aggregate = workspace.take(columns: sparsity.neurons)
    let neurons = workspace.keepNeurons(capacity: sparsity.rule == .union ? sparsity.neurons : budget)
    switch sparsity.rule {
    case .aggregate: backend.topKUnion(neurons, sums: aggregate, scores: scores, k: budget)
    case .union:
      backend.unionAbove(
        neurons, peaks: aggregate, scores: scores,
        threshold: sparsity.threshold(layer: context.layer, rows: rows))
    }
    return Selection(neurons: neurons)
  }
}

extension Workspace {
  /// Room for a list of up to `capacity` neurons that lasts until the layer ends.
  mutating func keepNeurons(capacity: Int) -> ActiveNeurons {
    ActiveNeurons(
      indices: keep(columns: capacity, dtype: .i32), count: keep(columns: 1, dtype: .i32))
  }
}

/// Bytes of a kept list of up to `neurons` neurons, its count and an aggregate of all scores.
func neuronListByteCount(_ neurons: Int) -> Int { neurons * 8 + 3 * 64 }
