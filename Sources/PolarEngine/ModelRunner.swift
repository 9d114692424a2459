public import PolarCore
import PolarFormats
public import PolarModels
public import PolarSparsity

/// Consecutive tokens of one sequence in a forward pass, with the pages they live in.
public struct RowSpan: Sendable {
  /// The tokens.
  public var tokens: [Int32]
  /// Position of the first one in its sequence. Everything before it must be in the cache.
  public var start: Int
  /// Pages of the sequence, in order of position, up to at least the last token.
  public var pages: [Int32]
  /// Which rows' logits are wanted.
  public var logits: LogitRows

  /// Tokens at positions `start ..< start + tokens.count`.
  public init(tokens: [Int32], start: Int = 0, pages: [Int32], logits: LogitRows = .last) {
    self.tokens = tokens
    self.start = start
    self.pages = pages
    self.logits = logits
  }
}

/// How a forward pass computes attention.
public enum ForwardKind: Sendable {
  /// Any number of rows per sequence; dense.
  case prefill
  /// One row per sequence; the policy chooses what is computed.
  case decode
}

/// Runs forward passes: owns the KV cache, the scratch memory and the staging of one model, all sized at start-up.
///
/// It knows nothing of requests: the engine drives it, and so can benchmarks, calibration and perplexity, with page
/// tables of their own (see ``BlockPool``). It is not thread-safe and not `Sendable`: one thread at a time.
///
/// A pass is `begin()`, `append(...)` per sequence, `run(...)`; or ``forward(_:kind:policy:tap:)`` for all of it. None
/// of the first three allocates.
public final class ModelRunner {
  /// The model.
  public let model: any CausalLM
  /// Where it runs.
  public let backend: any Backend
  /// K and V of all sequences.
  public let cache: KVCache
  /// The most rows of a pass.
  public let maximumRows: Int
  /// The most sequences of a pass.
  public let maximumSequences: Int
  /// The longest context, in tokens.
  public let maximumContext: Int
  /// The most rows of a pass whose logits are wanted.
  public let maximumLogitRows: Int

  private let vocabulary: Int
  private let drawsOffset: Int
  private var workspace: Workspace
  private var builder: BatchBuilder
  /// Where logits are downloaded to; nil where the host reads them in place.
  private let logits: HostArray<Float>?
  /// What comes back from the device after a step: tokens, then counters of selections.
  private let readback: HostArray<UInt8>
  /// Tokens i32 `[maximumSequences]`, the counters of `statistics`, then how tokens are drawn, ``TokenDraw``
  /// `[maximumSequences]`.
  private let drawing: any DeviceMemory
  /// What the device counts, where it does.
  private let statistics: SelectionStatistics?
  private var graphs = StepGraphs()
  /// Logits of the last pass whose logits were wanted, f32 `[logit rows, vocabulary]`.
  private var latest: Tensor?

