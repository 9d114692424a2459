import EmulatedCUDA
import Foundation
import PolarCUDA
import PolarCore
@testable import PolarEngine
import PolarFormats
import PolarModels
import PolarReference
import PolarSparsity
import PolarTestSupport
import Testing

/// A fixture model on a backend, with a runner and pages of its own.
struct TinyModel {
  let runner: ModelRunner
  let model: any CausalLM
  let backend: any Backend

  static let sequences = 8
  static let pagesPerSequence = 4

  init(
    _ name: String, on backend: any Backend, sequences: Int = Self.sequences,
    statistics: SelectionStatistics? = nil
  ) throws {
    let file = try ModelFile.open(Places.fixtures.appendingPathComponent("models/\(name)"))
    model = try ModelRegistry.make(config: file.config, reader: WeightReader(file), backend: backend)
    self.backend = backend
    runner = try ModelRunner(
      model: model, backend: backend, cachePages: sequences * Self.pagesPerSequence, maximumRows: 32,
      maximumSequences: sequences, maximumContext: Self.pagesPerSequence * KVPage.tokens,
      policyBytes: 1 << 20, statistics: statistics)
  }

  /// The pages of a sequence, neither ascending nor consecutive.
  func pages(_ sequence: Int) -> [Int32] {
    (0..<Self.pagesPerSequence).map {
      Int32((Self.pagesPerSequence - 1 - $0) * runner.maximumSequences + sequence)
    }
  }

  func prompt(_ seed: UInt64, _ length: Int) -> [Int32] {
    var generator = SplitMix64(seed: seed)
    return (0..<length).map { _ in Int32.random(in: 0..<Int32(model.config.vocabulary), using: &generator) }
  }

  /// Greedy continuation of prompts, all decoded in one batch.
  func generate(
    _ prompts: [[Int32]], steps: Int, policy: any SparsityPolicy = DensePolicy(), replaying: Bool = false
  ) -> [[Int32]] {
    var output = prompts.map { _ in [Int32]() }
    runner.prefill(prompts.indices.map { (prompts[$0], pages($0)) }) { index, logits in
      output[index].append(Sampler.argmax(logits) ?? -1)
    }
    for step in 0..<steps {
      runner.begin()
      for index in prompts.indices {
        runner.append(output[index][step], at: prompts[index].count + step, pages: pages(index))
      }
      let logits = runner.run(.decode, policy: policy, replaying: replaying)
      let width = model.config.vocabulary
      for index in prompts.indices {
        let row = UnsafeBufferPointer(rebasing: logits[index * width..<(index + 1) * width])
        output[index].append(Sampler.argmax(row) ?? -1)
      }
    }
    return output
  }
}

@Suite struct CUDAEndToEndTests {
  static let models = ["llama-mha", "llama-rope3", "llama-bias", "opt"]

  /// Greedy tokens of a prefill and ten decode steps, replayed as well as issued op by op. (That they are the right ones,
  /// the goldens of PolarModelsTests check.)
  @Test(arguments: models)
  func replaysGiveTheTokensOfIssuedSteps(name: String) throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let cuda = try TinyModel(name, on: backend)
    let prompts = [cuda.prompt(1, 5), cuda.prompt(2, 19), cuda.prompt(3, 1)]
    let issued = cuda.generate(prompts, steps: 10)
    let replayed = cuda.generate(prompts, steps: 10, replaying: true)
    #expect(backend.failure == nil)
    #expect(replayed == issued)
    #expect(issued.allSatisfy { !$0.contains(-1) })
    #expect(cuda.runner.recordedBuckets == [4])
  }

  /// With every head and neuron selected the logits are those of the dense step, bit for bit.
  @Test(arguments: models)
  func everythingSelectedIsDense(name: String) throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let tiny = try TinyModel(name, on: backend)
    let config = tiny.model.config
    let units = SelectionUnits(heads: config.heads, headsPerUnit: 1)
    for fallback in [LayerFallback.zero, .local(sinkPages: 1, recentPages: 1)] {
      let all = try StaticPolicy(
        masks: (0..<config.layers).map { _ in Array(repeating: true, count: config.heads) },
        hidden: config.hidden, units: units, fallback: fallback, on: backend)
      let prompts = [tiny.prompt(4, 17), tiny.prompt(5, 3)]
      var rows: [[Float]] = []
      for policy in [DensePolicy(), all] as [any SparsityPolicy] {
        tiny.runner.prefill(prompts.indices.map { (prompts[$0], tiny.pages($0)) }) { _, _ in }
        rows.append(
          Array(
            tiny.runner.decode(
              tokens: [7, 9], positions: [17, 3], pages: [tiny.pages(0), tiny.pages(1)], policy: policy)))
      }
      #expect(rows[0] == rows[1])
      #expect(!rows[0].contains { !$0.isFinite })
    }
    #expect(backend.failure == nil)
  }

  /// A sequence alone gives the logits it gives in a batch, bit for bit, padding rows or not.
  @Test(arguments: models)
  func rowsDoNotDependOnTheBatch(name: String) throws {
    let backend = try CUDABackend(device: EmulatedDevice(multiprocessors: 5))
    let tiny = try TinyModel(name, on: backend)
    let prompts = (0..<5).map { tiny.prompt(UInt64($0 + 10), 3 + 7 * $0) }
    tiny.runner.prefill(prompts.indices.map { (prompts[$0], tiny.pages($0)) }) { _, _ in }
    let width = tiny.model.config.vocabulary
    func decode(_ indices: [Int], replaying: Bool) -> [[Float]] {
      tiny.runner.begin()
      for index in indices { tiny.runner.append(3, at: prompts[index].count, pages: tiny.pages(index)) }
      let logits = tiny.runner.run(.decode, replaying: replaying)
      return indices.indices.map { Array(logits[$0 * width..<($0 + 1) * width]) }
    }
    let together = decode([0, 1, 2, 3, 4], replaying: false)
    #expect(decode([0, 1, 2, 3, 4], replaying: true) == together)
    #expect(decode([4, 2, 0], replaying: true) == [together[4], together[2], together[0]])
    for index in prompts.indices { #expect(decode([index], replaying: false) == [together[index]]) }
    #expect(!together.joined().contains { !$0.isFinite })
    #expect(backend.failure == nil)
  }
}

