import PolarSparsity

extension QualityReport {
  /// The report as one HTML page with inline SVG and no other files; it follows the reader's light or dark setting.
  public var page: String {
    """
    <!doctype html>
    <html lang="en"><head><meta charset="utf-8"><title>\(Self.escape(title)): sparsity profile</title>
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <style>
    :root{color-scheme:light dark;--ink:#1d2330;--paper:#fff;--faint:#8a92a3;--grid:#dfe3ea;
    --routed:#0b62d6;--oracle:#14804a;--random:#b3460b;--static:#7a3fb5;--heat:11,98,214}
    @media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--paper:#14171d;--faint:#8d95a5;--grid:#2c323d;
    --routed:#6aa8ff;--oracle:#4fc98a;--random:#f2935c;--static:#c59bf5;--heat:106,168,255}}
    body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
    margin:2rem auto;padding:0 1rem}
    svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:12px}
    .axis{fill:var(--faint)}.grid{stroke:var(--grid);stroke-width:1}
    .line{fill:none;stroke-width:2}.paper{stroke-dasharray:6 4}
    .routed{stroke:var(--routed)}.oracle{stroke:var(--oracle)}.random{stroke:var(--random)}
    .static{stroke:var(--static)}.bar{fill:var(--routed)}.bar2{fill:var(--static)}
    .scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
    td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}
    th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
    </style></head><body>
    <h1>\(Self.escape(title))</h1>
    <p>Dense perplexity \(Self.fixed(profile.densePerplexity, 2)). Calibrated on \(profile.calibration.tokens) tokens,
    of which \(profile.calibration.samples) trained the routers. Critical density (perplexity within 1 % of dense):
    \(profile.criticalDensity.map { Self.fixed($0, 2) } ?? "none measured"); default density
    \(Self.fixed(profile.defaultDensity, 2)).</p>
    \(curveSection)
    \(layerSection)
    \(heatSection)
    </body></html>
    """
  }

  // MARK: Curve

  private var curveSection: String {
    let rows = profile.curve.filter { $0.policy != "dense" }
    guard !rows.isEmpty else { return "" }
    return """
      <h2>Perplexity against density</h2>
      <p>Increase of perplexity over dense by the mean fraction of heads computed in full. Solid: threshold on predicted
      deviation, local fallback. Dashed: top-k by norm, zero fallback. The vertical scale is logarithmic.</p>
      \(curveChart(rows))
      <div class="scroll"><table><tr><th>mode</th><th>policy</th><th>wanted</th><th>got</th><th>perplexity</th>
      <th>increase</th><th>KL, nats</th></tr>
      \(rows.map(tableRow).joined(separator: "\n"))
      </table></div>
      """
  }

  private func tableRow(_ row: QualityRow) -> String {
    let cells = [
      row.mode, row.policy, Self.fixed(row.wanted, 2), Self.fixed(row.got, 3),
      Self.fixed(row.perplexity, 2), Self.percent(increase(row)), Self.fixed(row.divergence, 4),
    ]
    return "<tr>" + cells.map { "<td>\(Self.escape($0))</td>" }.joined() + "</tr>"
  }

  /// Increases below a tenth of a per cent are drawn on the chart's floor.
  private static let floor = 0.001

  private func curveChart(_ rows: [QualityRow]) -> String {
    let (width, height, left, right, top, bottom) = (900.0, 430.0, 60.0, 150.0, 15.0, 40.0)
    let largest = rows.map(increase).filter(\.isFinite).max() ?? 1
    let ceiling = max(0.1, min(largest, 100))
    let span = Math.log(ceiling / Self.floor)
    func x(_ density: Double) -> Double { left + density * (width - left - right) }
    func y(_ value: Double) -> Double {
      let clamped = min(max(value, Self.floor), ceiling)
      return top + (1 - Math.log(clamped / Self.floor) / span) * (height - top - bottom)
    }
    var svg = "<svg viewBox=\"0 0 900 430\" role=\"img\" aria-label=\"Perplexity increase against density\">"
    for value in [0.001, 0.01, 0.1, 1, 10, 100] where value <= ceiling * 1.001 {
      svg += line(x(0), y(value), x(1), y(value))
      svg += text(left - 6, y(value) + 4, Self.fixed(value * 100, value < 0.01 ? 1 : 0) + " %", "end", "axis")
    }
    for density in stride(from: 0.0, through: 1.01, by: 0.2) {
      svg += line(x(density), top, x(density), height - bottom)
      svg += text(x(density), height - bottom + 16, Self.fixed(density, 1), "middle", "axis")
    }
    svg += text(x(0.5), height - 6, "fraction of heads computed in full", "middle", "axis")
    var labelY = top + 12
    for mode in HeadMode.allCases {
      for policy in QualityCurve.Policy.allCases {
        let points = profile.rows(policy, mode: mode)
        guard !points.isEmpty else { continue }
        let style = "line \(policy.rawValue)\(mode == .paper ? " paper" : "")"
        let path = points.map { "\(Self.fixed(x($0.got), 1)),\(Self.fixed(y(increase($0)), 1))" }
        svg += "<polyline class=\"\(style)\" points=\"\(path.joined(separator: " "))\"/>"
        for point in points {
          let tip =
            "\(policy.rawValue), \(mode.rawValue), \(Self.fixed(point.got, 3)): "
            + Self.percent(increase(point))
          svg +=
            "<circle class=\"line \(policy.rawValue)\" r=\"3\" cx=\"\(Self.fixed(x(point.got), 1))\" "
            + "cy=\"\(Self.fixed(y(increase(point)), 1))\"><title>\(tip)</title></circle>"
        }
        svg +=
          "<line class=\"\(style)\" x1=\"\(width - right + 12)\" y1=\"\(labelY - 4)\" "
          + "x2=\"\(width - right + 40)\" y2=\"\(labelY - 4)\"/>"
        svg += text(width - right + 46, labelY, "\(policy.rawValue), \(mode.rawValue)", "start", "")
        labelY += 18
      }
    }
    return svg + "</svg>"
  }