  /// Allocates everything a pass needs.
  ///
  /// - Parameters:
  ///   - cachePages: Pages of the KV cache, 16 tokens each (see ``KVBudget``).
  ///   - maximumRows: The most rows of a prefill pass.
  ///   - maximumSequences: The most sequences of a pass, and so the most rows of a decode pass.
  ///   - maximumContext: The longest context; at most what the model was made for.
  ///   - policyBytes: Scratch for the policy (``SparsityPolicy/workspaceByteCount(rows:)`` of `maximumSequences`)
  ///     and for a tap.
  ///   - maximumLogitRows: The most rows of logits of a pass; `maximumSequences` if nil.
  ///   - statistics: Where selections of a ``CountingPolicy`` are counted. On a backend that records steps the device counts
  ///     them from now on, and what it counted comes back with the results of each decode pass.
  /// - Throws: ``PolarError/configuration(field:reason:)`` for sizes that make no sense, and
  ///   ``PolarError/outOfMemory(what:bytes:)``.
  public init(
    model: any CausalLM, backend: any Backend, cachePages: Int, maximumRows: Int,
    maximumSequences: Int, maximumContext: Int, policyBytes: Int = 0, maximumLogitRows: Int? = nil,
    statistics: SelectionStatistics? = nil
  ) throws(PolarError) {
    let logitRows = maximumLogitRows ?? maximumSequences
    for (field, value) in [
      ("cachePages", cachePages), ("maximumRows", maximumRows), ("maximumSequences", maximumSequences),
      ("maximumContext", maximumContext), ("maximumLogitRows", logitRows),
    ] where value < 1 || value > Int(Int32.max) / KVPage.tokens {
      throw .configuration(field: field, reason: "\(value) is out of range")
    }
    guard maximumContext <= model.config.context else {
      throw .configuration(
        field: "maximumContext",
        reason: "\(maximumContext) is more than the \(model.config.context) the model was made for")
    }
    guard maximumRows >= maximumSequences, policyBytes >= 0 else {
      throw .configuration(
        field: "maximumRows", reason: "\(maximumRows) is less than the \(maximumSequences) sequences")
    }
    let config = model.config
    try backend.prepare(
      AttentionShape(heads: config.heads, kvHeads: config.kvHeads, headDim: config.headDim))
    self.model = model
    self.backend = backend
    self.maximumRows = maximumRows
    self.maximumSequences = maximumSequences
    self.maximumContext = maximumContext
    self.maximumLogitRows = logitRows
    vocabulary = model.config.vocabulary
    cache = try KVCache(config: model.config, pages: cachePages, on: backend)
    let scratch = model.workspaceByteCount(rows: maximumRows, logitRows: logitRows)
    // The arena rounds every tensor up to 64 bytes, which a policy may not have counted.
    let arena = try backend.allocate(byteCount: scratch + policyBytes + 4096)
    workspace = Workspace(arena)
    builder = try BatchBuilder(
      rows: maximumRows, logitRows: logitRows, sequences: maximumSequences,
      context: maximumContext, on: backend)
    logits =
      backend.hostPointer(arena.base) == nil
      ? try HostArray(count: logitRows * vocabulary, what: "logits", initial: 0) : nil
    let counting = backend.recordsWork ? statistics : nil
    self.statistics = counting
    let tally = Self.tallyOffset(maximumSequences)
    drawsOffset = (tally + (counting?.tallyByteCount ?? 0) + 63) & ~63
    readback = try HostArray(count: drawsOffset, what: "tokens", initial: 0)
    drawing = try backend.allocate(
      byteCount: drawsOffset + maximumSequences * MemoryLayout<TokenDraw>.stride)
    counting?.count(in: drawing.base.advanced(by: tally))
  }

  /// Bytes of scratch memory, and the most that a pass has used of it.
  public var workspaceUse: (capacity: Int, peak: Int) { (workspace.capacity, workspace.peak) }

  /// Starts a pass.
  public func begin() { builder.begin() }

  /// Adds consecutive tokens of one sequence to the pass. Tokens must be in the vocabulary and sizes within the
  /// runner's; anything else is a programmer error.
  public func append(
    _ tokens: UnsafeBufferPointer<Int32>, at start: Int, pages: UnsafeBufferPointer<Int32>,
    logits: LogitRows
  ) {
    for token in tokens {
      precondition(token >= 0 && token < vocabulary, "token \(token) is not in the vocabulary")
    }
    builder.append(tokens, at: start, pages: pages, logits: logits)
  }

  /// Adds one token of one sequence to the pass, with its logits.
  public func append(_ token: Int32, at position: Int, pages: [Int32]) {
    withUnsafePointer(to: token) { token in
      pages.withUnsafeBufferPointer { pages in
        append(UnsafeBufferPointer(start: token, count: 1), at: position, pages: pages, logits: .last)
      }
    }
  }

  /// Runs the pass. Returns the wanted logits `[logit rows, vocabulary]` in the order of the rows, valid until the
  /// next pass.
  ///
  /// - Parameters:
  ///   - replaying: Records decode steps and replays them where backend and policy allow it (see ``StepGraphs``).
  ///     The policy must be the same at every such call, until ``forgetRecordings()``.
  ///   - padding: Issues a decode step with the padding rows that it would be recorded with.
  public func run(
    _ kind: ForwardKind, policy: any SparsityPolicy = DensePolicy(), tap: (any ForwardTap)? = nil,
    replaying: Bool = false, padding: Bool = false
  ) -> UnsafeBufferPointer<Float> {
    let result = compute(kind, policy: policy, tap: tap, replaying: replaying, padding: padding)
    latest = result
    let count = result.rows * vocabulary
    guard count > 0 else { return UnsafeBufferPointer(start: nil, count: 0) }
    precondition(result.isContiguous && result.columns == vocabulary, "logits of an unexpected shape")
    guard let logits else {
      backend.synchronize()
      let inPlace = backend.hostPointer(result.address)?.assumingMemoryBound(to: Float.self)
      return UnsafeBufferPointer(start: inPlace, count: count)  // [logitCount, vocabulary]
    }
    let host = UnsafeMutableBufferPointer(rebasing: logits.buffer[0..<count])
    backend.download(result.address, into: UnsafeMutableRawBufferPointer(host))
    // The logits were waited for: this is one more small copy.
    if kind == .decode { updateCounts() }
    return UnsafeBufferPointer(host)
  }

