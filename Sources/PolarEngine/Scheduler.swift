public import PolarCore

/// Rows of one prompt that a step computes.
public struct PrefillChunk: Sendable, Equatable {
  /// The sequence.
  public let id: SequenceID
  /// Positions in its prompt.
  public let positions: Range<Int>
  /// True when the logits of the last row choose the sequence's first token.
  public let samples: Bool
}

/// One row of a decode step.
public struct DecodeRow: Sendable, Equatable {
  /// The sequence.
  public let id: SequenceID
  /// The row's position.
  public let position: Int
  /// True when the row's logits choose a new token; false when the next token is known already (see ``Scheduler``).
  public let samples: Bool
}

/// What one step computes: prompts' rows in one forward pass, then one row each of the decoding sequences in another.
public struct ScheduledStep: Sendable, Equatable {
  /// Rows of prompts, oldest sequence first.
  public internal(set) var prefill: [PrefillChunk] = []
  /// Decoding sequences, oldest first.
  public internal(set) var decode: [DecodeRow] = []

  /// A step with nothing to do.
  public init() {}

  /// True when there is nothing to do.
  public var isEmpty: Bool { prefill.isEmpty && decode.isEmpty }
}

/// Decides what each step computes. Pure values: it sees token ids and page numbers, never a tensor or a clock.
///
/// - Requests are admitted strictly first come, first served, when the pages of all their tokens are free.
/// - Prompts are computed in chunks beside the decode rows, within a budget of rows per step.
/// - When a decoding sequence needs a page and there is none, the youngest running sequence is preempted: its pages
///   are freed and it returns to the front of the waiting queue. The oldest is never preempted, so there is progress.
///
/// A preempted sequence that resumes computes its *prompt* by (dense) prefill and then replays the tokens it had
/// generated as ordinary decode rows whose next token is known, until it has caught up. Prefilling them with the prompt
/// would be quicker but wrong under head sparsity: the K and V of a generated token hold the effect of the sparse
/// attention of its own decode step in the layers below, and dense prefill would write other values and lead to other
/// text. Replay makes the same cache, so preemption never shows in the output.
public struct Scheduler: Sendable {
  /// What bounds a step.
  public struct Limits: Sendable, Equatable {
    /// Pages of the KV cache.
    public var pages: Int
    /// The most sequences that run at once.
    public var sequences: Int
    /// The most rows of a step, decode rows included; more than `sequences`.
    public var rows: Int
    /// The longest prompt and output together, in tokens.
    public var context: Int

    /// Limits of a scheduler.
    public init(pages: Int, sequences: Int, rows: Int, context: Int) {
      self.pages = pages
      self.sequences = sequences
      self.rows = rows
      self.context = context
    }
  }

  /// What bounds a step.
  public let limits: Limits
  /// The pages.
  public private(set) var pool: BlockPool
  /// Sequences without pages, oldest first.
  public private(set) var waiting: [ScheduledSequence] = []
  /// Sequences with pages, oldest first; all of them are older than the waiting ones.
  public private(set) var running: [ScheduledSequence] = []
  /// How often a sequence was preempted.
  public private(set) var preemptions = 0
  private var nextID: SequenceID = 0

  /// A scheduler over an empty cache.
  public init(limits: Limits) throws(PolarError) {
    guard limits.sequences >= 1 else {
      throw .configuration(field: "sequences", reason: "must be at least 1, is \(limits.sequences)")
    }
    guard limits.rows > limits.sequences else {
      throw .configuration(
        field: "rows", reason: "must be more than the \(limits.sequences) sequences, is \(limits.rows)")
    }
    guard limits.pages >= 1 else {
      throw .configuration(field: "pages", reason: "must be at least 1, is \(limits.pages)")
    }
    guard limits.context >= 2 else {
      throw .configuration(field: "context", reason: "must be at least 2, is \(limits.context)")
    }
    self.limits = limits
    self.pool = BlockPool(pages: limits.pages)
    running.reserveCapacity(limits.sequences)
  }

  /// True when any sequence waits or runs.
  public var hasWork: Bool { !waiting.isEmpty || !running.isEmpty }

  /// Queues a prompt; the output is cut where the context ends. Refuses what could never run.
  public mutating func submit(prompt: [Int32], maximumTokens: Int) throws(PolarError) -> SequenceID {
    guard !prompt.isEmpty else { throw .request(field: "promptTokens", reason: "is empty") }
    guard prompt.count < limits.context else {
      throw .request(
        field: "promptTokens",
        reason: "\(prompt.count) tokens leave no room to generate in a context of \(limits.context)")
    }
    guard maximumTokens >= 1 else {
      throw .request(field: "maxTokens", reason: "must be at least 1, is \(maximumTokens)")
    }
    let output = min(maximumTokens, limits.context - prompt.count)
    let sequence = ScheduledSequence(id: nextID, prompt: prompt, maximumTokens: output)
    let pages = sequence.mostPages
    guard pages <= limits.pages else {
      throw .request(
        field: "maxTokens",
        reason: "\(prompt.count) prompt tokens and \(output) to generate need \(pages) pages of the "
          + "KV cache, which has \(limits.pages)")
    }
    nextID += 1
    waiting.append(sequence)
    return sequence.id
  }