  // MARK: Layers

  private var layerSection: String {
    guard !profile.layerQuality.isEmpty else { return "" }
    let middle = profile.recallDensities.indices.min {
      abs(profile.recallDensities[$0] - 0.5) < abs(profile.recallDensities[$1] - 0.5)
    }
    let recalls = middle.map { index in
      bars(
        profile.layerQuality.map { ($0.layer, $0.deviationRecall[index]) }, style: "bar",
        label: "Recall of the largest deviations per layer")
        + "<p>Recall of the largest norms (paper's mode) at the same density.</p>"
        + bars(
          profile.layerQuality.map { ($0.layer, $0.normRecall[index]) }, style: "bar2",
          label: "Recall of the largest norms per layer")
    }
    let density = middle.map { Self.fixed(profile.recallDensities[$0], 2) } ?? ""
    return """
      <h2>Routers on held-out tokens</h2>
      <p>Explained variance (R2) of the log deviation per layer; mean \(Self.fixed(meanR2, 3)).</p>
      \(bars(profile.layerQuality.map { ($0.layer, $0.r2) }, style: "bar", label: "R2 per layer"))
      <p>Recall of the truly largest deviations at density \(density).</p>
      \(recalls ?? "")
      """
  }

  private func bars(_ values: [(layer: Int, value: Double)], style: String, label: String) -> String {
    let (width, height, left) = (900.0, 130.0, 40.0)
    let step = (width - left) / Double(max(1, values.count))
    var svg = "<svg viewBox=\"0 0 900 150\" role=\"img\" aria-label=\"\(label)\">"
    for mark in [0.0, 0.5, 1.0] {
      let y = 10 + (1 - mark) * (height - 20)
      svg += line(left, y, width, y) + text(left - 6, y + 4, Self.fixed(mark, 1), "end", "axis")
    }
    for (index, (layer, value)) in values.enumerated() {
      let size = min(1, max(0, value)) * (height - 20)
      let x = left + Double(index) * step
      svg +=
        "<rect class=\"\(style)\" x=\"\(Self.fixed(x + step * 0.1, 1))\" "
        + "y=\"\(Self.fixed(height - 10 - size, 1))\" width=\"\(Self.fixed(step * 0.8, 1))\" "
        + "height=\"\(Self.fixed(size, 1))\"><title>layer \(layer): \(Self.fixed(value, 3))</title></rect>"
      svg += text(x + step / 2, height + 8, "\(layer)", "middle", "axis")
    }
    return svg + "</svg>"
  }

  // MARK: Heads

  private var heatSection: String {
    let (layers, units) = (profile.model.layers, profile.units.count)
    let largest = max(profile.meanDeviations.max() ?? 0, 1e-9)
    let (cellWidth, cellHeight) = (850.0 / Double(max(1, units)), 14.0)
    let height = Double(layers) * cellHeight + 30
    var svg =
      "<svg viewBox=\"0 0 900 \(Self.fixed(height, 0))\" role=\"img\" aria-label=\"Mean deviation per head\">"
    for layer in 0..<layers {
      svg += text(34, Double(layer) * cellHeight + 11, "\(layer)", "end", "axis")
      for unit in 0..<units {
        let value = profile.meanDeviations[layer * units + unit]
        // The square root spreads the many small values.
        let strength = Double(max(0, value) / largest).squareRoot()
        svg +=
          "<rect x=\"\(Self.fixed(40 + Double(unit) * cellWidth, 1))\" "
          + "y=\"\(Self.fixed(Double(layer) * cellHeight, 1))\" width=\"\(Self.fixed(cellWidth - 1, 1))\" "
          + "height=\"\(cellHeight - 1)\" style=\"fill:rgba(var(--heat),\(Self.fixed(0.06 + 0.94 * strength, 3)))\">"
          + "<title>layer \(layer), unit \(unit): \(Self.fixed(Double(value), 4))</title></rect>"
      }
    }
    svg += text(465, height - 6, profile.units.headsPerUnit == 1 ? "head" : "KV group", "middle", "axis")
    return """
      <h2>What leaving a head out changes</h2>
      <p>Mean deviation of the block's output, relative to the residual stream, when a head attends locally only; rows
      are layers.</p>
      \(svg)</svg>
      """
  }

  // MARK: Pieces

  private func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double) -> String {
    "<line class=\"grid\" x1=\"\(Self.fixed(x1, 1))\" y1=\"\(Self.fixed(y1, 1))\" x2=\"\(Self.fixed(x2, 1))\" "
      + "y2=\"\(Self.fixed(y2, 1))\"/>"
  }

  private func text(_ x: Double, _ y: Double, _ value: String, _ anchor: String, _ style: String) -> String {
    "<text class=\"\(style)\" x=\"\(Self.fixed(x, 1))\" y=\"\(Self.fixed(y, 1))\" text-anchor=\"\(anchor)\">"
      + "\(Self.escape(value))</text>"
  }

  /// Text with HTML's special characters replaced.
  static func escape(_ text: String) -> String {
    var result = ""
    for character in text {
      switch character {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      default: result.append(character)
      }
    }
    return result
  }
}