  /// The most likely token of each row of logits that the last ``run(_:policy:tap:replaying:padding:)`` returned, -1 where they are
  /// not numbers; valid until the next pass. Nil where the logits were copied to the host, which had better look itself than wait for
  /// the device once more. Only after passes of at most ``maximumSequences`` rows of logits.
  public func mostLikelyTokens() -> UnsafeBufferPointer<Int32>? {
    guard logits == nil, let latest, latest.rows > 0 else { return nil }
    precondition(latest.rows <= maximumSequences, "\(latest.rows) rows of logits")
    let chosen = UnsafeMutableRawBufferPointer(readback.buffer).bindMemory(to: Int32.self)
    let target = Tensor(drawing.base, columns: latest.rows, dtype: .i32)
    backend.argmax(target, logits: latest)
    let tokens = UnsafeMutableBufferPointer(rebasing: chosen[0..<latest.rows])
    backend.download(target.address, into: UnsafeMutableRawBufferPointer(tokens))
    return UnsafeBufferPointer(tokens)
  }

  /// Runs a decode pass and chooses one token per row as `draws` says, on the device. Returns the tokens, -1 where logits are
  /// not numbers; valid until the next pass. Only for backends with ``Backend/tokenDrawing``.
  public func runDrawing(
    _ draws: UnsafeBufferPointer<TokenDraw>, policy: any SparsityPolicy = DensePolicy(),
    replaying: Bool = false
  ) -> UnsafeBufferPointer<Int32> {
    let rows = draws.count
    let bytes = UnsafeMutableRawBufferPointer(readback.buffer)
    let chosen = UnsafeMutableBufferPointer(rebasing: bytes.bindMemory(to: Int32.self)[0..<rows])
    guard let drawer = backend.tokenDrawing, rows > 0 else { return UnsafeBufferPointer(chosen) }
    let result = compute(.decode, policy: policy, tap: nil, replaying: replaying)
    precondition(result.rows == rows, "\(rows) draws for \(result.rows) rows")
    let target = Tensor(drawing.base, columns: rows, dtype: .i32)
    if draws.allSatisfy({ $0.temperature == 0 }) {
      backend.argmax(target, logits: result)
    } else {
      let draws = UnsafeRawBufferPointer(draws)
      let parameters = Tensor(
        drawing.base.advanced(by: drawsOffset), rows: rows,
        columns: MemoryLayout<TokenDraw>.stride, dtype: .u8)
      backend.upload(draws, to: parameters.address)
      drawer.draw(target, logits: result, draws: parameters)
    }
    guard let statistics else {
      backend.download(target.address, into: UnsafeMutableRawBufferPointer(chosen))
      return UnsafeBufferPointer(chosen)
    }
    // Tokens and counters in one copy.
    let range = tallyRange(statistics)
    backend.download(
      target.address, into: UnsafeMutableRawBufferPointer(rebasing: bytes[0..<range.upperBound]))
    statistics.update(from: UnsafeRawBufferPointer(rebasing: bytes[range]))
    return UnsafeBufferPointer(chosen)
  }

  private static func tallyOffset(_ sequences: Int) -> Int { (sequences * 4 + 63) & ~63 }

  /// Where the counters lie behind the tokens.
  private func tallyRange(_ statistics: SelectionStatistics) -> Range<Int> {
    let start = Self.tallyOffset(maximumSequences)
    return start..<start + statistics.tallyByteCount
  }

  /// Takes over what the device counted.
  private func updateCounts() {
    guard let statistics else { return }
    let range = tallyRange(statistics)
    let bytes = UnsafeMutableRawBufferPointer(
      rebasing: UnsafeMutableRawBufferPointer(readback.buffer)[range])
    backend.download(drawing.base.advanced(by: range.lowerBound), into: bytes)
    statistics.update(from: UnsafeRawBufferPointer(bytes))
  }

  /// Forgets what the device counted so far.
  func forgetCounts() {
    updateCounts()
    statistics?.reset()
  }

  /// Forgets recorded steps, so that another policy may be used.
  public func forgetRecordings() { graphs.removeAll() }

  /// Sizes of batches whose step is recorded.
  public var recordedBuckets: [Int] { graphs.recorded }