/// Recorded steps against steps issued op by op, with requests that come and go.
@Suite struct ReplayTests {
  /// Hundreds of steps of a changing batch: every token of a replay equals that of the same step issued op by op.
  @Test(arguments: [1, 2] as [UInt64])
  func replayEqualsIssuedTokenForToken(seed: UInt64) throws {
    let device = EmulatedDevice(seed: seed)
    let replaying = try TinyModel("opt", on: CUDABackend(device: device))
    let issuing = try TinyModel("opt", on: CUDABackend(device: EmulatedDevice(seed: seed + 100)))
    var generator = SplitMix64(seed: seed)
    struct Request {
      let slot: Int
      var tokens: [Int32]
      var remaining: Int
    }
    var running: [Request] = []
    var free = Array(0..<TinyModel.sequences)
    var compared = 0
    let context = TinyModel.pagesPerSequence * KVPage.tokens
    for step in 0..<150 {
      // Requests join at random, in random slots.
      if running.isEmpty || (!free.isEmpty && Int.random(in: 0..<3, using: &generator) == 0) {
        let slot = free.remove(at: Int.random(in: 0..<free.count, using: &generator))
        let prompt = replaying.prompt(UInt64(step) + seed * 1000, Int.random(in: 1...20, using: &generator))
        for tiny in [replaying, issuing] { tiny.runner.prefill([(prompt, tiny.pages(slot))]) { _, _ in } }
        running.append(
          Request(slot: slot, tokens: prompt, remaining: Int.random(in: 1...25, using: &generator)))
      }
      running.shuffle(using: &generator)
      let chosen = [(replaying, true), (issuing, false)].map { tiny, replays in
        tiny.runner.begin()
        for request in running {
          let last = request.tokens.count - 1
          tiny.runner.append(request.tokens[last], at: last, pages: tiny.pages(request.slot))
        }
        let greedy = TokenDraw(temperature: 0, topP: 1, minP: 0, topK: 0, uniform: 0)
        let draws = running.map { request in
          // Every other request is sampled.
          request.slot % 2 == 0
            ? greedy
            : TokenDraw(
              temperature: 0.9, topP: 0.9, minP: 0.01, topK: 20,
              uniform: Double(step * 37 % 100) / 100)
        }
        return draws.withUnsafeBufferPointer { Array(tiny.runner.runDrawing($0, replaying: replays)) }
      }
      #expect(chosen[0] == chosen[1], "step \(step)")
      compared += running.count
      for index in running.indices {
        running[index].tokens.append(max(0, chosen[1][index]))
        running[index].remaining -= 1
      }
      for request in running where request.remaining == 0 || request.tokens.count >= context {
        free.append(request.slot)
      }
      running.removeAll { $0.remaining == 0 || $0.tokens.count >= context }
    }
    #expect(replaying.backend.failure == nil)
    #expect(device.recordings.made == replaying.runner.recordedBuckets.count)
    #expect(device.recordings.replayed > 100)
    #expect(compared > 300)
  }

  /// After the warm-up no request is the first with its shape of a product or its size of a batch, and none sees a trace of it.
  @Test func nothingIsLeftToTheFirstRequests() throws {
    let device = EmulatedDevice()
    let statistics = SelectionStatistics(layers: 2, heads: 4)
    let warm = try TinyModel("llama-rope3", on: CUDABackend(device: device), statistics: statistics)
    let cold = try TinyModel("llama-rope3", on: CUDABackend(device: EmulatedDevice()))
    warm.runner.warmUp()
    #expect(warm.runner.recordedBuckets == [1, 2, 4, 8])
    #expect(statistics.counts().possible == 0)
    let (products, recordings) = (device.products, device.recordings.made)
    #expect(!products.isEmpty)
    for (first, batch) in [(1, 1), (2, 3), (5, 5), (9, 8), (17, 2), (31, 7)] {
      let prompts = (0..<batch).map { warm.prompt(UInt64(first + $0), min(first + $0, 32)) }
      let expected = cold.generate(prompts, steps: 3)
      #expect(warm.generate(prompts, steps: 3, replaying: true) == expected)
    }
    #expect(device.products == products)
    #expect(device.recordings.made == recordings)
    #expect(warm.backend.failure == nil)
  }

