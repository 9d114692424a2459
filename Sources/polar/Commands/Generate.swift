import ArgumentParser
import Foundation
import Polar
import PolarCore
import PolarEngine
import PolarModels

struct GenerateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "generate",
    abstract: "Continues one prompt, or many prompts in one batch.",
    discussion: """
      With --prompts, FILE holds one JSON object a line: {"prompt": "..."} and optionally "id" and "max_tokens"; results
      are JSON lines {"id", "text", "tokens", "stop_reason"} in the order of the input; an id is a string or a whole number.
      """)

  @OptionGroup var model: ModelOptions
  @OptionGroup var sparsity: SparsityOptions
  @OptionGroup var sampling: SamplingOptions

  @Option(name: .shortAndLong, help: "The text to continue.")
  var prompt: String?
  @Option(help: "A file of prompts, one JSON object a line.")
  var prompts: String?
  @Option(help: "The most sequences in one step.")
  var batch = 64
  @Option(help: "The longest context in tokens; the model's own by default.")
  var context: Int?

  func validate() throws {
    guard (prompt == nil) != (prompts == nil) else {
      throw ValidationError("give either --prompt or --prompts")
    }
    guard (1...4096).contains(batch) else {
      throw ValidationError("--batch: must be between 1 and 4096, is \(batch)")
    }
    if let context, context < 1 {
      throw ValidationError("--context: must be at least 1, is \(context)")
    }
  }

  func run() async throws {
    try sampling.parameters.validate()
    let requests = try prompts.map(readPrompts)
    let progress = ProgressPrinter()
    let language = try await LanguageModel.load(
      from: model.url, sparsity: sparsity.setting, weights: model.weights, device: model.device,
      limits: .init(
        sequences: requests.map { min(batch, max(1, $0.count)) } ?? 1, context: context,
        kvFormat: model.kvFormat))
    let loaded = ProcessFacts.age
    progress.note(capacityLine(language))
    var firstText: Double?
    if let requests {
      try await generateAll(requests, with: language, progress: progress)
    } else if let prompt {
      firstText = try await generateOne(prompt, with: language, progress: progress)
    }
    progress.note(
      startLine(
        loaded: loaded, firstText: firstText, weightBytes: language.loaded.model.weightByteCount))
  }

  /// Prints the text as it comes; returns the process's age at the first of it.
  private func generateOne(
    _ prompt: String, with language: LanguageModel, progress: borrowing ProgressPrinter
  ) async throws -> Double? {
    var firstText: Double?
    for try await event in try await language.generate(prompt, parameters: sampling.parameters) {
      switch event {
      case .text(let text):
        try emit(text)
        if firstText == nil { firstText = ProcessFacts.age }
      case .finished(let info):
        try emit("\n")
        progress.note(summaryLine(info))
      }
    }
    return firstText
  }

  private enum Identifier: Codable, CustomStringConvertible {
    case text(String)
    case number(Int)

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let number = try? container.decode(Int.self) {
        self = .number(number)
      } else {
        self = .text(try container.decode(String.self))
      }
    }

    func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      switch self {
      case .text(let text): try container.encode(text)
      case .number(let number): try container.encode(number)
      }
    }

    var description: String {
      switch self {
      case .text(let text): text
      case .number(let number): String(number)
      }
    }
  }

  private struct PromptLine: Decodable {
    var id: Identifier?
    var prompt: String
    var maxTokens: Int?

    // The field names users of vLLM know.
    enum CodingKeys: String, CodingKey {
      case id, prompt
      case maxTokens = "max_tokens"
    }

    /// What is wrong with a line that cannot be decoded.
    static func fault(_ error: any Error) -> String {
      switch error as? DecodingError {
      case .keyNotFound: "has no \"prompt\""
      case .dataCorrupted(let context), .typeMismatch(_, let context), .valueNotFound(_, let context):
        switch context.codingPath.first.flatMap({ CodingKeys(stringValue: $0.stringValue) }) {
        case .prompt: "has a \"prompt\" that is not a string"
        case .id: "has an \"id\" that is neither a string nor a whole number"
        case .maxTokens: "has a \"max_tokens\" that is not a whole number"
        case nil: "is not the JSON object that --help describes"
        }
      default: "cannot be read: \(error)"
      }
    }
  }

  private struct ResultLine: Encodable {
    var id: Identifier
    var text: String
    var tokens: Int
    var stopReason: String

    enum CodingKeys: String, CodingKey {
      case id, text, tokens
      case stopReason = "stop_reason"
    }
  }

  private func readPrompts(_ path: String) throws -> [PromptLine] {
    // Bytes, since a line may end with a carriage return, too, and characters of JSON strings look like line ends.
    let lines = try readText(path).utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    let prompts = try lines.enumerated().compactMap { number, line -> PromptLine? in
      guard !line.allSatisfy(" \t\r".utf8.contains) else { return nil }
      do {
        return try JSONDecoder().decode(PromptLine.self, from: Data(line))
      } catch {
        throw PolarError.malformed(path: path, reason: "line \(number + 1) \(PromptLine.fault(error))")
      }
    }
    guard !prompts.isEmpty else { throw PolarError.malformed(path: path, reason: "no prompts") }
    return prompts
  }

  private func generateAll(
    _ prompts: [PromptLine], with language: LanguageModel, progress: borrowing ProgressPrinter
  ) async throws {
    let start = ContinuousClock.now
    let base = sampling.parameters
    let results = try await withThrowingTaskGroup(of: (Int, ResultLine).self) { group in
      for (index, line) in prompts.enumerated() {
        var parameters = base
        if let most = line.maxTokens { parameters.maxTokens = most }
        let id = line.id ?? .text(String(index))
        let stream: AsyncThrowingStream<LanguageModel.Event, any Error>
        do {
          // Submitted in order, so that the first prompts start first.
          stream = try await language.generate(line.prompt, parameters: parameters)
        } catch PolarError.request(let field, let reason) {
          throw PolarError.request(field: "prompt '\(id)': \(field)", reason: reason)
        }
        group.addTask {
          var text = ""
          for try await event in stream {
            switch event {
            case .text(let piece): text += piece
            case .finished(let info):
              return (
                index,
                ResultLine(
                  id: id, text: text, tokens: info.generation.generationTokenCount,
                  stopReason: info.generation.stopReason.rawValue)
              )
            }
          }
          throw PolarError.request(field: "prompt '\(id)'", reason: "ended without a result")
        }
      }
      var results = [ResultLine?](repeating: nil, count: prompts.count)
      for try await (index, line) in group { results[index] = line }
      return results.compactMap { $0 }
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    for line in results {
      try emit(String(decoding: try encoder.encode(line), as: UTF8.self) + "\n")
    }
    let elapsed = ContinuousClock.now - start
    let seconds = Double(elapsed.components.seconds) + Double(elapsed.components.attoseconds) * 1e-18
    let tokens = results.reduce(0) { $0 + $1.tokens }
    progress.note(
      "\(results.count) prompts, \(tokens) tokens in \(fixed(seconds, 1)) s "
        + "(\(fixed(Double(tokens) / seconds, 1)) tokens/s, prefill included)")
  }
}

/// What the cache holds, in one line.
func capacityLine(_ language: LanguageModel) -> String {
  "KV cache: \(language.kvTokens) tokens in \(bytesText(language.kvBytes))"
}

/// Rates of one finished request, in one line.
func summaryLine(_ info: LanguageModel.Info) -> String {
  let generation = info.generation
  let heads =
    info.headDensity < 1
    ? ", \(fixed(info.headDensity * 100, 1)) % of heads computed in full" : ""
  let neurons =
    info.neuronDensity < 1
    ? ", \(fixed(info.neuronDensity * 100, 1)) % of neurons computed" : ""
  return
    "\(generation.promptTokenCount) prompt tokens in \(fixed(generation.promptTime, 2)) s, "
    + "\(generation.generationTokenCount) tokens at \(fixed(generation.tokensPerSecond, 1)) tokens/s, "
    + "ended by \(generation.stopReason.rawValue)\(heads)\(neurons)"
}
