public import PolarCore

/// Chooses, per layer of a decode step, what is computed. Prefill is dense and never asks.
public protocol SparsityPolicy: Sendable {
  /// A short name for reports, such as `routed`.
  var name: String { get }
  /// Bytes of workspace that one layer's selection may take or keep for `rows` rows, what it returns included.
  func workspaceByteCount(rows: Int) -> Int
  /// The selection for one layer of a decode step, before its attention. What it takes from `workspace` stays valid
  /// until the attention ends, what it keeps until the layer ends.
  func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection
  /// The policy as one for heads and one for neurons that know nothing of each other, so that neurons may be chosen while
  /// attention runs; nil where it is not made of two.
  var parts: (heads: any SparsityPolicy, neurons: any SparsityPolicy)? { get }
  /// Whether a step with it may be recorded and replayed (``PolarCore/Backend/record(_:)``): selecting issues the same ops at
  /// every step, and neither copies to or from the host nor decides anything there.
  var isRecordable: Bool { get }
  /// Whether ``selectNeurons(_:workspace:on:)`` is to be asked: for oracles, at the price of computing every activation first.
  var looksAtActivations: Bool { get }
  /// A second look: asked in decode steps where ``select(_:workspace:on:)`` chose no neurons, with the true activations of
  /// all neurons. What it keeps stays valid until the layer ends; nil leaves the MLP dense.
  func selectNeurons(
    _ context: NeuronContext, workspace: inout Workspace, on backend: any Backend
  ) -> ActiveNeurons?
}

extension SparsityPolicy {
  /// Nil.
  public var parts: (heads: any SparsityPolicy, neurons: any SparsityPolicy)? { nil }
  /// True.
  public var isRecordable: Bool { true }
  /// False.
  public var looksAtActivations: Bool { false }
  /// Leaves the MLP dense.
  public func selectNeurons(
    _ context: NeuronContext, workspace: inout Workspace, on backend: any Backend
  ) -> ActiveNeurons? { nil }
}

/// What ``SparsityPolicy/selectNeurons(_:workspace:on:)`` looks at.
@frozen public struct NeuronContext: BitwiseCopyable, Sendable {
  /// Layer index.
  public let layer: Int
  /// The neurons after ReLU; of a gated MLP, its gates after ReLU: f32 `[rows, allNeurons]`, none negative.
  public let activations: Tensor

  /// The activations of one layer's MLP.
  @inlinable public init(layer: Int, activations: Tensor) {
    self.layer = layer
    self.activations = activations
  }
}

/// Computes everything.
public struct DensePolicy: SparsityPolicy {
  /// The dense policy.
  public init() {}
  /// `dense`.
  public var name: String { "dense" }
  /// Bytes of workspace that selecting takes for `rows` rows, the mask included.
  public func workspaceByteCount(rows: Int) -> Int { 0 }
  /// The heads of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection { .dense }
}
