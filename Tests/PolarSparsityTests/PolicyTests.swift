import PolarCore
import PolarSparsity
import Testing

/// Per-row numbers of selected heads.
private func counts(_ mask: [[UInt8]]?) -> [Int] { (mask ?? []).map { $0.reduce(0) { $0 + Int($1) } } }

@Suite struct PolicyTests {
  private let single = SelectionUnits(heads: 6, headsPerUnit: 1)

  @Test func densitiesOutsideTheUnitIntervalAreRefused() throws {
    for density in [0, -0.5, 1.0001, Double.nan, .infinity] {
      #expect(throws: PolarError.self) { try Density.validated(density) }
      #expect(throws: PolarError.self) {
        try RandomPolicy(units: single, mode: .adaptive, density: density, fallback: .zero, seed: 1)
      }
    }
    #expect(Density.count(0.01, of: 9) == 1)
    #expect(Density.count(0.56, of: 9) == 5)
    #expect(Density.count(1, of: 9) == 9)
  }

  @Test func groupsAreUnitsOnlyWhenThereAreEnough() {
    #expect(SelectionUnits.natural(heads: 9, kvHeads: 3).count == 9)
    #expect(SelectionUnits.natural(heads: 8, kvHeads: 8) == SelectionUnits(heads: 8, headsPerUnit: 1))
    #expect(SelectionUnits.natural(heads: 32, kvHeads: 8) == SelectionUnits(heads: 32, headsPerUnit: 4))
  }

  @Test func oracleAtFullDensityIsDense() throws {
    let scene = try AttentionScene()
    let gram = try OutputGram(
      projections: [scene.projection, scene.projection], heads: 6, headDim: 8, on: scene.backend)
    for mode in HeadMode.allCases {
      let oracle = try OraclePolicy(
        gram: gram, units: single, headDim: 8, mode: mode, rule: .topK(density: 1),
        fallback: .local(sinkPages: 1, recentPages: 2))
      #expect(scene.output(oracle) == scene.output(DensePolicy()))
    }
  }

  @Test func oracleSelectsTheLargestDeviations() throws {
    let scene = try AttentionScene()
    let gram = try OutputGram(
      projections: [scene.projection, scene.projection], heads: 6, headDim: 8, on: scene.backend)
    let truth = try scene.deviations(sinkPages: 1, recentPages: 2)
    let fallback = LayerFallback.local(sinkPages: 1, recentPages: 2)
    let top = try #require(
      try scene.mask(
        OraclePolicy(
          gram: gram, units: single, headDim: 8, mode: .adaptive, rule: .topK(density: 0.5),
          fallback: fallback)))
    for (row, mask) in top.enumerated() {
      let kept = (0..<6).filter { mask[$0] == 1 }.map { truth[row][$0] }
      let left = (0..<6).filter { mask[$0] == 0 }.map { truth[row][$0] }
      #expect(kept.count == 3)
      #expect(try #require(kept.min()) > #require(left.max()))
    }
    let sorted = truth.flatMap { $0 }.sorted()
    let threshold = (sorted[14] + sorted[15]) / 2
    let above = try #require(
      try scene.mask(
        OraclePolicy(
          gram: gram, units: single, headDim: 8, mode: .adaptive, rule: .adaptive(threshold: threshold),
          fallback: fallback)))
    #expect(counts(above).reduce(0, +) == 15)
    #expect(Set(counts(above)).count > 1, "ragged counts were expected")
    #expect(above == truth.map { $0.map { $0 > threshold ? 1 : 0 } })
  }

  @Test func oracleGroupsScoreAsTheRootOfSummedSquares() throws {
    let scene = try AttentionScene()
    let units = SelectionUnits(heads: 6, headsPerUnit: 2)
    let gram = try OutputGram(
      projections: [scene.projection, scene.projection], heads: 6, headDim: 8, on: scene.backend)
    let truth = try scene.deviations(sinkPages: 1, recentPages: 2).map { row -> [Float] in
      let squares = row.map { $0 * $0 }
      return [squares[0] + squares[1], squares[2] + squares[3], squares[4] + squares[5]]
    }
    let mask = try #require(
      try scene.mask(
        OraclePolicy(
          gram: gram, units: units, headDim: 8, mode: .adaptive, rule: .topK(density: 0.34),
          fallback: .local(sinkPages: 1, recentPages: 2))))
    for (row, mask) in mask.enumerated() {
      let best = try #require(truth[row].indices.max { truth[row][$0] < truth[row][$1] })
      let expected: [UInt8] = (0..<6).map { $0 / 2 == best ? 1 : 0 }
      #expect(mask == expected)
    }
  }

  @Test func routedFollowsItsWeights() throws {
    let scene = try AttentionScene()
    var generator = SplitMix64(seed: 2)
    var weights = RouterWeights(inputs: 16, units: 6, hiddenUnits: 8)
    func fill(_ count: Int) -> [Float] { (0..<count).map { _ in generator.unitFloat() * 2 - 1 } }
    weights.weight = fill(6 * 16)
    weights.bias = fill(6)
    weights.hiddenWeight = fill(8 * 16)
    weights.hiddenBias = fill(8)
    weights.outputWeight = fill(6 * 8)
    let router = try HeadRouter([nil, weights], heads: 6, headDim: 8, on: scene.backend)
    let inputs = scene.read(scene.context().input, as: Float.self)
    let scores = inputs.map { row in row.withUnsafeBufferPointer { weights.scores(of: $0) } }
    let policy = try RoutedPolicy(
      router: router, units: single, rule: .adaptive(threshold: 0.2), fallback: .zero)
    #expect(try scene.mask(policy) == scores.map { $0.map { $0 > 0.2 ? 1 : 0 } })
    #expect(try scene.mask(policy, layer: 0) == nil)
    let top = try RoutedPolicy(
      router: router, units: single, rule: .topK(density: 0.5), fallback: .zero)
    #expect(counts(try scene.mask(top)) == Array(repeating: 3, count: 5))
  }

  @Test func staticKeepsTheGivenHeads() throws {
    let scene = try AttentionScene()
    let kept = [true, false, false, true, true, false]
    let policy = try StaticPolicy(
      masks: [nil, kept], hidden: 16, units: single, fallback: .zero, on: scene.backend)
    #expect(try scene.mask(policy) == Array(repeating: kept.map { $0 ? 1 : 0 }, count: 5))
    #expect(try scene.mask(policy, layer: 0) == nil)
    let output = scene.output(policy)
    let dense = scene.output(DensePolicy())
    for (row, values) in output.enumerated() {
      #expect(Array(values[8..<24]) == Array(repeating: 0, count: 16))
      #expect(values[0..<8] == dense[row][0..<8])
    }
  }

  @Test func randomKeepsAboutTheWantedDensity() throws {
    let scene = try AttentionScene(rows: 8)
    let statistics = SelectionStatistics(layers: 2, heads: 6, maximumRows: 8)
    let policy = CountingPolicy(
      try RandomPolicy(units: single, mode: .adaptive, density: 0.4, fallback: .zero, seed: 3),
      statistics: statistics)
    for _ in 0..<100 { _ = scene.output(policy) }
    #expect(abs(statistics.density(layers: [1]) - 0.4) < 0.03)
    #expect(statistics.counts().possible == 4800)
    statistics.reset()
    #expect(statistics.density() == 1)
    let exact = try RandomPolicy(units: single, mode: .paper, density: 0.4, fallback: .zero, seed: 3)
    let (a, b) = (try scene.mask(exact), try scene.mask(exact))
    #expect(counts(a) == Array(repeating: 2, count: 8))
    #expect(a != b)
    let again = try RandomPolicy(units: single, mode: .paper, density: 0.4, fallback: .zero, seed: 3)
    #expect(try scene.mask(again) == a)
  }

  @Test func countingSeesDenseLayersAsFull() throws {
    let scene = try AttentionScene()
    let statistics = SelectionStatistics(layers: 2, heads: 6, maximumRows: 2)
    let policy = CountingPolicy(
      try StaticPolicy(
        masks: [nil, [true, false, false, false, false, false]], hidden: 16, units: single,
        fallback: .zero, on: scene.backend), statistics: statistics)
    _ = try scene.mask(policy, layer: 0)
    _ = try scene.mask(policy, layer: 1)
    #expect(statistics.densities() == [1, 1.0 / 6])
    #expect(statistics.density(layers: [1]) == 1.0 / 6)
    #expect(statistics.counts().selected == 35)
  }
}
