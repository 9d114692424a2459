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
      let packed = PackedMatrix(
        memory.base.advanced(by: offset), outputs: outputs, inputs: inputs, format: backend.wideFormat)
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

  /// Bytes of workspace that routing takes for `rows` rows, the list not included.
  public func workspaceByteCount(rows: Int) -> Int { rows * (rank + neurons) * 4 + neurons * 4 + 192 }

  /// Chooses neurons of a layer from its normalised block input f32 `[rows, inputs]`; what it takes of `workspace` is
  /// scratch. The layer has a router.
  func choose(
    _ list: ActiveNeurons, layer: Int, _ input: Tensor, choice: ScoreChoice, workspace: inout Workspace,
    on backend: any Backend
  ) {
    guard let router = layers[layer] else { return }
    let middle = workspace.take(rows: input.rows, columns: router.down.outputs)
    let scores = workspace.take(rows: input.rows, columns: router.up.outputs)
    let aggregate = workspace.take(columns: router.up.outputs)
    backend.linear(middle, input, weight: router.down, bias: nil)
    backend.routeNeurons(
      list, middle, weight: router.up, scores: scores, aggregate: aggregate, choice: choice)
  }

  /// Whether `layer` is routed; dense layers are not.
  func routes(layer: Int) -> Bool { layer < layers.count && layers[layer] != nil }
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
    guard router.routes(layer: context.layer),
      let budget = sparsity.budget(layer: context.layer, rows: rows)
    else { return .dense }
    let mark = workspace.mark()
    defer { workspace.release(to: mark) }
    let neurons = workspace.keepNeurons(capacity: sparsity.rule == .union ? sparsity.neurons : budget)
    let choice: ScoreChoice =
      switch sparsity.rule {
      case .aggregate: .largest(budget)
      case .union: .above(sparsity.threshold(layer: context.layer, rows: rows))
      }
    router.choose(
      neurons, layer: context.layer, context.input, choice: choice, workspace: &workspace, on: backend)
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
