public import PolarCore
public import PolarEngine
import PolarFormats
import PolarModels

/// Perplexity of a text under the dense model, by disjoint windows (the convention of Hugging Face's documentation with
/// stride = window): tokens are cut into windows, the first token of each is context only, and
/// perplexity = exp(sum of negative log likelihoods / scored tokens).
public struct Perplexity: Sendable {
  /// What was measured.
  public struct Result: Sendable, Equatable, Codable {
    /// exp of the mean negative log likelihood.
    public var perplexity: Double
    /// Tokens scored.
    public var scoredTokens: Int
    /// Seconds it took.
    public var seconds: Double
  }

  private let window: Int

  /// Windows of `window` tokens.
  public init(window: Int) { self.window = window }

  /// Scores `tokens` with `runner`, whose limits must allow `window` logit rows. A last window of one token is dropped.
  /// - Throws: ``PolarError/request(field:reason:)`` when there is nothing to score.
  public func measure(
    _ tokens: [Int32], runner: ModelRunner, progress: (Double) -> Void = { _ in }
  ) throws(PolarError) -> Result {
    guard window >= 2, window <= runner.maximumContext, window <= runner.maximumLogitRows else {
      throw .request(
        field: "window",
        reason: "\(window) is not between 2 and the context of \(runner.maximumContext)")
    }
    guard tokens.count >= 2 else {
      throw .request(field: "text", reason: "\(tokens.count) tokens leave nothing to score")
    }
    let pages = (0..<Int32((window + KVPage.tokens - 1) / KVPage.tokens)).map { $0 }
    let vocabulary = runner.model.config.vocabulary
    var loss = 0.0
    var scored = 0
    let elapsed = PolarBench.seconds {
      for start in stride(from: 0, to: tokens.count - 1, by: window) {
        let part = Array(tokens[start..<min(tokens.count, start + window)])
        guard part.count >= 2 else { break }
        let logits = runner.forward(
          [RowSpan(tokens: part, pages: pages, logits: .all)], kind: .prefill)  // [part, vocabulary]
        for position in 0..<part.count - 1 {
          let row = UnsafeBufferPointer(
            rebasing: logits[position * vocabulary..<(position + 1) * vocabulary])
          loss += negativeLogLikelihood(row, of: Int(part[position + 1]))
        }
        scored += part.count - 1
        progress(Double(start + part.count) / Double(tokens.count))
      }
    }
    return Result(
      perplexity: Self.of(loss: loss, tokens: scored), scoredTokens: scored, seconds: elapsed)
  }

  /// exp of the mean of a summed negative log likelihood; NaN of no tokens.
  public static func of(loss: Double, tokens: Int) -> Double {
    tokens > 0 ? exponential(loss / Double(tokens)) : .nan
  }
}
