import Foundation
import PolarSparsity

extension QualityReport {
  /// The report as one HTML page with inline SVG, the statistics as JSON in it, and no other files; it follows the
  /// reader's light or dark setting.
  public var page: String {
    """
    <!doctype html>
    <html lang="en"><head><meta charset="utf-8"><title>\(SVG.escape(title)): sparsity profile</title>
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <style>
    \(ChartStyle.css)
    body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
    margin:2rem auto;padding:0 1rem}h2{margin-top:2.5rem}
    .scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
    td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}
    th:first-child,td:first-child,th.left,td.left{text-align:left}
    </style></head><body>
    <h1>\(SVG.escape(title))</h1>
    <p>Dense perplexity \(Self.fixed(profile.densePerplexity, 2)). Calibrated on \(profile.calibration.tokens) tokens,
    of which \(profile.calibration.samples) trained the routers. Critical density of heads (perplexity within 1 % of
    dense): \(profile.criticalDensity.map { Self.fixed($0, 2) } ?? "none measured"); default density
    \(Self.fixed(profile.defaultDensity, 2)).</p>
    \(modeSection)
    \(curveSection)
    \(headRouterSection)
    \(headSection)
    \(importanceSection)
    \(unionSection)
    \(neuronRouterSection)
    \(costSection)
    <script type="application/json" id="statistics">\(json)</script>
    </body></html>
    """
  }

  /// The statistics as JSON; `<` is escaped so that the text may stand in a page.
  private var json: String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    guard let statistics, let data = try? encoder.encode(statistics) else { return "{}" }
    return String(decoding: data, as: UTF8.self).replacingOccurrences(of: "<", with: "\\u003c")
  }

  /// A table; the first column, and those named in `left`, are aligned to the left.
  func table(_ heading: [String], _ rows: [[String]], left: Set<Int> = []) -> String {
    func line(_ cells: [String], _ tag: String) -> String {
      "<tr>"
        + cells.enumerated().map { column, cell in
          "<\(tag)\(left.contains(column) ? " class=\"left\"" : "")>\(SVG.escape(cell))</\(tag)>"
        }.joined() + "</tr>"
    }
    return
      "<div class=\"scroll\"><table>\(line(heading, "th"))\(rows.map { line($0, "td") }.joined(separator: "\n"))"
      + "</table></div>"
  }

  // MARK: The four modes

  private var modeSection: String {
    guard let statistics, statistics.modes.count > 1 else { return "" }
    let rows = statistics.modes.map { row in
      [
        row.mode.rawValue, row.policy, String(row.batch), Self.fixed(row.perplexity, 2),
        Self.percent(row.perplexity / profile.densePerplexity - 1), Self.fixed(row.divergence, 4),
        Self.fixed(row.heads * 100, 1), Self.fixed(row.neurons * 100, 1),
      ]
    }
    return """
      <h2>The four modes</h2>
      <p>Held-out text, prefilled densely and then decoded teacher-forced through the kernels that serve, by sequences
      decoded together: neurons are chosen for a whole batch. <em>mlp</em> computes the chosen neurons only, <em>heads</em>
      the chosen heads, <em>polar</em> both. <em>oracle</em> knows true scores and activations. Heads over the layers whose
      heads are chosen, neurons over all layers; layers that are faster dense run dense.</p>
      \(table(
        ["mode", "policy", "batch", "perplexity", "increase", "KL, nats", "heads, %", "neurons, %"], rows, left: [1]))
      """
  }

  // MARK: Perplexity against density

  private var curveSection: String {
    let rows = profile.curve.filter { $0.policy != "dense" }
    guard !rows.isEmpty else { return "" }
    let cells = rows.map { row in
      [
        row.mode, row.policy, Self.fixed(row.wanted, 2), Self.fixed(row.got, 3),
        Self.fixed(row.perplexity, 2), Self.percent(increase(row)), Self.fixed(row.divergence, 4),
      ]
    }
    return """
      <h2>Perplexity against density</h2>
      <p>Increase of perplexity over dense by the mean fraction of heads computed in full. Solid: threshold on predicted
      deviation, local fallback. Dashed: top-k by norm, zero fallback. The vertical scale is logarithmic; less than 0.1 %
      is drawn at 0.1 %.</p>
      \(headCurve.svg().fragment)
      \(neuronCurve)
      <details><summary>All points of the heads' curve</summary>
      \(table(
        ["mode", "policy", "wanted", "got", "perplexity", "increase", "KL, nats"], cells, left: [1]))
      </details>
      """
  }

  private func increaseAxis(_ values: [Double]) -> ChartAxis {
    let ceiling = max(0.1, min(values.filter(\.isFinite).max() ?? 1, 100))
    return ChartAxis(
      "increase of perplexity, %", 0.001...ceiling,
      ticks: [0.001, 0.01, 0.1, 1, 10, 100].filter { $0 <= ceiling * 1.001 }, isLogarithmic: true
    ) { Self.fixed($0 * 100, $0 < 0.01 ? 1 : 0) }
  }

  private var headCurve: LineChart {
    var series: [LineChart.Series] = []
    for mode in HeadMode.allCases {
      for (colour, policy) in QualityCurve.Policy.allCases.enumerated() {
        let rows = profile.rows(policy, mode: mode)
        series.append(
          .init(
            "\(policy.rawValue), \(mode.rawValue)", rows.map { ($0.got, increase($0)) }, colour: colour,
            isDashed: mode == .paper))
      }
    }
    return LineChart(
      x: .fraction("heads computed in full, %"),
      y: increaseAxis(profile.curve.map(increase)), series: series)
  }

  private var neuronCurve: String {
    guard let points = statistics?.neuronCurve, !points.isEmpty else { return "" }
    let dense = profile.densePerplexity
    let series = ["routed", "oracle"].enumerated().map { colour, policy in
      let rows = points.filter { $0.policy == policy }.sorted { $0.density < $1.density }
      return LineChart.Series(
        policy, rows.map { ($0.density, $0.perplexity / dense - 1) }, colour: colour)
    }
    let chart = LineChart(
      x: .fraction("neurons computed, %"), y: increaseAxis(points.map { $0.perplexity / dense - 1 }),
      series: series)
    return """
      <p>The same by the mean fraction of neurons computed, heads dense: <em>routed</em> by thresholds that find from 70 to
      99.5 % of the union, <em>oracle</em> those of largest summed activation.</p>
      \(chart.svg().fragment)
      """
  }
}
