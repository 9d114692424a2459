import PolarCore

extension ConformanceRun {
  /// Routers with their choice in one op.
  func checkRouters() {
    for (rows, inputs, units, headsPerUnit, hidden) in [
      (1, 2, 1, 1, 0), (3, 30, 5, 2, 0), (5, 64, 9, 1, 6), (9, 130, 72, 1, 66), (17, 160, 33, 3, 0),
      (2, 1090, 40, 1, 12), (70, 24, 130, 1, 0),
    ] {
      let shape = RouterShape(rows: rows, inputs: inputs, units: units, heads: headsPerUnit, hidden: hidden)
      checkHeadScores(shape)
      for choice in [.largest(0), .largest((units + 1) / 2), .above(0), .above(0.75)] as [ScoreChoice] {
        checkHeadChoice(shape, choice)
      }
    }
    for (rows, rank, neurons) in [
      (1, 2, 1), (3, 30, 70), (3, 8, 9000), (9, 130, 200), (20, 16, 129), (40, 24, 65), (131, 32, 100),
    ] {
      for k in Set([0, 1, neurons / 3, neurons]).sorted() {
        checkNeuronRouter(rows, rank, neurons, .largest(k))
      }
      for threshold: Float in [-1, 0, 2] { checkNeuronRouter(rows, rank, neurons, .above(threshold)) }
    }
  }

  private struct RouterShape {
    let rows: Int
    let inputs: Int
    let units: Int
    /// Heads of a unit.
    let heads: Int
    let hidden: Int
    var text: String {
      "\(rows) x \(inputs), \(units) units of \(heads)\(hidden > 0 ? ", \(hidden) hidden" : "")"
    }
  }

  /// A router of random matrices.
  private func router(
    _ shape: RouterShape, _ pool: TensorPool, _ generator: inout SplitMix64
  ) throws(PolarError) -> HeadRouterMatrices {
    let weight = try pool.weight(generator.coarseMatrix(shape.units, shape.inputs))
    let bias = try pool.tensor(generator.coarseMatrix(1, shape.units))
    guard shape.hidden > 0 else { return HeadRouterMatrices(weight: weight, bias: bias) }
    return HeadRouterMatrices(
      weight: weight, bias: bias,
      hidden: .init(
        weight: try pool.weight(generator.coarseMatrix(shape.hidden, shape.inputs)),
        bias: try pool.tensor(generator.coarseMatrix(1, shape.hidden)),
        output: try pool.weight(generator.coarseMatrix(shape.units, shape.hidden))))
  }

  /// Scores (and what the choice left in the mask, which rows have to themselves).
  private func route(
    _ shape: RouterShape, _ choice: ScoreChoice, _ pool: TensorPool, _ generator: inout SplitMix64,
    _ part: Range<Int>
  ) throws(PolarError) -> (scores: HostTensor<Float>, mask: HostTensor<Float>) {
    let router = try router(shape, pool, &generator)
    let x = try pool.tensor(
      generator.coarseMatrix(shape.rows, shape.inputs).rows(part), gap: shape.rows % 3)
    let scores = try pool.output(rows: part.count, columns: shape.units, gap: 1)
    let mask = try pool.output(rows: part.count, columns: shape.units * shape.heads, gap: 5, dtype: .u8)
    let scratch =
      shape.hidden > 0 ? try pool.output(rows: part.count, columns: router.scratchColumns) : nil
    pool.backend.routeHeads(
      mask, scores: scores, x, router: router, scratch: scratch, choice: choice, headsPerUnit: shape.heads)
    return (pool.read(scores), pool.readMask(mask))
  }

  private func checkHeadScores(_ shape: RouterShape) {
    // What the hidden layer computes is more than bf16 holds.
    let rounded = shape.hidden > 0 && roundsActivations
    compareRows(
      "routeHeads \(shape.text)", rows: shape.rows, rounded ? Tolerance.linearRounded : Tolerance.linear,
      floor: 1
    ) { (pool, generator, part) throws(PolarError) in
      try route(shape, .above(0), pool, &generator, part).scores
    }
  }

  /// The mask is what selection makes of the scores that the op itself gives.
  private func checkHeadChoice(_ shape: RouterShape, _ choice: ScoreChoice) {
    require("routeHeads \(shape.text), \(choice)") { (pool, generator) throws(PolarError) in
      let got = try route(shape, choice, pool, &generator, 0..<shape.rows)
      let plain = TensorPool(ReferenceBackend())
      let mask = try plain.output(rows: shape.rows, columns: shape.units * shape.heads, dtype: .u8)
      let scores = try plain.tensor(got.scores)
      switch choice {
      case .largest(let k):
        plain.backend.selectTopK(mask, scores: scores, k: k, headsPerUnit: shape.heads)
      case .above(let threshold):
        plain.backend.selectAbove(mask, scores: scores, threshold: threshold, headsPerUnit: shape.heads)
      }
      return plain.readMask(mask) == got.mask ? nil : "the mask is not what the scores say"
    }
  }

  /// Products of coarse numbers are exact in any order, so that the lists must be the same.
  private func checkNeuronRouter(_ rows: Int, _ rank: Int, _ neurons: Int, _ choice: ScoreChoice) {
    compare("routeNeurons \(rows) x \(rank), \(neurons) neurons, \(choice)", Tolerance.exact) {
      (pool, generator) throws(PolarError) in
      var capacity = neurons
      if case .largest(let k) = choice { capacity = max(1, k) }
      let list = try pool.emptyList(capacity: capacity)
      var input = generator.coarseMatrix(rows, rank)
      // A padding row.
      if rows > 2 { for column in 0..<rank { input[1, column] = .nan } }
      pool.backend.routeNeurons(
        list, try pool.tensor(input, gap: 2), weight: try pool.weight(generator.coarseMatrix(neurons, rank)),
        scores: try pool.output(rows: rows, columns: neurons), aggregate: try pool.output(columns: neurons),
        choice: choice)
      let got = pool.read(list).map(Float.init)
      return HostTensor(got + Array(repeating: -1, count: max(0, neurons - got.count)))
    }
  }
}

extension SplitMix64 {
  /// Multiples of 1/4 between -1 and 1.
  fileprivate mutating func coarseMatrix(_ rows: Int, _ columns: Int) -> HostTensor<Float> {
    HostTensor(
      (0..<rows * columns).map { _ in Float(Int.random(in: -4...4, using: &self)) / 4 }, rows: rows,
      columns: columns)
  }
}
