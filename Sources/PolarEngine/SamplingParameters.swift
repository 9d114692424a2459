public import PolarCore

/// How the tokens of one request are chosen and when it ends. Semantics follow vLLM's parameters of the same names.
///
/// Order of work on a row of logits: penalties, temperature, min-p, top-k, top-p (over what the earlier filters left,
/// renormalised), one draw.
public struct SamplingParameters: Sendable, Equatable {
  /// The most tokens to generate; generation also ends where the context does.
  public var maxTokens: Int
  /// Divides the logits; 0 takes the most likely token (greedy).
  public var temperature: Float
  /// Keeps the `topK` most likely tokens; 0 keeps all.
  public var topK: Int
  /// Keeps the fewest most likely tokens whose probability is at least this, in (0, 1]; 1 keeps all.
  public var topP: Float
  /// Keeps tokens at least this many times as likely as the most likely one, in [0, 1]; 0 keeps all.
  public var minP: Float
  /// Divides positive and multiplies negative logits of tokens in the prompt or the output; 1 changes nothing.
  public var repetitionPenalty: Float
  /// Subtracted from the logits of tokens in the output, in [-2, 2].
  public var presencePenalty: Float
  /// Subtracted once per occurrence from the logits of tokens in the output, in [-2, 2].
  public var frequencyPenalty: Float
  /// Makes the draws repeatable, whatever else is in the batch; nil draws a fresh seed.
  public var seed: UInt64?
  /// Strings that end the generation; they are not part of the text.
  public var stop: [String]
  /// Tokens that end the generation, besides the model's own end tokens.
  public var stopTokens: [Int32]
  /// Reports the log probability of each chosen token and of this many most likely ones, at most
  /// ``maximumLogprobs``; nil reports none.
  public var logprobs: Int?
  /// Goes on after the model's end tokens.
  public var ignoreEOS: Bool

  /// The largest value of ``logprobs``.
  public static let maximumLogprobs = 20

  /// Parameters; the defaults are greedy.
  public init(
    maxTokens: Int = 256, temperature: Float = 0, topK: Int = 0, topP: Float = 1, minP: Float = 0,
    repetitionPenalty: Float = 1, presencePenalty: Float = 0, frequencyPenalty: Float = 0,
    seed: UInt64? = nil, stop: [String] = [], stopTokens: [Int32] = [], logprobs: Int? = nil,
    ignoreEOS: Bool = false
  ) {
    self.maxTokens = maxTokens
    self.temperature = temperature
    self.topK = topK
    self.topP = topP
    self.minP = minP
    self.repetitionPenalty = repetitionPenalty
    self.presencePenalty = presencePenalty
    self.frequencyPenalty = frequencyPenalty
    self.seed = seed
    self.stop = stop
    self.stopTokens = stopTokens
    self.logprobs = logprobs
    self.ignoreEOS = ignoreEOS
  }

  /// True when a penalty changes logits.
  var hasPenalties: Bool {
    repetitionPenalty != 1 || presencePenalty != 0 || frequencyPenalty != 0
  }

  /// Throws ``PolarError/request(field:reason:)`` with the name of the first field that is out of its range.
  public func validate() throws(PolarError) {
    try Self.require(maxTokens >= 1, "maxTokens", "must be at least 1, is \(maxTokens)")
    try Self.require(
      temperature.isFinite && temperature >= 0, "temperature", "must be 0 or more, is \(temperature)")
    try Self.require(topK >= 0, "topK", "must be 0 (all) or more, is \(topK)")
    try Self.require(topP > 0 && topP <= 1, "topP", "must be over 0 and at most 1, is \(topP)")
    try Self.require(minP >= 0 && minP <= 1, "minP", "must be between 0 and 1, is \(minP)")
    try Self.require(
      repetitionPenalty.isFinite && repetitionPenalty > 0, "repetitionPenalty",
      "must be over 0, is \(repetitionPenalty)")
    try Self.require(
      abs(presencePenalty) <= 2, "presencePenalty", "must be between -2 and 2, is \(presencePenalty)")
    try Self.require(
      abs(frequencyPenalty) <= 2, "frequencyPenalty", "must be between -2 and 2, is \(frequencyPenalty)")
    try Self.require(!stop.contains(""), "stop", "has an empty string")
    if let logprobs {
      try Self.require(
        logprobs >= 0 && logprobs <= Self.maximumLogprobs, "logprobs",
        "must be between 0 and \(Self.maximumLogprobs), is \(logprobs)")
    }
  }

  private static func require(
    _ condition: Bool, _ field: String, _ reason: @autoclosure () -> String
  ) throws(PolarError) {
    // NaN fails every comparison above, so it ends here too.
    if !condition { throw .request(field: field, reason: reason()) }
  }
}
