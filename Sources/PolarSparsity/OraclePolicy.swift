public import PolarCore

/// Chooses by the true scores, at the price of computing full and fallback attention: the ceiling of every router.
public struct OraclePolicy: SparsityPolicy {
  private let gram: OutputGram
  private let units: SelectionUnits
  private let mode: HeadMode
  private let rule: SelectionRule
  private let fallback: LayerFallback
  private let headDim: Int
  private let denseLayers: Set<Int>
  /// `oracle`.
  public var name: String { "oracle" }

  /// An oracle.
  /// - Parameters:
  ///   - mode: ``HeadMode/adaptive`` scores by relative deviation from the fallback, ``HeadMode/paper`` by the
  ///     norm of the output.
  ///   - rule: thresholds are on the true score, the relative deviation or the norm itself.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public init(
    gram: OutputGram, units: SelectionUnits, headDim: Int, mode: HeadMode, rule: SelectionRule,
    fallback: LayerFallback, denseLayers: Set<Int> = [0]
  ) throws(PolarError) {
    if case .topK(let density) = rule { try Density.validated(density) }
    self.gram = gram
    self.units = units
    self.headDim = headDim
    self.mode = mode
    self.rule = rule
    self.fallback = fallback
    self.denseLayers = denseLayers
  }

  /// Bytes of workspace that selecting takes for `rows` rows, the mask included.
  public func workspaceByteCount(rows: Int) -> Int {
    let heads = units.count * units.headsPerUnit
    return rows * (heads * headDim * 8 + heads * 6 + units.count * 4) + 64 * 6
  }

  /// The heads of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    guard !denseLayers.contains(context.layer) else { return .dense }
    let rows = context.input.rows
    let heads = units.count * units.headsPerUnit
    let mask = workspace.take(rows: rows, columns: heads, dtype: .u8)
    let mark = workspace.mark()
    let scores = workspace.take(rows: rows, columns: units.count)
    let full = workspace.take(rows: rows, columns: heads * headDim)
    backend.decodeAttention(
      full, query: context.query, kv: context.kv, batch: context.batch, scale: context.scale,
      heads: nil)
    switch mode {
    case .paper:
      // The norm of a group's concatenated outputs is the root of its heads' summed squares.
      backend.headNorms(scores, attention: full)
    case .adaptive:
      let substitute = workspace.take(rows: rows, columns: heads * headDim)
      let none = workspace.take(rows: rows, columns: heads, dtype: .u8)
      let deviations = workspace.take(rows: rows, columns: heads)
      // No head is above infinity: the mask is all zero.
      backend.selectAbove(none, scores: deviations, threshold: .infinity, headsPerUnit: 1)
      backend.decodeAttention(
        substitute, query: context.query, kv: context.kv, batch: context.batch, scale: context.scale,
        heads: ActiveHeads(mask: none, fallback: fallback[context.layer]))
      backend.headDeviations(
        deviations, attention: full, fallback: substitute, gram: gram[context.layer],
        residual: context.residual)
      backend.headNorms(scores, attention: deviations)
    }
    rule.select(mask, scores: scores, units: units, on: backend)
    workspace.release(to: mark)
    return Selection(heads: ActiveHeads(mask: mask, fallback: fallback[context.layer]))
  }
}
