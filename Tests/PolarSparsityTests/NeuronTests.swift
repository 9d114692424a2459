import PolarCore
import PolarReference
import PolarSparsity
import Testing

@Suite struct NeuronPolicyTests {
  /// Routers of random weights for two layers of 64 neurons; layer 0 has none.
  private func sparsity(_ rule: NeuronSparsity.Rule) -> NeuronSparsity {
    var generator = SplitMix64(seed: 5)
    var router = NeuronRouterWeights(inputs: 16, rank: 4, neurons: 64)
    for index in router.down.indices { router.down[index] = generator.unitFloat() * 2 - 1 }
    for index in router.up.indices { router.up[index] = generator.unitFloat() * 2 - 1 }
    var sparsity = NeuronSparsity(neurons: 64, layers: 2, rule: rule)
    sparsity.layers[1] = .init(
      router: router, thresholds: [0.5, 0.5],
      budgets: [.init(batch: 1, neurons: 20), .init(batch: 8, neurons: 30)],
      recall: 1, precision: 1)
    return sparsity
  }

  /// The list that a policy keeps for a layer, in exactly the workspace that it promised.
  private func list(_ scene: AttentionScene, _ policy: any SparsityPolicy, layer: Int = 1) throws -> [Int32]?
  {
    var workspace = Workspace(
      try scene.backend.allocate(byteCount: policy.workspaceByteCount(rows: scene.rows)))
    let selection = policy.select(scene.context(layer: layer), workspace: &workspace, on: scene.backend)
    guard let neurons = selection.neurons else { return nil }
    let count = scene.read(neurons.count, as: Int32.self)[0][0]
    return Array(scene.read(neurons.indices, as: Int32.self)[0].prefix(Int(count)))
  }

  @Test(arguments: NeuronSparsity.Rule.allCases)
  func routedFollowsItsWeights(rule: NeuronSparsity.Rule) throws {
    let scene = try AttentionScene()
    let sparsity = sparsity(rule)
    let router = try #require(sparsity.layers[1]).router
    let scores = scene.read(scene.context().input, as: Float.self).map { row in
      row.withUnsafeBufferPointer { router.scores(of: $0) }
    }
    let policy = try RoutedNeuronPolicy(sparsity, on: scene.backend)
    let got = try #require(try list(scene, policy))
    switch rule {
    case .union:
      #expect(got == (0..<64).filter { n in scores.contains { $0[n] > 0.5 } }.map(Int32.init))
    case .aggregate:
      let sums = (0..<64).map { n in scores.reduce(Float(0)) { $0 + max(0, $1[n]) } }
      let k = try #require(sparsity.budget(layer: 1, rows: scene.rows))
      let best = (0..<64).filter { sums[$0] > 0 }.sorted { sums[$0] > sums[$1] }.prefix(k)
      #expect(got == best.sorted().map(Int32.init))
    }
    #expect(try list(scene, policy, layer: 0) == nil)
  }

  @Test func budgetsAreInterpolatedAndEndAtTheBreakEven() {
    var sparsity = NeuronSparsity(neurons: 1000, layers: 2)
    sparsity.layers[0] = .init(
      router: NeuronRouterWeights(inputs: 2, rank: 2, neurons: 1000), thresholds: [0, 1, 3],
      budgets: [.init(batch: 1, neurons: 64), .init(batch: 4, neurons: 192), .init(batch: 16, neurons: 640)],
      recall: 1, precision: 1)
    #expect(sparsity.budget(layer: 0, rows: 1) == 64)
    // Half way between 1 and 4 in the logarithm.
    #expect(sparsity.budget(layer: 0, rows: 2) == 128)
    #expect(sparsity.budget(layer: 0, rows: 3) == 192)
    #expect(sparsity.budget(layer: 0, rows: 8) == 416)
    #expect(sparsity.threshold(layer: 0, rows: 8) == 2)
    #expect(sparsity.budget(layer: 0, rows: 17) == nil)
    #expect(sparsity.budget(layer: 1, rows: 1) == nil)
    sparsity.breakEven = [.init(batch: 1, neurons: 64), .init(batch: 4, neurons: 300)]
    #expect(sparsity.budget(layer: 0, rows: 1) == 64)
    #expect(sparsity.budget(layer: 0, rows: 2) == nil)
    #expect(sparsity.budget(layer: 0, rows: 4) == 192)
    #expect(sparsity.budget(layer: 0, rows: 16) == nil)
  }

  @Test func randomTakesTheWantedNumber() throws {
    let scene = try AttentionScene()
    let policy = try RandomNeuronPolicy(neurons: 64, density: 0.25, seed: 1)
    let (a, b) = (try #require(try list(scene, policy)), try #require(try list(scene, policy)))
    #expect(a.count == 16)
    #expect(a == a.sorted())
    #expect(a != b)
  }

  @Test func combinedTakesHeadsFromOneAndNeuronsFromTheOther() throws {
    let scene = try AttentionScene()
    let units = SelectionUnits(heads: 6, headsPerUnit: 1)
    let heads = try StaticPolicy(
      masks: [nil, [true, false, false, false, false, false]], hidden: 16, units: units, fallback: .zero,
      on: scene.backend)
    let neurons = try RandomNeuronPolicy(neurons: 64, density: 0.5, seed: 1)
    let statistics = SelectionStatistics(layers: 2, heads: 6, neurons: 64)
    let policy = CountingPolicy(CombinedPolicy(heads: heads, neurons: neurons), statistics: statistics)
    #expect(try list(scene, policy)?.count == 32)
    #expect(try scene.mask(policy) == Array(repeating: [1, 0, 0, 0, 0, 0], count: 5))
    #expect(statistics.density(layers: [1]) == 1.0 / 6)
    #expect(statistics.neuronDensity() == 0.5)
  }
}
