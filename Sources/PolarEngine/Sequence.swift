import PolarCore

/// Identifies a sequence of a ``Scheduler``; ids rise in order of submission.
public typealias SequenceID = Int

/// What the scheduler knows of one request: its tokens, its pages, and how much of it is in the cache.
public struct ScheduledSequence: Sendable {
  /// Its id.
  public let id: SequenceID
  /// Tokens of the prompt.
  public let prompt: [Int32]
  /// The most tokens that may be generated, so that prompt and output stay within the context.
  public let maximumTokens: Int
  /// Tokens generated so far. The last one is not in the cache yet.
  public internal(set) var output: [Int32] = []
  /// Tokens (from the start) whose K and V are in the cache.
  public internal(set) var computed = 0
  /// Its pages, in order of position.
  public internal(set) var pages: [Int32] = []
  /// How often its pages were taken away.
  public internal(set) var preemptions = 0
  var promise: Range<Int32> = 0..<0

  init(id: SequenceID, prompt: [Int32], maximumTokens: Int) {
    self.id = id
    self.prompt = prompt
    self.maximumTokens = maximumTokens
  }

  /// Pages that hold all it may ever store: the last token is never an input, so it needs no place.
  var mostPages: Int { Self.pages(for: prompt.count + maximumTokens - 1) }

  /// Prompt and output tokens.
  public var count: Int { prompt.count + output.count }

  /// True when rows of the prompt are still to be computed.
  public var isPrefilling: Bool { computed < prompt.count }

  /// The token at a position of prompt and output.
  public func token(at position: Int) -> Int32 {
    position < prompt.count ? prompt[position] : output[position - prompt.count]
  }

  /// Pages that hold `tokens` tokens.
  static func pages(for tokens: Int) -> Int { (tokens + KVPage.tokens - 1) / KVPage.tokens }
}