  /// Work that needs the host in the middle is noticed.
  @Test func copiesAreRefusedWhileRecording() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let memory = try backend.allocate(byteCount: 64)
    let work = backend.record {
      var value: Float = 0
      withUnsafeMutableBytes(of: &value) { backend.download(memory.base, into: $0) }
    }
    #expect(work == nil)
    #expect(backend.failure != nil)
  }

  /// Both sides of an overlap are done after it, whichever ran first.
  @Test func overlapJoins() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let pool = TensorPool(backend)
    let x = try pool.tensor(HostTensor<Float>([-1, 2, -3, 4]))
    let y = try pool.tensor(HostTensor<Float>([-5, 6, -7, 8]))
    backend.overlap(side: { backend.relu(x) }, main: { backend.relu(y) })
    backend.add(x, y)
    #expect(pool.read(x).values == [0, 8, 0, 12])
    #expect(backend.failure == nil)
  }

  @Test func bucketsGrowInSmallSteps() {
    for (rows, bucket) in [(1, 1), (2, 2), (3, 4), (5, 8), (9, 10), (11, 12), (17, 20), (33, 40), (57, 64)] {
      #expect(StepGraphs.bucket(rows: rows, most: 64) == bucket)
    }
    #expect(StepGraphs.bucket(rows: 61, most: 64) == 64)
    #expect(StepGraphs.bucket(rows: 61, most: 62) == 62)
    for most in [1, 5, 8, 62, 64, 300] {
      let sizes = RowBucket.sizes(upTo: most)
      #expect(Set(sizes) == Set((1...most).map { StepGraphs.bucket(rows: $0, most: most) }))
      #expect(sizes == sizes.sorted() && sizes.last == most)
    }
  }
}

/// Neurons are chosen on a second stream while attention runs.
@Suite struct OverlapTests {
  /// On the emulated GPU, whose side runs last, as on a backend that runs it first, and replayed as well as issued.
  @Test(arguments: NeuronSparsity.Rule.allCases)
  func neuronsAreChosenBesideAttention(rule: NeuronSparsity.Rule) throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let tiny = try TinyModel("opt", on: backend)
    let config = tiny.model.config
    var generator = SplitMix64(seed: 9)
    var router = NeuronRouterWeights(inputs: config.hidden, rank: 16, neurons: config.intermediate)
    for index in router.down.indices { router.down[index] = generator.unitFloat() - 0.5 }
    for index in router.up.indices { router.up[index] = generator.unitFloat() - 0.5 }
    var sparsity = NeuronSparsity(neurons: config.intermediate, layers: config.layers, rule: rule)
    for layer in 0..<config.layers {
      sparsity.layers[layer] = NeuronSparsity.Layer(
        router: router, thresholds: [0.25], budgets: [.init(batch: 8, neurons: config.intermediate / 2)],
        recall: 1, precision: 1)
    }
    let heads = try StaticPolicy(
      masks: (0..<config.layers).map { layer in (0..<config.heads).map { ($0 + layer) % 2 == 0 } },
      hidden: config.hidden, units: SelectionUnits(heads: config.heads, headsPerUnit: 1),
      fallback: .local(sinkPages: 1, recentPages: 1), on: backend)
    let neurons = try RoutedNeuronPolicy(sparsity, on: backend)
    let prompts = [tiny.prompt(1, 18), tiny.prompt(2, 3), tiny.prompt(3, 7)]
    // In one piece, the policy is asked for both at once, before attention.
    let together = tiny.generate(
      prompts, steps: 6, policy: Undivided(CombinedPolicy(heads: heads, neurons: neurons)))
    let policy = CombinedPolicy(heads: heads, neurons: neurons)
    #expect(tiny.generate(prompts, steps: 6, policy: policy) == together)
    #expect(backend.failure == nil)
    // Padding rows, of which there is one, add nothing to the union.
    #expect(tiny.generate(prompts, steps: 6, policy: policy, replaying: true) == together)
    #expect(tiny.runner.recordedBuckets == [4])
    #expect(backend.failure == nil)
  }

  /// A policy that hides its parts.
  private struct Undivided: SparsityPolicy {
    let base: CombinedPolicy
    var name: String { base.name }
    init(_ base: CombinedPolicy) { self.base = base }
    func workspaceByteCount(rows: Int) -> Int { base.workspaceByteCount(rows: rows) }
    func select(
      _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
    ) -> Selection { base.select(context, workspace: &workspace, on: backend) }
  }
}
