import CMallocCounter
import Foundation
import PolarCPU
import PolarCore
import PolarFormats
import PolarModels
import PolarReference
import PolarSparsity
import Testing

@testable import PolarEngine

/// The engine over tiny checkpoints with real layers.
@Suite struct RealModelTests: TinyCheckpoints {
  @Test(arguments: ["llama-gqa-tied", "opt"], [false, true])
  func aBatchEqualsItsPromptsAlone(name: String, sparse: Bool) async throws {
    let backend = try CPUBackend()
    let policy: any SparsityPolicy = sparse ? EveryOtherHead() : DensePolicy()
    let prompts = prompts(try model(name, on: backend), count: 16, longest: 30)
    let single = try engine(name, on: backend, pages: 8, sequences: 1, rows: 64, policy: policy)
    var alone: [[Int32]] = []
    for prompt in prompts { alone += try await all(single, [prompt], tokens: 20) }
    let batched = try engine(name, on: backend, pages: 64, sequences: 16, rows: 40, policy: policy)
    #expect(try await all(batched, prompts, tokens: 20) == alone)
    // Too few pages: some are preempted, and must still give the same tokens.
    let crowded = try engine(name, on: backend, pages: 9, sequences: 6, rows: 40, policy: policy)
    #expect(try await all(crowded, prompts, tokens: 20) == alone)
    let statistics = await crowded.statistics
    #expect(statistics.preemptions > 0 && statistics.replayedTokens > 0, "nothing was preempted")
    #expect(statistics.freePages == 9)
  }

  @Test func sparseStepsDifferFromDenseOnes() async throws {
    // Without this, the sparse half of the test above would prove nothing.
    let backend = try CPUBackend()
    let prompts = prompts(try model("opt", on: backend), count: 8, longest: 30)
    let dense = try engine("opt", on: backend, pages: 64, sequences: 8, rows: 64)
    let sparse = try engine("opt", on: backend, pages: 64, sequences: 8, rows: 64, policy: EveryOtherHead())
    #expect(try await all(dense, prompts, tokens: 30) != all(sparse, prompts, tokens: 30))
  }

  @Test func chunkedPrefillEqualsOnePass() throws {
    let backend = ReferenceBackend()
    let model = try model("llama-gqa-tied", on: backend)
    func logits(rows: Int) throws -> [[Float]] {
      let runner = try ModelRunner(
        model: model, backend: backend, cachePages: 16, maximumRows: rows, maximumSequences: 3,
        maximumContext: 64)
      var pool = BlockPool(pages: 16)
      let sequences = prompts(model, count: 3, longest: 40).map { tokens in
        (tokens, (0..<4).compactMap { _ in pool.allocate(from: 0..<0, after: nil) })
      }
      var result = Array(repeating: [Float](), count: 3)
      runner.prefill(sequences) { index, logits in result[index] = Array(logits) }
      return result
    }
    let whole = try logits(rows: 128)
    #expect(whole.allSatisfy { $0.count == model.config.vocabulary })
    #expect(try logits(rows: 7) == whole)
    #expect(try logits(rows: 3) == whole)
  }

  @Test func allLogitsOfASpanEqualThoseOfItsSteps() throws {
    let backend = ReferenceBackend()
    let model = try model("llama-mha", on: backend)
    let vocabulary = model.config.vocabulary
    let runner = try ModelRunner(
      model: model, backend: backend, cachePages: 8, maximumRows: 32, maximumSequences: 2,
      maximumContext: 64, maximumLogitRows: 32)
    let tokens = (0..<20).map { Int32(3 + $0) }
    let span = RowSpan(tokens: tokens, pages: [3, 1], logits: .all)
    let all = Array(runner.forward([span], kind: .prefill))
    #expect(all.count == 20 * vocabulary)
    for position in 0..<20 {
      let step = runner.decode(tokens: [tokens[position]], positions: [position], pages: [[5, 2]])
      #expect(Array(step) == Array(all[position * vocabulary..<(position + 1) * vocabulary]))
    }
  }

  @Test(arguments: StepPolicy.allCases) func aDecodeStepAllocatesNothing(kind: StepPolicy) throws {
    try #require(malloc_counter_current() >= 0, "allocations can be counted with glibc only")
    let before = malloc_counter_current()
    withExtendedLifetime([Int](repeating: 1, count: 1000 + Int(before % 2))) {}
    try #require(malloc_counter_current() > before, "the counter does not count")

    let backend = try CPUBackend()
    let model = try model(kind.choosesNeurons ? "opt" : "llama-gqa-tied", on: backend)
    let vocabulary = model.config.vocabulary
    let policy = try kind.policy(model.config, on: backend)
    let sequences = 6
    let runner = try ModelRunner(
      model: model, backend: backend, cachePages: 24, maximumRows: 64, maximumSequences: sequences,
      maximumContext: 64, policyBytes: policy.workspaceByteCount(rows: sequences))
    let sampler = try Sampler(vocabulary: vocabulary)
    let parameters = SamplingParameters()
    var states = (0..<sequences).map { _ in SamplerState(parameters: parameters, prompt: []) }
    let pages = (0..<sequences).map { sequence in (0..<4).map { Int32(sequence * 4 + $0) } }
    var tokens = (0..<sequences).map { Int32(3 + $0) }
    var counts = [Int](repeating: 0, count: 40)
    for step in 0..<40 {
      let start = malloc_counter_current()
      runner.begin()
      for sequence in 0..<sequences {
        runner.append(tokens[sequence], at: step, pages: pages[sequence])
      }
      let logits = runner.run(.decode, policy: policy)
      for sequence in 0..<sequences {
        let row = UnsafeBufferPointer(
          rebasing: logits[sequence * vocabulary..<(sequence + 1) * vocabulary])
        tokens[sequence] = try sampler.sample(row, parameters: parameters, state: &states[sequence])
      }
      counts[step] = malloc_counter_current() - start
    }
    // The first steps may set up what stays.
    #expect(counts[5...].allSatisfy { $0 == 0 }, "allocations by step: \(counts)")
  }
}

/// Selects every other head, others by the position of the sequence; the rest see their local pages alone.
struct EveryOtherHead: SparsityPolicy {
  var name: String { "every other head" }
  // One mask [rows, heads] of at most 64 heads.
  func workspaceByteCount(rows: Int) -> Int { rows * 64 + 64 }

  func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    let rows = context.batch.rows
    let heads = context.query.columns / context.kv.headDim
    let mask = workspace.take(rows: rows, columns: heads, dtype: .u8)
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: heads) { line in
      withUnsafeTemporaryAllocation(of: Int32.self, capacity: 1) { position in
        for row in 0..<rows {
          backend.download(
            context.batch.positions.columns(row..<row + 1).address,
            into: UnsafeMutableRawBufferPointer(position))
          let odd = Int(position[0]) % 2
          let group = heads / context.kv.kvHeads
          for head in 0..<heads { line[head] = (head / group + context.layer) % 2 == odd ? 1 : 0 }
          backend.upload(UnsafeRawBufferPointer(line), to: mask.rows(row..<row + 1).address)
        }
      }
    }
    return Selection(heads: ActiveHeads(mask: mask, fallback: .zero))
  }
}
