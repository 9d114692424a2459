/// What a caller asks of the engine: continue a prompt.
public struct GenerationRequest: Sendable, Equatable {
  /// A name for logs; the engine does not look at it.
  public var id: String
  /// Token ids of the prompt, special tokens included.
  public var promptTokens: [Int32]
  /// How tokens are chosen.
  public var parameters: SamplingParameters

  /// A request to continue `promptTokens`.
  public init(
    id: String = "", promptTokens: [Int32], parameters: SamplingParameters = SamplingParameters()
  ) {
    self.id = id
    self.promptTokens = promptTokens
    self.parameters = parameters
  }
}

/// Log probabilities (natural logarithm) of one step, from the model's logits before penalties and temperature.
public struct TokenLogprobs: Sendable, Equatable {
  /// One candidate token.
  public struct Entry: Sendable, Equatable {
    /// The token.
    public var token: Int32
    /// Its log probability.
    public var logprob: Float

    /// A token and its log probability.
    public init(token: Int32, logprob: Float) {
      self.token = token
      self.logprob = logprob
    }
  }

  /// The chosen token.
  public var chosen: Entry
  /// The most likely tokens, most likely first; ties go to the lower id.
  public var top: [Entry]

  /// The log probabilities of one step.
  public init(chosen: Entry, top: [Entry]) {
    self.chosen = chosen
    self.top = top
  }
}

/// What the stream of a request delivers.
public enum GenerationEvent: Sendable, Equatable {
  /// One generated token. `text` is what became certain with it: it may be empty (an incomplete character, or text
  /// that may be the beginning of a stop string) or span earlier tokens. All texts joined are the generated text.
  case token(id: Int32, text: String, logprobs: TokenLogprobs?)
  /// The last event of a request that did not fail.
  case finished(CompletionInfo)
}

/// How a request ended.
public struct CompletionInfo: Sendable, Equatable {
  /// Why a generation ended.
  public enum StopReason: String, Sendable {
    /// An end token, a stop token or a stop string.
    case stop
    /// `maxTokens`, or the end of the context.
    case length
    /// The engine was shut down.
    case cancelled
  }

  /// Tokens of the prompt.
  public var promptTokenCount: Int
  /// Generated tokens, the ending one included.
  public var generationTokenCount: Int
  /// Why it ended.
  public var stopReason: StopReason
  /// Seconds from the first step that worked on the prompt to the first token.
  public var promptTime: Double
  /// Seconds from the first token to the last.
  public var generateTime: Double
  /// How often its pages were taken away and it was computed again.
  public var preemptions: Int

  /// Tokens per second after the first one; 0 when there was one token or none.
  public var tokensPerSecond: Double {
    generateTime > 0 && generationTokenCount > 1 ? Double(generationTokenCount - 1) / generateTime : 0
  }

  /// The facts of a finished request.
  public init(
    promptTokenCount: Int, generationTokenCount: Int, stopReason: StopReason, promptTime: Double,
    generateTime: Double, preemptions: Int
  ) {
    self.promptTokenCount = promptTokenCount
    self.generationTokenCount = generationTokenCount
    self.stopReason = stopReason
    self.promptTime = promptTime
    self.generateTime = generateTime
    self.preemptions = preemptions
  }
}
