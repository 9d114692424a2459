import Foundation
import PolarCore
import PolarEngine
@testable import PolarFormats
import PolarModels
import PolarReference
import PolarSparsity
import Synchronization

/// A model whose next token is a hash of everything that the batch's page tables lead to.
///
/// Each slot of its "cache" keeps the token and whether it was written by prefill or by decode, so that text depends on
/// both: a page that two sequences share, a row that is lost, or a replay by prefill shows as other text.
final class MockModel: CausalLM {
  let config: ModelConfig
  let cells: Mutex<[UInt64]>
  /// Called before each forward pass with its rows, sequences and whether it decodes.
  let onForward: Mutex<(@Sendable (ForwardBatch) -> Void)?>
  /// Makes the logits of rows whose token is this one NaN.
  let poison: Int32?
  /// Chooses the token after `hash`; the hash modulo the vocabulary if nil.
  let next: (@Sendable (_ hash: UInt64, _ position: Int) -> Int32)?

  init(
    vocabulary: Int = 97, context: Int = 256, pages: Int, poison: Int32? = nil,
    next: (@Sendable (UInt64, Int) -> Int32)? = nil
  ) {
    config = ModelConfig.tiny(vocabulary: vocabulary, context: context)
    cells = Mutex(Array(repeating: 0, count: pages * KVPage.tokens))
    onForward = Mutex(nil)
    self.poison = poison
    self.next = next
  }

  func forward(
    _ batch: ForwardBatch, cache: KVCache, policy: any SparsityPolicy, tap: (any ForwardTap)?,
    workspace: inout Workspace, on backend: any Backend
  ) -> Tensor {
    onForward.withLock { $0 }?(batch)
    workspace.reset()
    let logits = workspace.take(rows: max(1, batch.logitCount), columns: config.vocabulary)
    let out = UnsafeMutablePointer<Float>(bitPattern: logits.address.bits)!
    let tokens = ints(batch.tokens)
    let positions = ints(batch.positions)
    let slots = ints(batch.slots)
    let rowSequences = ints(batch.rowSequences)
    cells.withLock { cells in
      for row in 0..<batch.rows {
        cells[Int(slots[row])] = UInt64(tokens[row]) << 1 | (batch.isDecode ? 1 : 0)
      }
      for (index, row) in ints(batch.logitRows).enumerated() {
        let table = ints(
          batch.blockTables.rows(Int(rowSequences[Int(row)])..<Int(rowSequences[Int(row)]) + 1))
        var hash: UInt64 = 1
        for position in 0...Int(positions[Int(row)]) {
          let cell = cells[Int(table[position / KVPage.tokens]) * KVPage.tokens + position % KVPage.tokens]
          hash = (hash ^ cell) &* 0x9E37_79B9_7F4A_7C15
          hash ^= hash >> 29
        }
        let line = out + index * config.vocabulary
        for token in 0..<config.vocabulary {
          // Fixed pseudo-random logits in [0, 4) below a clear winner.
          line[token] = Float((hash &+ UInt64(token) &* 0xD1B5_4A32_D192_ED03) >> 40) / 4_194_304
        }
        let winner = next?(hash, Int(positions[Int(row)])) ?? Int32(hash % UInt64(config.vocabulary))
        line[Int(winner)] = 5
        if tokens[Int(row)] == poison { line[3] = .nan }
      }
    }
    return Tensor(logits.address, rows: batch.logitCount, columns: config.vocabulary)
  }

  private func ints(_ tensor: Tensor) -> UnsafeBufferPointer<Int32> {
    UnsafeBufferPointer(start: UnsafePointer(bitPattern: tensor.address.bits), count: tensor.count)
  }

  func workspaceByteCount(rows: Int, logitRows: Int) -> Int {
    max(1, logitRows) * config.vocabulary * 4 + 64
  }
  func outputProjection(layer: Int) -> PackedMatrix { PackedMatrix(Address(0), outputs: 0, inputs: 0) }
  func outputBias(layer: Int) -> Tensor? { nil }
  var weightByteCount: Int { 0 }
  var mlpByteCount: Int { 0 }
  var neuronByteCount: Int { 0 }
}

