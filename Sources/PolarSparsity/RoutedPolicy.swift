public import PolarCore

/// Chooses heads by a trained router: the policy that serves.
public struct RoutedPolicy: SparsityPolicy {
  private let router: HeadRouter
  private let rule: SelectionRule
  private let fallback: LayerFallback
  private let units: SelectionUnits
  /// `routed`, unless it was given another.
  public let name: String

  /// A policy over trained routers.
  /// - Parameters:
  ///   - router: routers of the sparse layers.
  ///   - units: what a score decides about.
  ///   - rule: top-k or threshold.
  ///   - fallback: what the other heads contribute.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public init(
    router: HeadRouter, units: SelectionUnits, rule: SelectionRule, fallback: LayerFallback,
    name: String = "routed"
  ) throws(PolarError) {
    if case .topK(let density) = rule { try Density.validated(density) }
    self.router = router
    self.units = units
    self.rule = rule
    self.fallback = fallback
    self.name = name
  }

  /// The policy of a profile at a mean density: adaptive selection by deviation with the local fallback, or top-k by
  /// norm with the zero fallback.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public init(
    profile: SparsityProfile, mode: HeadMode = .adaptive, density: Double, on backend: any Backend
  ) throws(PolarError) {
    try self.init(
      router: HeadRouter(
        profile.routers(mode), heads: profile.model.heads, headDim: profile.model.headDim,
        sinkPages: profile.sinkPages, recentPages: profile.recentPages, on: backend), units: profile.units,
      rule: profile.rule(mode, density: density),
      fallback: LayerFallback(profile.fallback(mode), profile: profile, on: backend))
  }

  /// Bytes of workspace that selecting takes for `rows` rows, the mask included.
  public func workspaceByteCount(rows: Int) -> Int {
    router.workspaceByteCount(rows: rows) + rows * units.count * units.headsPerUnit + 64
  }

  /// The heads of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    guard router.routes(layer: context.layer) else { return .dense }
    let mask = workspace.take(
      rows: context.input.rows, columns: units.count * units.headsPerUnit, dtype: .u8)
    let mark = workspace.mark()
    var local: Tensor?
    let chosen = router.choose(
      mask, local: &local, context, choice: rule.choice(of: units), headsPerUnit: units.headsPerUnit,
      workspace: &workspace, on: backend)
    guard chosen else { return .dense }
    // The router has attended locally for all heads already: those that are not selected need no more.
    if let local, case .local = fallback[context.layer] {
      return Selection(heads: ActiveHeads(mask: mask, fallback: .computed(local)))
    }
    workspace.release(to: mark)
    return Selection(heads: ActiveHeads(mask: mask, fallback: fallback[context.layer]))
  }
}

extension SelectionRule {
  /// What the rule does with the scores of `units`.
  func choice(of units: SelectionUnits) -> ScoreChoice {
    switch self {
    case .topK(let density): .largest(Density.count(density, of: units.count))
    case .adaptive(let threshold): .above(threshold)
    }
  }

  /// Turns scores f32 `[rows, units]` into a head mask u8 `[rows, heads]`.
  func select(_ mask: Tensor, scores: Tensor, units: SelectionUnits, on backend: any Backend) {
    switch choice(of: units) {
    case .largest(let k):
      backend.selectTopK(mask, scores: scores, k: k, headsPerUnit: units.headsPerUnit)
    case .above(let threshold):
      backend.selectAbove(mask, scores: scores, threshold: threshold, headsPerUnit: units.headsPerUnit)
    }
  }
}
