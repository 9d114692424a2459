import EmulatedCUDA
import PolarCUDA
import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarReference
import PolarSparsity
import Testing

/// Densities that the device counts in recorded steps.
@Suite struct DensityTests {
  /// Heads of each row and neurons of each step, as the host counts them at every layer, with padding rows left out.
  @Test(arguments: NeuronSparsity.Rule.allCases)
  func theDeviceCountsWhatTheHostCounts(rule: NeuronSparsity.Rule) throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let host = try TinyModel("opt", on: backend)
    let config = host.model.config
    var generator = SplitMix64(seed: 4)
    var router = RouterWeights(inputs: config.hidden, units: config.heads)
    for index in router.weight.indices { router.weight[index] = generator.unitFloat() - 0.5 }
    let heads = try RoutedPolicy(
      router: HeadRouter(
        [nil] + Array(repeating: router, count: config.layers - 1), heads: config.heads,
        headDim: config.headDim, on: backend),
      units: SelectionUnits(heads: config.heads, headsPerUnit: 1), rule: .adaptive(threshold: 0),
      fallback: .local(sinkPages: 1, recentPages: 1))
    var neuronRouter = NeuronRouterWeights(inputs: config.hidden, rank: 8, neurons: config.intermediate)
    for index in neuronRouter.down.indices { neuronRouter.down[index] = generator.unitFloat() - 0.5 }
    for index in neuronRouter.up.indices { neuronRouter.up[index] = generator.unitFloat() - 0.5 }
    var sparsity = NeuronSparsity(neurons: config.intermediate, layers: config.layers, rule: rule)
    sparsity.layers[1] = NeuronSparsity.Layer(
      router: neuronRouter, thresholds: [0.5],
      budgets: [.init(batch: 8, neurons: config.intermediate / 3)], recall: 1, precision: 1)
    let policy = CombinedPolicy(heads: heads, neurons: try RoutedNeuronPolicy(sparsity, on: backend))
    func statistics() -> SelectionStatistics {
      SelectionStatistics(layers: config.layers, heads: config.heads, neurons: config.intermediate)
    }
    let prompts = [host.prompt(1, 18), host.prompt(2, 3), host.prompt(3, 7)]

    let counted = statistics()
    let expected = host.generate(prompts, steps: 6, policy: CountingPolicy(policy, statistics: counted))
    let onDevice = statistics()
    let device = try TinyModel("opt", on: backend, statistics: onDevice)
    let counting = CountingPolicy(policy, statistics: onDevice)
    #expect(counting.isRecordable && counting.parts != nil)
    #expect(device.generate(prompts, steps: 6, policy: counting, replaying: true) == expected)
    #expect(device.runner.recordedBuckets == [4])
    #expect(onDevice.counts() == counted.counts())
    #expect(onDevice.densities() == counted.densities())
    #expect(onDevice.densities()[0] == 1 && onDevice.density(layers: [1]) < 1)
    #expect(onDevice.counts().possible == 6 * 3 * config.heads * config.layers)
    #expect(onDevice.neuronDensity() < 1)
    // The host knows of lists only: its layers without one count as whole in both.
    #expect(onDevice.neuronDensity() == counted.neuronDensity())

    // Tokens and counters come back together, and a reset starts anew.
    onDevice.reset()
    #expect(onDevice.counts().possible == 0)
    device.runner.begin()
    device.runner.append(3, at: 18, pages: device.pages(0))
    let greedy = [TokenDraw(temperature: 0, topP: 1, minP: 0, topK: 0, uniform: 0)]
    _ = greedy.withUnsafeBufferPointer {
      device.runner.runDrawing($0, policy: counting, replaying: true)
    }
    #expect(onDevice.counts().possible == config.heads * config.layers)
    #expect(backend.failure == nil)
  }
}
