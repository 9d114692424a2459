import Foundation
import PolarCore
import PolarFormats
import PolarModels
import PolarSparsity

@testable import PolarEngine

/// Engines over the tiny checkpoints with real layers.
protocol TinyCheckpoints {}

extension TinyCheckpoints {
  static var fixtures: URL {
    URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../Fixtures/models").standardizedFileURL
  }

  func model(_ name: String, on backend: any Backend) throws -> any CausalLM {
    let file = try ModelFile.open(Self.fixtures.appendingPathComponent(name))
    return try ModelRegistry.make(config: file.config, reader: try WeightReader(file), backend: backend)
  }

  func engine(
    _ name: String, on backend: any Backend, pages: Int, sequences: Int, rows: Int,
    policy: any SparsityPolicy = DensePolicy()
  ) throws -> Engine {
    let model = try model(name, on: backend)
    let runner = try ModelRunner(
      model: model, backend: backend, cachePages: pages, maximumRows: rows, maximumSequences: sequences,
      maximumContext: model.config.context,
      policyBytes: policy.workspaceByteCount(rows: sequences))
    return try Engine(runner: runner, policy: policy)
  }

  func prompts(_ model: any CausalLM, count: Int, longest: Int) -> [[Int32]] {
    var random = TestRandom(5)
    return (0..<count).map { index in
      (0..<Int.random(in: 1...longest, using: &random)).map { _ in
        Int32.random(in: 3..<Int32(model.config.vocabulary), using: &random)
      }
    }
  }

  func all(_ engine: Engine, _ prompts: [[Int32]], tokens: Int) async throws -> [[Int32]] {
    // In one visit to the actor, so that no step runs before all are queued.
    let streams = try await engine.submitAll(
      prompts.map { GenerationRequest(promptTokens: $0, parameters: .init(maxTokens: tokens)) })
    var result: [[Int32]] = []
    for stream in streams { result.append(try await collect(stream).tokens) }
    return result
  }
}

/// What a decode step leaves out.
enum StepPolicy: CaseIterable {
  case dense, heads, neuronUnion, neuronAggregate, both

  var choosesNeurons: Bool { self != .dense && self != .heads }

  func policy(_ config: ModelConfig, on backend: any Backend) throws -> any SparsityPolicy {
    switch self {
    case .dense: DensePolicy()
    case .heads: EveryOtherHead()
    case .neuronUnion: try Self.routed(.union, config, on: backend)
    case .neuronAggregate: try Self.routed(.aggregate, config, on: backend)
    case .both:
      CombinedPolicy(heads: EveryOtherHead(), neurons: try Self.routed(.union, config, on: backend))
    }
  }

  /// Routers of random weights in all layers but the first.
  private static func routed(
    _ rule: NeuronSparsity.Rule, _ config: ModelConfig, on backend: any Backend
  ) throws -> RoutedNeuronPolicy {
    var generator = SplitMix64(seed: 3)
    var sparsity = NeuronSparsity(neurons: config.intermediate, layers: config.layers, rule: rule)
    for layer in 1..<config.layers {
      var router = NeuronRouterWeights(inputs: config.hidden, rank: 8, neurons: config.intermediate)
      for index in router.down.indices { router.down[index] = generator.unitFloat() - 0.5 }
      for index in router.up.indices { router.up[index] = generator.unitFloat() - 0.5 }
      sparsity.layers[layer] = .init(
        router: router, thresholds: [1, 2],
        budgets: [.init(batch: 1, neurons: 32), .init(batch: 64, neurons: 96)], recall: 1, precision: 1)
    }
    return try RoutedNeuronPolicy(sparsity, on: backend)
  }
}
