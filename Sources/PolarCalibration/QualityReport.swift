public import PolarSparsity

/// What a calibration found, to read: a plain table for the terminal and a self-contained page.
public struct QualityReport: Sendable {
  let profile: SparsityProfile
  let statistics: CalibrationStatistics?
  let title: String

  /// A report on a calibrated profile; `title` names the model.
  public init(_ profile: SparsityProfile, statistics: CalibrationStatistics? = nil, title: String) {
    self.profile = profile
    self.statistics = statistics
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
    lines += modeLines + neuronLines
    lines.append("")
    lines.append("mean router R2 \(Self.fixed(meanR2, 3))")
    lines.append(
      "critical density "
        + (profile.criticalDensity.map { Self.fixed($0, 2) } ?? "none measured")
        + ", default density \(Self.fixed(profile.defaultDensity, 2))")
    return lines.joined(separator: "\n")
  }

  private var modeLines: [String] {
    guard let modes = statistics?.modes, modes.count > 1 else { return [] }
    let widths = [7, 8, 7, 12, 11, 9, 9, 11]
    let heading = ["mode", "policy", "batch", "perplexity", "increase", "KL", "heads %", "neurons %"]
    let rows = modes.map { row in
      [
        row.mode.rawValue, row.policy, "\(row.batch)", Self.fixed(row.perplexity, 2),
        Self.percent(row.perplexity / profile.densePerplexity - 1), Self.fixed(row.divergence, 4),
        Self.fixed(row.heads * 100, 1), Self.fixed(row.neurons * 100, 1),
      ]
    }
    return [""] + ([heading] + rows).map { zip($0, widths).map { Self.pad($0, $1) }.joined() }
  }

  private var neuronLines: [String] {
    guard let neurons = profile.neurons else { return [] }
    let batches = neurons.comparison.map(\.batch)
    var lines = [
      "",
      "neurons of \(neurons.neurons) by layer and batch size (dense: faster so), rule \(neurons.rule.rawValue)",
      Self.pad("layer", 6) + Self.pad("recall", 8) + Self.pad("precision", 11)
        + batches.map { Self.pad("B\($0)", 7) }.joined(),
    ]
    for (index, layer) in neurons.layers.enumerated() {
      guard let layer else { continue }
      lines.append(
        Self.pad("\(index)", 6) + Self.pad(Self.fixed(layer.recall, 3), 8)
          + Self.pad(Self.fixed(layer.precision, 3), 11)
          + batches.map { batch in
            Self.pad(neurons.budget(layer: index, rows: batch).map(String.init) ?? "dense", 7)
          }.joined())
    }
    lines.append("recall of the union at equal size, mean over layers")
    for row in neurons.comparison {
      lines.append(
        Self.pad("B\(row.batch)", 6) + Self.pad(Self.fixed(row.density * 100, 1) + " %", 8)
          + "  threshold on any row \(Self.fixed(row.union * 100, 2)) %, sum of positive scores "
          + "\(Self.fixed(row.aggregate * 100, 2)) %")
    }
    return lines
  }

  /// Mean explained variance of the deviation routers over layers.
  var meanR2: Double {
    profile.layerQuality.isEmpty
      ? 0 : profile.layerQuality.reduce(0) { $0 + $1.r2 } / Double(profile.layerQuality.count)
  }

  /// `value` with `digits` decimals.
  public static func fixed(_ value: Double, _ digits: Int) -> String {
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