/// The sequences of each forward pass.
final class PassLog: Sendable {
  private let counts = Mutex<[Int]>([])
  var all: [Int] { counts.withLock { $0 } }
  func add(_ count: Int) { counts.withLock { $0.append(count) } }
}

extension MockModel {
  /// Records the sequences of every pass, each of which takes at least `pause` seconds.
  func recordSequences(pause: Double = 0) -> PassLog {
    let log = PassLog()
    onForward.withLock { hook in
      hook = { batch in
        log.add(batch.sequences)
        if pause > 0 { Thread.sleep(forTimeInterval: pause) }
      }
    }
    return log
  }
}

extension ModelConfig {
  static func tiny(vocabulary: Int, context: Int) -> ModelConfig {
    ModelConfig(
      architecture: .llama, hidden: 4, layers: 1, heads: 2, kvHeads: 1, headDim: 2, intermediate: 4,
      vocabulary: vocabulary, context: context, normEpsilon: 1e-5, activation: .silu, ropeTheta: 10000,
      ropeScaling: .none, tiedEmbeddings: true, qkvBias: false, outputBias: false, mlpBias: false,
      normBefore: true, finalNorm: true, embeddingDim: 4, bosToken: nil, eosTokens: [])
  }
}

/// Text where each token is the bytes of a fixed table, decoded as UTF-8 once complete.
struct TableText: TokenTextStream {
  let table: [[UInt8]]
  private var pending: [UInt8] = []

  init(_ table: [[UInt8]]) { self.table = table }

  mutating func append(_ token: Int32) -> String {
    pending += table[Int(token)]
    guard let text = String(validating: pending, as: UTF8.self) else { return "" }
    pending = []
    return text
  }

  mutating func finish() -> String {
    defer { pending = [] }
    return String(decoding: pending, as: UTF8.self)
  }
}

/// What a stream delivered in all.
struct Outcome: Equatable {
  var tokens: [Int32] = []
  var text = ""
  var logprobs: [TokenLogprobs] = []
  var info: CompletionInfo?
}

extension Engine {
  /// Runs a request to its end.
  func run(
    _ prompt: [Int32], _ parameters: SamplingParameters = SamplingParameters(maxTokens: 20)
  ) async throws -> Outcome {
    let stream = try submit(GenerationRequest(promptTokens: prompt, parameters: parameters))
    return try await collect(stream)
  }

  func submitAll(
    _ requests: [GenerationRequest]
  ) throws -> [AsyncThrowingStream<GenerationEvent, any Error>] {
    try requests.map { try submit($0) }
  }
}

func collect(_ stream: AsyncThrowingStream<GenerationEvent, any Error>) async throws -> Outcome {
  var outcome = Outcome()
  for try await event in stream {
    switch event {
    case .token(let id, let text, let logprobs):
      outcome.tokens.append(id)
      outcome.text += text
      if let logprobs { outcome.logprobs.append(logprobs) }
    case .finished(let info): outcome.info = info
    }
  }
  return outcome
}

/// An engine over a mock model.
func mockEngine(
  _ model: MockModel, pages: Int, sequences: Int = 8, rows: Int = 64, context: Int = 256,
  endTokens: Set<Int32> = [], text: (@Sendable () -> any TokenTextStream)? = nil
) throws -> Engine {
  let runner = try ModelRunner(
    model: model, backend: ReferenceBackend(), cachePages: pages, maximumRows: rows,
    maximumSequences: sequences, maximumContext: context)
  return try Engine(runner: runner, endTokens: endTokens, text: text)
}

/// A small repeatable generator for scenarios.
struct TestRandom: RandomNumberGenerator {
  var state: UInt64
  init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }
  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state &* 0x2545_F491_4F6C_DD1D
  }
}