  /// Plans the next step; `step` keeps its storage. The step must be computed and then committed.
  public mutating func schedule(into step: inout ScheduledStep) {
    step.prefill.removeAll(keepingCapacity: true)
    step.decode.removeAll(keepingCapacity: true)
    scheduleDecode(&step)
    admit()
    schedulePrefill(&step)
  }

  /// Plans the next step.
  public mutating func schedule() -> ScheduledStep {
    var step = ScheduledStep()
    schedule(into: &step)
    return step
  }

  /// Records that the rows of `step` are in the cache. Sequences that ended meanwhile are passed over.
  public mutating func commit(_ step: ScheduledStep) {
    commitPrefill(step)
    commitDecode(step)
  }

  mutating func commitPrefill(_ step: ScheduledStep) {
    for chunk in step.prefill {
      if let index = runningIndex(of: chunk.id) { running[index].computed = chunk.positions.upperBound }
    }
  }

  mutating func commitDecode(_ step: ScheduledStep) {
    for row in step.decode {
      if let index = runningIndex(of: row.id) { running[index].computed = row.position + 1 }
    }
  }

  /// Adds a sampled token to a running sequence. Returns true when it may have no more.
  public mutating func append(_ token: Int32, to id: SequenceID) -> Bool {
    guard let index = runningIndex(of: id) else { return true }
    running[index].output.append(token)
    return running[index].output.count >= running[index].maximumTokens
  }

  /// Ends a sequence, running or waiting, and frees its pages. Returns what is known of it; nil if it is not here.
  @discardableResult
  public mutating func remove(_ id: SequenceID) -> ScheduledSequence? {
    if let index = runningIndex(of: id) {
      releasePages(at: index)
      return running.remove(at: index)
    }
    if let index = waiting.firstIndex(where: { $0.id == id }) { return waiting.remove(at: index) }
    return nil
  }

  /// A running sequence.
  public func runningSequence(_ id: SequenceID) -> ScheduledSequence? {
    runningIndex(of: id).map { running[$0] }
  }

  // MARK: Planning

  private mutating func scheduleDecode(_ step: inout ScheduledStep) {
    var index = 0
    while index < running.count {
      if running[index].isPrefilling {
        index += 1
        continue
      }
      var preemptedItself = false
      while running[index].pages.count * KVPage.tokens <= running[index].computed {
        if addPage(at: index) { continue }
        // The rows planned so far belong to older sequences, so the youngest is never among them.
        preemptYoungest()
        if index == running.count {
          preemptedItself = true
          break
        }
      }
      if preemptedItself { break }
      let sequence = running[index]
      step.decode.append(
        DecodeRow(
          id: sequence.id, position: sequence.computed, samples: sequence.computed == sequence.count - 1))
      index += 1
    }
  }

  private mutating func admit() {
    while running.count < limits.sequences, !waiting.isEmpty {
      // A page for each running sequence stays free, or a sequence that was just preempted would come back at once,
      // only to be preempted again.
      let needed = ScheduledSequence.pages(for: waiting[0].count)
      guard needed + running.count <= pool.freePages else { return }
      running.append(waiting.removeFirst())
      let index = running.count - 1
      // Room for all of it now, so that no decode step has to make room.
      running[index].output.reserveCapacity(running[index].maximumTokens)
      running[index].pages.reserveCapacity(running[index].mostPages)
      running[index].promise = pool.promise(running[index].mostPages)
      while running[index].pages.count < needed, addPage(at: index) {}
    }
  }

  private mutating func schedulePrefill(_ step: inout ScheduledStep) {
    var budget = limits.rows - step.decode.count
    for sequence in running where sequence.isPrefilling && budget > 0 {
      let end = min(sequence.prompt.count, sequence.computed + budget)
      budget -= end - sequence.computed
      step.prefill.append(
        PrefillChunk(
          id: sequence.id, positions: sequence.computed..<end,
          samples: end == sequence.prompt.count && sequence.output.isEmpty))
    }
  }

  // MARK: Pages

  private mutating func addPage(at index: Int) -> Bool {
    guard
      let page = pool.allocate(from: running[index].promise, after: running[index].pages.last)
    else { return false }
    running[index].pages.append(page)
    return true
  }

  private mutating func releasePages(at index: Int) {
    for page in running[index].pages { pool.free(page) }
    pool.withdraw(running[index].promise)
    running[index].pages.removeAll(keepingCapacity: true)
    running[index].promise = 0..<0
  }

  private mutating func preemptYoungest() {
    releasePages(at: running.count - 1)
    var sequence = running.removeLast()
    sequence.computed = 0
    sequence.preemptions += 1
    preemptions += 1
    waiting.insert(sequence, at: 0)
  }

  /// Binary search: ids rise along `running`.
  private func runningIndex(of id: SequenceID) -> Int? {
    var low = 0
    var high = running.count
    while low < high {
      let middle = (low + high) / 2
      if running[middle].id < id { low = middle + 1 } else { high = middle }
    }
    return low < running.count && running[low].id == id ? low : nil
  }
}
