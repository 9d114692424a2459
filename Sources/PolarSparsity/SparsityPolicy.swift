public import PolarCore

/// Chooses, per layer of a decode step, what is computed. Prefill is dense and never asks.
public protocol SparsityPolicy: Sendable {
  /// A short name for reports, such as `routed`.
  var name: String { get }
  /// Bytes of workspace that ``select(_:workspace:on:)`` may take for `rows` rows, the returned mask included.
  func workspaceByteCount(rows: Int) -> Int
  /// The selection for one layer of a decode step. What it takes from `workspace` stays valid until the layer ends.
  func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection
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
