import PolarCPU
import PolarCore
import PolarFormats
import PolarModels
import PolarSparsity
import Testing

@testable import PolarEngine

/// What holds for neuron-sparse steps, whose neurons depend on the batch (`Docs/sparsity.md`).
@Suite struct NeuronStepTests: TinyCheckpoints {
  /// The same neurons in every layer, whatever the batch.
  private struct FixedNeurons: SparsityPolicy {
    let chosen: [Int32]

    var name: String { "fixed" }
    func workspaceByteCount(rows: Int) -> Int { chosen.count * 4 + 192 }
    func select(
      _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
    ) -> Selection {
      let list = ActiveNeurons(
        indices: workspace.keep(columns: chosen.count, dtype: .i32),
        count: workspace.keep(columns: 1, dtype: .i32))
      chosen.withUnsafeBytes { backend.upload($0, to: list.indices.address) }
      withUnsafeBytes(of: Int32(chosen.count)) { backend.upload($0, to: list.count.address) }
      return Selection(neurons: list)
    }
  }

  /// Few pages and few sequences, so that requests are preempted, resumed and batched anew.
  private func crowded(_ backend: CPUBackend, _ policy: any SparsityPolicy) throws -> Engine {
    try engine("opt", on: backend, pages: 9, sequences: 6, rows: 40, policy: policy)
  }

  /// The same requests in the same order give the same tokens whatever the number of threads, preemptions included.
  @Test(arguments: [StepPolicy.neuronUnion, .neuronAggregate, .both])
  func theSameRunGivesTheSameTokens(kind: StepPolicy) async throws {
    var runs: [[[Int32]]] = []
    for threads in [1, 2, 3] {
      let backend = try CPUBackend(threads: threads)
      let model = try model("opt", on: backend)
      let prompts = prompts(model, count: 16, longest: 30)
      let engine = try crowded(backend, try kind.policy(model.config, on: backend))
      runs.append(try await all(engine, prompts, tokens: 20))
      let statistics = await engine.statistics
      #expect(statistics.preemptions > 0 && statistics.replayedTokens > 0, "nothing was preempted")
      if threads == 1 {
        let dense = try await all(crowded(backend, DensePolicy()), prompts, tokens: 20)
        #expect(runs[0] != dense, "the policy leaves nothing out")
      }
    }
    #expect(runs[1] == runs[0] && runs[2] == runs[0])
  }

  /// Given the list, a row depends on its own sequence alone: batches, preemption and replay change no token.
  @Test(arguments: [1, 2]) func aGivenListIsIndependentOfTheBatch(every: Int) async throws {
    let backend = try CPUBackend()
    let model = try model("opt", on: backend)
    let prompts = prompts(model, count: 16, longest: 30)
    let policy = FixedNeurons(
      chosen: stride(from: 0, to: Int32(model.config.intermediate), by: every).map { $0 })
    let single = try engine("opt", on: backend, pages: 8, sequences: 1, rows: 64, policy: policy)
    var alone: [[Int32]] = []
    for prompt in prompts { alone += try await all(single, [prompt], tokens: 20) }
    let batched = try engine("opt", on: backend, pages: 64, sequences: 16, rows: 40, policy: policy)
    #expect(try await all(batched, prompts, tokens: 20) == alone)
    let crowded = try crowded(backend, policy)
    #expect(try await all(crowded, prompts, tokens: 20) == alone)
    let statistics = await crowded.statistics
    #expect(statistics.preemptions > 0 && statistics.replayedTokens > 0, "nothing was preempted")
    #expect(statistics.freePages == 9)
    // Every neuron on the list is the dense step; half of them is not.
    let dense = try engine("opt", on: backend, pages: 64, sequences: 16, rows: 40)
    #expect(try await (all(dense, prompts, tokens: 20) == alone) == (every == 1))
  }
}
