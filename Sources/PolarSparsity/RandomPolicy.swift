public import PolarCore
import Synchronization

/// Chooses heads at random: the other floor that a router must beat.
public final class RandomPolicy: SparsityPolicy {
  private struct State {
    var generator: SplitMix64
    var scores: [Float]
  }

  private let state: Mutex<State>
  private let units: SelectionUnits
  private let rule: SelectionRule
  private let fallback: LayerFallback
  private let denseLayers: Set<Int>
  /// `random`.
  public var name: String { "random" }

  /// Random heads at a density: exactly `max(1, round(density * units))` per row in ``HeadMode/paper``, each with
  /// probability `density` in ``HeadMode/adaptive``.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public init(
    units: SelectionUnits, mode: HeadMode, density: Double, fallback: LayerFallback,
    denseLayers: Set<Int> = [0], seed: UInt64, maximumRows: Int = 256
  ) throws(PolarError) {
    try Density.validated(density)
    self.units = units
    rule = mode == .paper ? .topK(density: density) : .adaptive(threshold: Float(1 - density))
    self.fallback = fallback
    self.denseLayers = denseLayers
    state = Mutex(
      State(
        generator: SplitMix64(seed: seed),
        scores: Array(repeating: 0, count: maximumRows * units.count)))
  }

  /// Scores come from the host.
  public var isRecordable: Bool { false }

  /// Bytes of workspace that selecting takes for `rows` rows, the mask included.
  public func workspaceByteCount(rows: Int) -> Int {
    rows * units.count * (4 + units.headsPerUnit) + 128
  }

  /// The heads of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    guard !denseLayers.contains(context.layer) else { return .dense }
    let rows = context.input.rows
    let mask = workspace.take(rows: rows, columns: units.count * units.headsPerUnit, dtype: .u8)
    let mark = workspace.mark()
    let scores = workspace.take(rows: rows, columns: units.count)
    state.withLock { state in
      // Grows only when a batch is larger than any before.
      if state.scores.count < scores.count {
        state.scores = Array(repeating: 0, count: scores.count)
      }
      for i in 0..<scores.count { state.scores[i] = state.generator.unitFloat() }
      state.scores.withUnsafeBytes { bytes in
        backend.upload(UnsafeRawBufferPointer(rebasing: bytes[0..<scores.count * 4]), to: scores.address)
      }
    }
    rule.select(mask, scores: scores, units: units, on: backend)
    workspace.release(to: mark)
    return Selection(heads: ActiveHeads(mask: mask, fallback: fallback[context.layer]))
  }
}
