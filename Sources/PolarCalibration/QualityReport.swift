public import PolarSparsity

/// What a calibration found, to read: a plain table for the terminal and a self-contained page.
public struct QualityReport: Sendable {
  let profile: SparsityProfile
  let title: String

  /// A report on a calibrated profile; `title` names the model.
  public init(_ profile: SparsityProfile, title: String) {
    self.profile = profile
    self.title = title
  }

  /// Perplexity relative to dense, minus 1.
  func increase(_ row: QualityRow) -> Double { row.perplexity / profile.densePerplexity - 1 }

  /// The measured curve as plain text: one line per density, one column pair (density got, perplexity increase) per
  /// policy, a block per mode; then the routers' held-out quality.
  public var table: String {
    var lines = [
      "\(title): dense perplexity \(Self.fixed(profile.densePerplexity, 2))",
      "calibrated on \(profile.calibration.tokens) tokens (\(profile.calibration.samples) samples)",
    ]
    for mode in HeadMode.allCases {
      let policies = QualityCurve.Policy.allCases.filter { !profile.rows($0, mode: mode).isEmpty }
      guard !policies.isEmpty else { continue }
      lines.append("")
      lines.append(
        mode == .adaptive
          ? "adaptive (threshold on deviation; local fallback of \(profile.sinkPages) + "
            + "\(profile.recentPages) pages)" : "paper (top-k by norm; zero fallback)")
      lines.append(
        Self.pad("wanted", 7)
          + policies.map {
            Self.pad($0.rawValue + ": got", 14) + Self.pad("perplexity", 11) + Self.pad("KL", 8)
          }
          .joined())
      let densities = Set(policies.flatMap { profile.rows($0, mode: mode).map(\.wanted) }).sorted()
      for density in densities {
        var line = Self.pad(Self.fixed(density, 2), 7)
        for policy in policies {
          guard let row = profile.rows(policy, mode: mode).first(where: { $0.wanted == density }) else {
            line += Self.pad("-", 33)
            continue
          }
          line += Self.pad(Self.fixed(row.got, 3), 14) + Self.pad(Self.percent(increase(row)), 11)
          line += Self.pad(Self.fixed(row.divergence, 4), 8)
        }
        lines.append(line)
      }
    }
    lines.append("")
    lines.append("mean router R2 \(Self.fixed(meanR2, 3))")
    lines.append(
      "critical density "
        + (profile.criticalDensity.map { Self.fixed($0, 2) } ?? "none measured")
        + ", default density \(Self.fixed(profile.defaultDensity, 2))")
    return lines.joined(separator: "\n")
  }

  /// Mean explained variance of the deviation routers over layers.
  var meanR2: Double {
    profile.layerQuality.isEmpty
      ? 0 : profile.layerQuality.reduce(0) { $0 + $1.r2 } / Double(profile.layerQuality.count)
  }

  /// `value` with `digits` decimals.
  static func fixed(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite, abs(value) < 1e12 else { return "\(value)" }
    var scale = 1.0
    for _ in 0..<digits { scale *= 10 }
    let whole = Int((abs(value) * scale).rounded())
    let sign = value < 0 && whole > 0 ? "-" : ""
    guard digits > 0 else { return sign + String(whole) }
    var text = String(whole)
    while text.count <= digits { text = "0" + text }
    let split = text.index(text.endIndex, offsetBy: -digits)
    return sign + text[..<split] + "." + text[split...]
  }

  /// A relative change as signed per cent.
  static func percent(_ value: Double) -> String {
    (value >= 0 ? "+" : "") + fixed(value * 100, abs(value) < 0.995 ? 2 : 0) + " %"
  }

  /// Right-aligned in `width` columns.
  private static func pad(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }
}
