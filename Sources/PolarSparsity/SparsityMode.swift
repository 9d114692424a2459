public import PolarCore

/// What of a decode step is sparse.
public enum SparsityMode: String, Sendable, Equatable, Codable, CaseIterable {
  /// Nothing.
  case dense
  /// MLP neurons only, as in Deja Vu (Liu et al. 2023).
  case mlp
  /// Attention heads only.
  case heads
  /// Both: Polar Sparsity (arXiv 2505.14884).
  case polar

  /// Whether heads are chosen.
  public var selectsHeads: Bool { self == .heads || self == .polar }
  /// Whether neurons are chosen.
  public var selectsNeurons: Bool { self == .mlp || self == .polar }
}

/// The heads that one policy chooses and the neurons that another does.
public struct CombinedPolicy: SparsityPolicy {
  private let heads: any SparsityPolicy
  private let neurons: any SparsityPolicy
  /// The name of the policy for heads.
  public var name: String { heads.name }

  /// Takes heads from the one and neurons from the other.
  public init(heads: any SparsityPolicy, neurons: any SparsityPolicy) {
    self.heads = heads
    self.neurons = neurons
  }

  /// Bytes of workspace that both take for `rows` rows.
  public func workspaceByteCount(rows: Int) -> Int {
    heads.workspaceByteCount(rows: rows) + neurons.workspaceByteCount(rows: rows)
  }

  /// The heads and neurons of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    let neurons = neurons.select(context, workspace: &workspace, on: backend).neurons
    let heads = heads.select(context, workspace: &workspace, on: backend).heads
    return Selection(heads: heads, neurons: neurons)
  }

  /// Whether the policy for neurons looks at activations.
  public var looksAtActivations: Bool { neurons.looksAtActivations }
  /// Both.
  public var parts: (heads: any SparsityPolicy, neurons: any SparsityPolicy)? { (heads, neurons) }
  /// Where both are.
  public var isRecordable: Bool { heads.isRecordable && neurons.isRecordable }

  /// The neurons that the policy for neurons chooses by their activations.
  public func selectNeurons(
    _ context: NeuronContext, workspace: inout Workspace, on backend: any Backend
  ) -> ActiveNeurons? { neurons.selectNeurons(context, workspace: &workspace, on: backend) }
}

extension SparsityProfile {
  /// The modes that the profile has routers for.
  public var modes: [SparsityMode] {
    SparsityMode.allCases.filter { mode in
      (!mode.selectsHeads || denseLayers.count < model.layers) && (!mode.selectsNeurons || neurons != nil)
    }
  }

  /// The routed policy of a mode, the profile's own when nil.
  /// - Parameters:
  ///   - heads: how heads are chosen, where they are.
  ///   - density: mean density of heads over the sparse layers, the profile's own when nil.
  /// - Throws: ``PolarError/request(field:reason:)`` when the profile has no routers for the mode or the density is not in
  ///   (0, 1].
  public func policy(
    _ mode: SparsityMode? = nil, heads: HeadMode = .adaptive, density: Double? = nil,
    on backend: any Backend
  ) throws(PolarError) -> any SparsityPolicy {
    let mode = mode ?? defaultMode
    guard modes.contains(mode) else {
      throw .request(
        field: "sparsity",
        reason: "the profile has no routers for '\(mode.rawValue)', only for "
          + modes.map { "'\($0.rawValue)'" }.joined(separator: ", "))
    }
    var policy: any SparsityPolicy = DensePolicy()
    if mode.selectsHeads {
      policy = try RoutedPolicy(
        profile: self, mode: heads, density: density ?? defaultDensity, on: backend)
    }
    if mode.selectsNeurons, let neurons {
      policy = CombinedPolicy(heads: policy, neurons: try RoutedNeuronPolicy(neurons, on: backend))
    }
    return policy
  }
}
