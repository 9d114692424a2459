import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarTokenizer

struct PerplexityCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "perplexity",
    abstract: "Perplexity of a text under the dense model, by disjoint windows.",
    discussion: """
      The text is tokenised as one; windows of --window tokens do not overlap; the first token of a window is not scored.
      For sparse decoding see the quality curve of `polar calibrate`.
      """)

  @OptionGroup var model: ModelOptions
  @Option(help: "A UTF-8 text file.")
  var text: String
  @Option(help: "Tokens of one window.")
  var window = 512
  @Option(help: "Score the first N tokens only.")
  var tokens: Int?

  func validate() throws {
    guard window >= 2, tokens.map({ $0 >= 2 }) ?? true else {
      throw ValidationError("--window and --tokens must be at least 2")
    }
  }

  func run() throws {
    let backend = try model.makeBackend()
    let loaded = try ModelLoader.load(
      from: model.url, precision: model.weights, on: backend, neuronSparse: false)
    var ids = loaded.tokenizer.encode(try readText(text))
    if let tokens { ids = Array(ids.prefix(tokens)) }
    guard window <= loaded.model.config.context else {
      throw PolarError.request(
        field: "window", reason: "\(window) exceeds the model's context of \(loaded.model.config.context)")
    }
    let runner = try ModelRunner(
      model: loaded.model, backend: backend, cachePages: window / KVPage.tokens + 1,
      maximumRows: window, maximumSequences: 1, maximumContext: window, maximumLogitRows: window)
    var progress = ProgressPrinter()
    let result = try Perplexity(window: window).measure(ids, runner: runner) { fraction in
      progress.report("perplexity", fraction: fraction)
    }
    print(
      "perplexity \(fixed(result.perplexity, 4)) over \(result.scoredTokens) tokens, windows of \(window) "
        + "(\(fixed(Double(result.scoredTokens) / result.seconds, 0)) tokens/s)")
  }
}
