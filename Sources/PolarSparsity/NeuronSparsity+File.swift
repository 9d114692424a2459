internal import PolarCore
internal import PolarFormats

/// What of ``NeuronSparsity`` a profile's JSON holds: all but the routers' weights.
struct NeuronHeader: Codable {
  struct Layer: Codable {
    var rank: Int
    var thresholds: [Float]
    var budgets: [NeuronSparsity.Budget]
    var recall: Double
    var precision: Double
  }

  var neurons: Int
  var rule: NeuronSparsity.Rule
  var layers: [Layer?]
  var breakEven: [NeuronSparsity.Budget]
  var comparison: [NeuronSparsity.Comparison]

  init(_ sparsity: NeuronSparsity) {
    neurons = sparsity.neurons
    rule = sparsity.rule
    breakEven = sparsity.breakEven
    comparison = sparsity.comparison
    layers = sparsity.layers.map { layer in
      layer.map {
        Layer(
          rank: $0.router.rank, thresholds: $0.thresholds, budgets: $0.budgets, recall: $0.recall,
          precision: $0.precision)
      }
    }
  }
}

extension NeuronSparsity {
  /// Puts the header and the routers that `read` finds (by name and shape) together.
  init(
    _ header: NeuronHeader, model: SparsityProfile.Model, path: String,
    read: (_ name: String, _ shape: [Int]) throws(PolarError) -> [Float]
  ) throws(PolarError) {
    self.init(neurons: header.neurons, layers: 0, rule: header.rule)
    guard (1...1 << 24).contains(neurons), header.layers.count == model.layers else {
      throw .profile(
        path: path,
        reason: "neuron routers of \(header.layers.count) layers of \(neurons) neurons")
    }
    breakEven = header.breakEven
    comparison = header.comparison
    for (index, header) in header.layers.enumerated() {
      guard let header else {
        layers.append(nil)
        continue
      }
      guard (2...1 << 16).contains(header.rank), header.rank % 2 == 0 else {
        throw .profile(path: path, reason: "neuron router of layer \(index) with rank \(header.rank)")
      }
      // Read before anything of their size is allocated: a tensor that is too large is not in the file.
      let down = try read("neurons.\(index).down", [header.rank, model.hidden])
      let up = try read("neurons.\(index).up", [neurons, header.rank])
      layers.append(
        Layer(
          router: NeuronRouterWeights(inputs: model.hidden, rank: header.rank, down: down, up: up),
          thresholds: header.thresholds, budgets: header.budgets, recall: header.recall,
          precision: header.precision))
    }
  }

  /// Adds the routers' weights, rounded to bf16.
  func addRouters(to writer: inout SafetensorsWriter) throws(PolarError) {
    for (index, layer) in layers.enumerated() {
      guard let router = layer?.router else { continue }
      try writer.add(
        "neurons.\(index).down", bf16: router.down, shape: [router.rank, router.inputs])
      try writer.add("neurons.\(index).up", bf16: router.up, shape: [router.neurons, router.rank])
    }
  }

  func checkContents(model: SparsityProfile.Model, _ path: String) throws(PolarError) {
    guard layers.count == model.layers, layers.contains(where: { $0 != nil }) else {
      throw .profile(path: path, reason: "neuron routers of \(layers.count) layers, or of none")
    }
    try Self.check(breakEven, "break-even", neurons, path)
    for (index, layer) in layers.enumerated() {
      guard let layer else { continue }
      let router = layer.router
      guard router.inputs == model.hidden, router.neurons == neurons, router.rank % 2 == 0 else {
        throw .profile(
          path: path,
          reason: "neuron router of layer \(index) is \(router.inputs) to \(router.rank) to \(router.neurons)"
        )
      }
      guard router.down.allSatisfy(\.isFinite), router.up.allSatisfy(\.isFinite),
        layer.thresholds.allSatisfy(\.isFinite),
        layer.recall.isFinite, layer.precision.isFinite
      else {
        throw .profile(path: path, reason: "neuron router of layer \(index): a number that is not finite")
      }
      try Self.check(layer.budgets, "budgets of layer \(index)", neurons, path)
      guard layer.thresholds.count == layer.budgets.count else {
        throw .profile(
          path: path,
          reason: "neuron router of layer \(index): \(layer.thresholds.count) thresholds for "
            + "\(layer.budgets.count) batch sizes")
      }
    }
  }

  private static func check(
    _ budgets: [Budget], _ what: String, _ neurons: Int, _ path: String
  ) throws(PolarError) {
    for budget in budgets where budget.batch < 1 || !(0...neurons).contains(budget.neurons) {
      throw .profile(
        path: path, reason: "\(what): \(budget.neurons) of \(neurons) neurons at batch \(budget.batch)")
    }
    for (a, b) in zip(budgets, budgets.dropFirst()) where a.batch >= b.batch {
      throw .profile(path: path, reason: "\(what): not by ascending batch")
    }
  }
}
