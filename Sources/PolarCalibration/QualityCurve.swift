public import PolarCore
public import PolarSparsity

/// Measures policies and densities in both modes against the dense model.
public struct QualityCurve: Sendable {
  /// Policies that a curve may hold.
  public enum Policy: String, Sendable, CaseIterable { case routed, oracle, random, `static` }

  /// The policies to measure.
  public var policies: [Policy] = Policy.allCases
  /// The modes to measure.
  public var modes: [HeadMode] = HeadMode.allCases
  /// The densities to measure.
  public var densities: [Double] = [0.22, 0.34, 0.45, 0.56, 0.67, 0.78, 0.9]
  /// The seed of the random policy.
  public var seed: UInt64 = 1

  /// The default curve: everything.
  public init() {}

  /// Policies times modes times densities.
  public var count: Int { policies.count * modes.count * densities.count }

  /// The policy of one point.
  /// - Throws: ``PolarError/request(field:reason:)`` when the density is not in (0, 1].
  public func policy(
    _ policy: Policy, mode: HeadMode, density: Double, profile: SparsityProfile, gram: OutputGram,
    on backend: any Backend
  ) throws(PolarError) -> any SparsityPolicy {
    let fallback = try LayerFallback(profile.fallback(mode), profile: profile, on: backend)
    let dense = Set(profile.denseLayers)
    return switch policy {
    case .routed: try RoutedPolicy(profile: profile, mode: mode, density: density, on: backend)
    case .static: try StaticPolicy(profile: profile, mode: mode, density: density, on: backend)
    case .random:
      try RandomPolicy(
        units: profile.units, mode: mode, density: density, fallback: fallback, denseLayers: dense,
        seed: seed)
    case .oracle:
      try OraclePolicy(
        gram: gram, units: profile.units, headDim: profile.model.headDim, mode: mode,
        rule: profile.oracleRule(mode, density: density), fallback: fallback, denseLayers: dense)
    }
  }

  /// Measures all points, routed first; the first row is the dense model.
  /// - Parameter measured: called after each row with the number of rows so far.
  public func measure(
    profile: SparsityProfile, gram: OutputGram, meter: QualityMeter, on backend: any Backend,
    measured: (_ rows: Int) -> Void = { _ in }
  ) throws(PolarError) -> [QualityRow] {
    let dense = try meter.measureDense()
    var rows = [
      QualityRow(
        mode: "dense", policy: "dense", wanted: 1, got: 1, perplexity: dense.perplexity, divergence: 0)
    ]
    measured(rows.count)
    for policy in policies {
      for mode in modes {
        for density in densities {
          let measurement = try meter.measure(
            self.policy(
              policy, mode: mode, density: density, profile: profile, gram: gram, on: backend))
          rows.append(
            QualityRow(
              mode: mode.rawValue, policy: policy.rawValue, wanted: density, got: measurement.density,
              perplexity: measurement.perplexity, divergence: measurement.divergence))
          measured(rows.count)
        }
      }
    }
    return rows
  }
}

extension SparsityProfile {
  /// Measured rows of one policy and mode, by ascending density got.
  public func rows(_ policy: QualityCurve.Policy, mode: HeadMode) -> [QualityRow] {
    curve.filter { $0.policy == policy.rawValue && $0.mode == mode.rawValue }.sorted { $0.got < $1.got }
  }

  /// The lowest measured routed density (wanted) in the default mode from which on perplexity stays within `tolerance`
  /// of dense, or nil.
  public func criticalDensity(tolerance: Double) -> Double? {
    var result: Double?
    for row in rows(.routed, mode: .adaptive).reversed() {
      guard row.perplexity <= densePerplexity * (1 + tolerance) else { break }
      result = row.wanted
    }
    return result
  }

  /// The lowest density in the default mode whose mean divergence from dense is at most `target` nats per token,
  /// interpolated on the measured curve; 1 when none is.
  public func density(divergence target: Double) -> Double {
    let rows = rows(.routed, mode: .adaptive)
    var result = 1.0
    for (index, row) in rows.enumerated().reversed() {
      if row.divergence <= target {
        result = min(result, row.wanted)
        continue
      }
      guard index + 1 < rows.count, rows[index + 1].divergence <= target else { break }
      let next = rows[index + 1]
      let t = (row.divergence - target) / max(row.divergence - next.divergence, 1e-12)
      return row.wanted + t * (next.wanted - row.wanted)
    }
    return result
  }
}
