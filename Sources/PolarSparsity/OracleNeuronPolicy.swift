public import PolarCore
import Synchronization

/// Chooses a batch's neurons by their true activations, at the price of computing all of them: the ceiling of every
/// router. Heads stay dense.
public struct OracleNeuronPolicy: SparsityPolicy {
  /// How many neurons the oracle keeps.
  public enum Size: Sendable, Equatable {
    /// All that any row activates: the dense result.
    case active
    /// The fraction of the neurons with the largest sums of activations.
    case density(Double)
    /// As many as a profile's budgets say, with the largest sums of activations; dense where they say dense.
    case budgets(NeuronSparsity)
  }

  private let size: Size
  private let neurons: Int
  /// `oracle`.
  public var name: String { "oracle" }

  /// An oracle for MLPs of `neurons` neurons.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public init(neurons: Int, size: Size) throws(PolarError) {
    if case .density(let density) = size { try Density.validated(density) }
    self.size = size
    self.neurons = neurons
  }

  /// Bytes of workspace that selecting takes or keeps for `rows` rows, all activations included.
  public func workspaceByteCount(rows: Int) -> Int {
    rows * neurons * 4 + 64 + neuronListByteCount(neurons)
  }

  /// Dense: the choice comes once the activations are known.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection { .dense }

  /// True.
  public var looksAtActivations: Bool { true }

  /// The neurons of one layer of a decode step.
  public func selectNeurons(
    _ context: NeuronContext, workspace: inout Workspace, on backend: any Backend
  ) -> ActiveNeurons? {
    var k: Int?
    switch size {
    case .active: k = nil
    case .density(let density): k = Density.count(density, of: neurons)
    case .budgets(let sparsity):
      k = sparsity.budget(layer: context.layer, rows: context.activations.rows)
      if k == nil { return nil }
    }
    let list = workspace.keepNeurons(capacity: k ?? neurons)
    let mark = workspace.mark()
    let aggregate = workspace.take(columns: neurons)
    if let k {
      backend.topKUnion(list, sums: aggregate, scores: context.activations, k: k)
    } else {
      backend.unionAbove(list, peaks: aggregate, scores: context.activations, threshold: 0)
    }
    workspace.release(to: mark)
    return list
  }
}

/// Chooses a batch's neurons at random: the floor that a router must beat, and a way to time selective MLPs without a
/// profile. Heads stay dense.
public final class RandomNeuronPolicy: SparsityPolicy {
  private struct State {
    var generator: SplitMix64
    var scores: [Float]
  }

  private let state: Mutex<State>
  private let neurons: Int
  private let k: Int
  /// `random`.
  public var name: String { "random" }

  /// Random `max(1, round(density * neurons))` of `neurons` neurons, others in every layer and step.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public init(neurons: Int, density: Double, seed: UInt64) throws(PolarError) {
    try Density.validated(density)
    self.neurons = neurons
    k = Density.count(density, of: neurons)
    state = Mutex(
      State(generator: SplitMix64(seed: seed), scores: Array(repeating: 0, count: neurons)))
  }

  /// Scores come from the host.
  public var isRecordable: Bool { false }

  /// Bytes of workspace that selecting takes or keeps for `rows` rows, the list included.
  public func workspaceByteCount(rows: Int) -> Int {
    neurons * 4 + 64 + neuronListByteCount(neurons)
  }

  /// The neurons of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    let list = workspace.keepNeurons(capacity: k)
    let mark = workspace.mark()
    let scores = workspace.take(columns: neurons)
    let sums = workspace.take(columns: neurons)
    state.withLock { state in
      for n in 0..<neurons { state.scores[n] = state.generator.unitFloat() }
      state.scores.withUnsafeBytes { backend.upload($0, to: scores.address) }
    }
    backend.topKUnion(list, sums: sums, scores: scores, k: k)
    workspace.release(to: mark)
    return Selection(neurons: list)
  }
}
