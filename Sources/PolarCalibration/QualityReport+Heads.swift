import PolarSparsity

extension QualityReport {
  // MARK: Routers of heads

  var headRouterSection: String {
    guard !profile.layerQuality.isEmpty else { return "" }
    let middle = profile.recallDensities.indices.min {
      abs(profile.recallDensities[$0] - 0.5) < abs(profile.recallDensities[$1] - 0.5)
    }
    var series = [
      LineChart.Series(
        "R2 of log deviation", profile.layerQuality.map { (Double($0.layer), max(0, $0.r2)) }, colour: 0)
    ]
    if let middle {
      let density = Self.fixed(profile.recallDensities[middle], 2)
      series += [
        LineChart.Series(
          "recall, deviation", profile.layerQuality.map { (Double($0.layer), $0.deviationRecall[middle]) },
          colour: 1),
        LineChart.Series(
          "recall, norm", profile.layerQuality.map { (Double($0.layer), $0.normRecall[middle]) }, colour: 2,
          isDashed: true),
      ]
      series[1].name += " at \(density)"
      series[2].name += " at \(density)"
    }
    return """
      <h2>Routers of heads, on held-out tokens</h2>
      <p>Explained variance of the log deviation (mean \(Self.fixed(meanR2, 3))), and the fraction of the truly largest
      heads that are chosen.</p>
      \(LineChart(
        x: .layers(profile.model.layers), y: .fraction("%"), series: series
      ).svg(height: 260, legend: 210).fragment)
      """
  }

  // MARK: Which heads

  var headSection: String {
    let unit = profile.units.headsPerUnit == 1 ? "head" : "KV group"
    let units = profile.units.count
    let deviations = (0..<profile.model.layers).map { layer in
      profile.meanDeviations[layer * units..<(layer + 1) * units].map(Double.init)
    }
    var parts = [
      """
      <h2>Which heads</h2>
      <p>Mean deviation of the block's output, relative to the residual stream, when a head attends locally only; shades
      grow with the square root.</p>
      \(HeatMap(rows: "layer", columns: unit, values: deviations, isRooted: true) { Self.fixed($0, 4) }.svg().fragment)
      """
    ]
    if let statistics, !statistics.selectedHeads.isEmpty {
      parts.append(
        """
        <p>Held-out tokens on which the router selects it at the default density of
        \(Self.fixed(profile.defaultDensity, 2)); layers with dense heads are all 100 %.</p>
        \(fractions(statistics.selectedHeads, unit))
        """)
    }
    if let statistics, !statistics.largestHeads.isEmpty {
      parts.append(
        """
        <p>Tokens on which it is among the larger half of its layer by output norm (the paper's label, its figure 9).</p>
        \(fractions(statistics.largestHeads, unit))
        """)
    }
    return parts.joined(separator: "\n")
  }

  private func fractions(_ values: [[Double]], _ unit: String) -> String {
    HeatMap(rows: "layer", columns: unit, values: values, largest: 1) { Self.fixed($0 * 100, 0) + " %" }
      .svg().fragment
  }

  var importanceSection: String {
    guard let importance = statistics?.attentionImportance, !importance.isEmpty else { return "" }
    let chart = BarChart(
      groups: importance.enumerated().map { layer, value in
        ("", [.init("\(layer)", [("1 - cos", value, 0, false)])])
      },
      y: .upTo(importance.max() ?? 1, "1 - cos(before, after)"))
    return """
      <h2>How much attention turns the residual stream</h2>
      <p>Mean over calibration tokens of one minus the cosine between the residual stream before and after each layer's
      attention (the paper's figure 3b): where it is large, heads are worth keeping. By layer.</p>
      \(chart.svg(height: 240).fragment)
      """
  }
}
