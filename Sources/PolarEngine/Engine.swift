public import PolarCore
import PolarFormats
import PolarModels
public import PolarSparsity
import Synchronization

/// Turns the tokens of one request into text, piece by piece.
public protocol TokenTextStream {
  /// The text that became certain with `token`; empty while a character is incomplete.
  mutating func append(_ token: Int32) -> String
  /// What is left at the end.
  mutating func finish() -> String
}

/// What an engine is doing.
public struct EngineStatistics: Sendable, Equatable {
  /// Requests in the batch.
  public var running = 0
  /// Requests that wait for a place.
  public var waiting = 0
  /// Pages of the KV cache that are free.
  public var freePages = 0
  /// Pages of the KV cache.
  public var pages = 0
  /// How often a request's pages were taken away, so far.
  public var preemptions = 0
  /// Prompt tokens computed so far, those of resumed requests again.
  public var promptTokens = 0
  /// Tokens generated so far.
  public var generatedTokens = 0
  /// Decode rows computed again for resumed requests so far.
  public var replayedTokens = 0
  /// Steps so far.
  public var steps = 0
}

/// Runs many requests at once: continuous batching over a paged KV cache, on a thread of its own.
///
/// ```swift
/// let engine = try Engine(runner: runner, endTokens: tokenizer.eosTokens, text: { ... })
/// for try await event in try await engine.submit(GenerationRequest(promptTokens: tokens)) { ... }
/// ```
///
/// A request joins the batch when it is submitted and leaves it when it ends. Dropping its stream, or cancelling the
/// task that reads it, ends it and frees its pages before the next step. A fault of one request (logits that are not
/// numbers) ends that request's stream with an error; the others go on. Requests in flight keep the engine alive.
public actor Engine {
  private let thread: EngineThread
  let runner: ModelRunner
  let policy: any SparsityPolicy
  let sampler: Sampler
  /// How the tokens of a step are drawn, where the device draws them.
  let draws: HostArray<TokenDraw>
  let vocabulary: Int
  private let endTokens: Set<Int32>
  private let makeText: (@Sendable () -> any TokenTextStream)?
  let cancellations = Cancellations()
  var scheduler: Scheduler
  var step = ScheduledStep()
  var live: [SequenceID: LiveRequest] = [:]
  var counters = EngineStatistics()
  private var isStepping = false
  private var isShutDown = false

  /// The engine's own thread.
  nonisolated public var unownedExecutor: UnownedSerialExecutor { thread.asUnownedSerialExecutor() }

  /// An engine that owns `runner` from now on.
  ///
  /// - Parameters:
  ///   - policy: What decode steps compute; prefill is dense.
  ///   - rowsPerStep: The most rows of a step; more than the runner's sequences, at most its rows. All its rows if nil.
  ///   - endTokens: Tokens that end a generation unless the request ignores them.
  ///   - text: Makes the text of a request's tokens; nil leaves texts empty and refuses stop strings.
  /// - Throws: ``PolarError/configuration(field:reason:)`` when the limits do not fit each other.
  public init(
    runner: sending ModelRunner, policy: any SparsityPolicy = DensePolicy(), rowsPerStep: Int? = nil,
    endTokens: Set<Int32> = [], text: (@Sendable () -> any TokenTextStream)? = nil
  ) throws(PolarError) {
    let rows = rowsPerStep ?? runner.maximumRows
    guard rows <= runner.maximumRows, runner.maximumLogitRows >= runner.maximumSequences else {
      throw .configuration(
        field: "rowsPerStep", reason: "\(rows) is more than the runner's \(runner.maximumRows)")
    }
    scheduler = try Scheduler(
      limits: .init(
        pages: runner.cache.pages, sequences: runner.maximumSequences, rows: rows,
        context: runner.maximumContext))
    vocabulary = runner.model.config.vocabulary
    sampler = try Sampler(vocabulary: vocabulary)
    draws = try HostArray(
      count: runner.maximumSequences, what: "draws",
      initial: TokenDraw(temperature: 0, topP: 1, minP: 0, topK: 0, uniform: 0))
    self.policy = policy
    self.endTokens = endTokens
    self.makeText = text
    self.runner = runner
    thread = EngineThread(name: "polar-engine")
  }

  deinit { thread.stop() }

  /// Queues a request and returns the stream of its events.
  ///
  /// The stream holds every event until it is read, so a slow reader never holds up the batch; there are at most as many
  /// as the request may generate tokens.
  ///
  /// - Throws: ``PolarError/request(field:reason:)`` naming the field that is wrong: an empty prompt, one that leaves no
  ///   room in the context or the cache, a token that is not in the vocabulary, a parameter out of its range.
  public func submit(
    _ request: GenerationRequest
  ) throws(PolarError) -> AsyncThrowingStream<GenerationEvent, any Error> {
    guard !isShutDown else { throw .request(field: "engine", reason: "is shut down") }
    try request.parameters.validate()
    try checkTokens(request.promptTokens, field: "promptTokens")
    try checkTokens(request.parameters.stopTokens, field: "stopTokens")
    guard request.parameters.stop.isEmpty || makeText != nil else {
      throw .request(field: "stop", reason: "stop strings need a tokenizer, and the engine has none")
    }
    let id = try scheduler.submit(
      prompt: request.promptTokens, maximumTokens: request.parameters.maxTokens)
    let limit = min(
      request.parameters.maxTokens, scheduler.limits.context - request.promptTokens.count)
    let (stream, continuation) = AsyncThrowingStream.makeStream(
      of: GenerationEvent.self, throwing: (any Error).self, bufferingPolicy: .bufferingOldest(limit + 1))
    // Not through the actor: the step that is about to begin must see it.
    continuation.onTermination = { [cancellations] _ in cancellations.add(id) }
    live[id] = LiveRequest(
      request, endTokens: request.parameters.ignoreEOS ? [] : endTokens, text: makeText?(),
      continuation: continuation)
    startStepping()
    return stream
  }

  /// What the engine is doing.
  public var statistics: EngineStatistics {
    var statistics = counters
    statistics.running = scheduler.running.count
    statistics.waiting = scheduler.waiting.count
    statistics.freePages = scheduler.pool.freePages
    statistics.pages = scheduler.pool.pages
    statistics.preemptions = scheduler.preemptions
    return statistics
  }

  /// Ends all requests (their streams finish as cancelled) and refuses new ones.
  public func shutdown() {
    isShutDown = true
    for id in live.keys.sorted() { end(id, .cancelled) }
  }

  private func checkTokens(_ tokens: [Int32], field: String) throws(PolarError) {
    for (index, token) in tokens.enumerated() where token < 0 || token >= vocabulary {
      throw .request(
        field: field, reason: "token \(token) at \(index) is not in the vocabulary of \(vocabulary)")
    }
  }

  private func startStepping() {
    guard !isStepping else { return }
    isStepping = true
    // The thread holds the engine while there is work, and lets go of it after the last step.
    thread.repeatStep { [self] in
      assumeIsolated { engine in
        engine.runStep()
        engine.isStepping = engine.scheduler.hasWork
        return engine.isStepping
      }
    }
  }
}

/// Requests whose reader has gone, handed over from whatever thread noticed.
final class Cancellations: Sendable {
  private let ids = Mutex<[SequenceID]>([])

  func add(_ id: SequenceID) { ids.withLock { $0.append(id) } }

  /// The ids added since the last call. Does not allocate when there are none.
  func take() -> [SequenceID] {
    ids.withLock { ids in
      guard !ids.isEmpty else { return [] }
      defer { ids.removeAll() }
      return ids
    }
  }
}