  /// Runs the pass; logits f32 `[logit rows, vocabulary]` on the device.
  func compute(
    _ kind: ForwardKind, policy: any SparsityPolicy, tap: (any ForwardTap)?, replaying: Bool,
    padding: Bool = false
  ) -> Tensor {
    guard kind == .decode, replaying || padding, tap == nil, backend.recordsWork, policy.isRecordable else {
      return model.forward(
        builder.finish(isDecode: kind == .decode, on: backend), cache: cache, policy: policy, tap: tap,
        workspace: &workspace, on: backend)
    }
    let rows = builder.rows
    let bucket = StepGraphs.bucket(rows: rows, most: maximumSequences)
    let batch = builder.finish(paddedTo: bucket, on: backend)
    guard replaying else { return forward(batch, policy).rows(0..<rows) }
    if graphs.step(bucket) == nil {
      guard graphs.isWarm(bucket) else {
        graphs.warm(bucket)
        return forward(batch, policy).rows(0..<rows)
      }
      var logits: Tensor?
      guard let work = backend.record({ logits = forward(batch, policy) }), let logits else {
        // The backend's failure says why.
        return forward(batch, policy).rows(0..<rows)
      }
      graphs.keep(StepGraphs.Step(work: work, logits: logits), bucket)
    }
    guard let step = graphs.step(bucket) else { return forward(batch, policy).rows(0..<rows) }
    step.work.replay()
    return step.logits.rows(0..<rows)
  }

  private func forward(_ batch: ForwardBatch, _ policy: any SparsityPolicy) -> Tensor {
    model.forward(batch, cache: cache, policy: policy, tap: nil, workspace: &workspace, on: backend)
  }

  /// Runs one pass over `spans`, one per sequence. Returns the wanted logits `[logit rows, vocabulary]`, valid until
  /// the next pass.
  public func forward(
    _ spans: [RowSpan], kind: ForwardKind, policy: any SparsityPolicy = DensePolicy(),
    tap: (any ForwardTap)? = nil
  ) -> UnsafeBufferPointer<Float> {
    begin()
    for span in spans {
      span.tokens.withUnsafeBufferPointer { tokens in
        span.pages.withUnsafeBufferPointer { pages in
          append(tokens, at: span.start, pages: pages, logits: span.logits)
        }
      }
    }
    return run(kind, policy: policy, tap: tap)
  }

  /// Computes the prompts of `sequences` (tokens and pages, from position 0), densely, in passes of at most
  /// ``maximumRows`` rows. `each` gets the index of a sequence and the logits `[vocabulary]` of its last token.
  public func prefill(
    _ sequences: [(tokens: [Int32], pages: [Int32])],
    each: (_ sequence: Int, _ logits: UnsafeBufferPointer<Float>) -> Void
  ) {
    var sequence = 0
    var position = 0
    while sequence < sequences.count {
      begin()
      var rows = 0
      var complete: [Int] = []
      var spans = 0
      while sequence < sequences.count, rows < maximumRows, spans < maximumSequences,
        complete.count < maximumLogitRows
      {
        let (tokens, pages) = sequences[sequence]
        let end = min(tokens.count, position + maximumRows - rows)
        tokens.withUnsafeBufferPointer { tokens in
          pages.withUnsafeBufferPointer { pages in
            append(
              UnsafeBufferPointer(rebasing: tokens[position..<end]), at: position, pages: pages,
              logits: end == tokens.count ? .last : .none)
          }
        }
        rows += end - position
        spans += 1
        position = end
        if end == tokens.count {
          complete.append(sequence)
          sequence += 1
          position = 0
        }
      }
      let logits = run(.prefill)
      for (row, index) in complete.enumerated() {
        each(index, UnsafeBufferPointer(rebasing: logits[row * vocabulary..<(row + 1) * vocabulary]))
      }
    }
  }

  /// One decode step: token i at `positions[i]` of a sequence with pages `pages[i]`. Returns logits
  /// `[sequences, vocabulary]`, valid until the next pass.
  public func decode(
    tokens: [Int32], positions: [Int], pages: [[Int32]], policy: any SparsityPolicy = DensePolicy(),
    tap: (any ForwardTap)? = nil
  ) -> UnsafeBufferPointer<Float> {
    precondition(tokens.count == positions.count && tokens.count == pages.count, "unequal counts")
    begin()
    for index in tokens.indices { append(tokens[index], at: positions[index], pages: pages[index]) }
    return run(.decode, policy: policy, tap: tap)
  }
}
