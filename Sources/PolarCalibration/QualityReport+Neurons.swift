import PolarSparsity

extension QualityReport {
  // MARK: Unions

  var unionSection: String {
    guard let unions = statistics?.unions, !unions.isEmpty else { return "" }
    let layers = profile.model.layers
    let byLayer = LineChart(
      x: .layers(layers), y: .fraction("neurons of the layer, %"),
      series: unions.enumerated().map { colour, union in
        .init(
          union.batch == 1 ? "1 sequence" : "\(union.batch) sequences",
          union.activity.enumerated().map { (Double($0), $1) }, colour: colour)
      })
    let rows = unions.map { union in
      [String(union.batch)] + union.activity.map { Self.fixed($0 * 100, 1) }
    }
    return """
      <h2>Active neurons: the union of a batch</h2>
      <p>Mean fraction of a layer's neurons that at least one token of a random batch activates, all calibration tokens (the
      paper's figures 2a and 8). It grows with the batch, which is why MLP sparsity fades there.</p>
      \(byLayer.svg().fragment)
      <details><summary>As a table, %</summary>
      \(table(["batch"] + (0..<layers).map { "layer \($0)" }, rows))</details>
      """
  }

  // MARK: Routers of neurons

  var neuronRouterSection: String {
    guard let neurons = profile.neurons else { return "" }
    let layers = neurons.layers.enumerated().compactMap { layer, value in value.map { (layer, $0) } }
    let quality = LineChart(
      x: .layers(profile.model.layers), y: .fraction("%"),
      series: [
        .init("recall at score 0", layers.map { (Double($0), $1.recall) }, colour: 0),
        .init("precision at score 0", layers.map { (Double($0), $1.precision) }, colour: 2),
      ])
    let target = Self.fixed((statistics?.targetRecall ?? 0.99) * 100, 0)
    let rank = layers.first?.1.router.rank ?? 0
    let comparison = neurons.comparison.map { row in
      [
        String(row.batch), Self.fixed(row.density * 100, 1), Self.fixed(row.union * 100, 2),
        Self.fixed(row.aggregate * 100, 2),
      ]
    }
    return """
      <h2>Routers of neurons, on held-out tokens</h2>
      <p>A linear map of rank \(rank) from the block's input to one score per neuron. Recall: of the active neurons, the
      fraction scored above 0; precision: of those scored above 0, the fraction that is active.</p>
      \(quality.svg(height: 240).fragment)
      <p>Neurons that are computed so that \(target) % of a batch's true union are among them (mean over random batches).
      Solid: needed by the router; dashed: the true union.</p>
      \(needChart)
      <p>Recall of the union by the two rules at equal size, mean over layers: a threshold on any sequence's score
      (<em>union</em>), and the published sum of positive scores with top-k (<em>aggregate</em>). This profile serves with
      <em>\(neurons.rule.rawValue)</em>.</p>
      \(table(["batch", "neurons, %", "union, recall %", "aggregate, recall %"], comparison))
      <p>Neurons per layer and batch size; \u{2013} marks layers that run dense because that is faster there.</p>
      \(budgetTable(neurons))
      """
  }

  private var needChart: String {
    guard let statistics, let neurons = profile.neurons, !statistics.needs.isEmpty else { return "" }
    let total = Double(neurons.neurons)
    let layers = Set(statistics.needs.map(\.layer)).sorted()
    // A few layers tell the story; all are in the table.
    let step = max(1, (layers.count + 5) / 6)
    let shown = stride(from: 0, to: layers.count, by: step).map { layers[$0] }
    let batches = Set(statistics.needs.map(\.batch)).sorted()
    var series: [LineChart.Series] = []
    for (colour, layer) in shown.enumerated() {
      let needs = statistics.needs.filter { $0.layer == layer }
      series.append(
        .init(
          "layer \(layer), needed", needs.map { (Double($0.batch), $0.threshold / total) }, colour: colour))
      series.append(
        .init(
          "layer \(layer), true", needs.map { (Double($0.batch), $0.union / total) }, colour: colour,
          isDashed: true))
    }
    return LineChart(x: .batches(batches), y: .fraction("neurons of the layer, %"), series: series)
      .svg().fragment
  }

  private func budgetTable(_ neurons: NeuronSparsity) -> String {
    let batches = neurons.comparison.map(\.batch)
    let rows = neurons.layers.indices.map { layer in
      ["\(layer)"]
        + batches.map { batch in
          neurons.budget(layer: layer, rows: batch).map(String.init) ?? "\u{2013}"
        }
    }
    return table(["layer"] + batches.map { "batch \($0)" }, rows)
  }

  // MARK: Time

  var costSection: String {
    guard let all = statistics?.costs, !all.isEmpty else { return "" }
    let batches = Set(all.map(\.batch)).sorted()
    let shown = Set([batches[0], batches[batches.count / 2], batches[batches.count - 1]])
    let costs = all.filter { shown.contains($0.batch) }
    let charts = ["MLP", "attention"].compactMap { part -> String? in
      let rows = costs.filter { $0.part == part }
      guard !rows.isEmpty else { return nil }
      return BarChart(
        title: "\(part), one layer",
        groups: rows.map { cost in
          (
            "batch \(cost.batch)",
            [.init("dense", [("dense", 100, 5, false)])]
              + cost.sparse.map { point in
                .init(
                  "\(Self.fixed(point.density * 100, 0)) %",
                  [
                    ("router, selection", cost.router / cost.dense * 100, 2, false),
                    ("sparse", point.seconds / cost.dense * 100, 0, false),
                  ])
              }
          )
        },
        y: .upTo(
          rows.flatMap { cost in cost.sparse.map { ($0.seconds + cost.router) / cost.dense * 100 } + [100] }
            .max() ?? 100, "time, % of dense")
      ).svg(height: 280).fragment
    }
    let rows = costs.map { cost in
      [cost.part, String(cost.batch), Self.fixed(cost.dense * 1e6, 0), Self.fixed(cost.router * 1e6, 0)]
        + cost.sparse.map { Self.fixed($0.seconds * 1e6, 0) }
    }
    let densities = costs[0].sparse.map { Self.fixed($0.density * 100, 0) + " %, µs" }
    return """
      <h2>Router time against saved time</h2>
      <p>Time of one layer's part on the machine that calibrated, at fractions computed of 20, 50 and 80 % (the paper's
      figure 10): a router pays where its bar and the sparse part stay below dense.</p>
      \(charts.joined(separator: "\n"))
      \(table(["part", "batch", "dense, µs", "router, µs"] + densities, rows))
      """
  }
}
