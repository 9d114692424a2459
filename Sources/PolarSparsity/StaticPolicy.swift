public import PolarCore

/// Chooses the same heads for every token: the floor that a router must beat.
///
/// It is a router without weights, so that it needs no bound on the batch and runs on every backend.
public struct StaticPolicy: SparsityPolicy {
  private let routed: RoutedPolicy
  /// `static`.
  public var name: String { "static" }

  /// A fixed choice of units per layer; `masks[layer]` is nil where a layer is dense.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``.
  public init(
    masks: [[Bool]?], hidden: Int, units: SelectionUnits, fallback: LayerFallback,
    on backend: any Backend
  ) throws(PolarError) {
    let weights = masks.map { mask in
      mask.map { RouterWeights(constant: $0.map { $0 ? 1 : 0 }, inputs: hidden) }
    }
    routed = try RoutedPolicy(
      router: HeadRouter(weights, heads: units.count * units.headsPerUnit, headDim: 0, on: backend),
      units: units, rule: .adaptive(threshold: 0.5),
      fallback: fallback)
  }

  /// The heads of largest mean score on calibration text. In ``HeadMode/paper`` every layer keeps the same number;
  /// in ``HeadMode/adaptive`` the mean deviations of all sparse layers compete.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public init(
    profile: SparsityProfile, mode: HeadMode, density: Double, on backend: any Backend
  ) throws(PolarError) {
    try Density.validated(density)
    let units = profile.units
    let sparse = (0..<profile.model.layers).filter { !profile.denseLayers.contains($0) }
    let scores = mode == .paper ? profile.meanNorms : profile.meanDeviations
    var kept: Set<Int> = []
    func keep(_ count: Int, of candidates: [Int]) {
      kept.formUnion(candidates.sorted { (scores[$0], $1) > (scores[$1], $0) }.prefix(count))
    }
    func indices(_ layer: Int) -> [Int] { (0..<units.count).map { layer * units.count + $0 } }
    switch mode {
    case .paper: for layer in sparse { keep(Density.count(density, of: units.count), of: indices(layer)) }
    case .adaptive:
      keep(Density.count(density, of: units.count * sparse.count), of: sparse.flatMap(indices))
    }
    let masks = (0..<profile.model.layers).map { layer in
      profile.denseLayers.contains(layer) ? nil : indices(layer).map(kept.contains)
    }
    try self.init(
      masks: masks, hidden: profile.model.hidden, units: units,
      fallback: LayerFallback(profile.fallback(mode), profile: profile, on: backend), on: backend)
  }

  /// Bytes of workspace that selecting takes for `rows` rows, the mask included.
  public func workspaceByteCount(rows: Int) -> Int { routed.workspaceByteCount(rows: rows) }

  /// The heads of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection { routed.select(context, workspace: &workspace, on: backend) }
}
