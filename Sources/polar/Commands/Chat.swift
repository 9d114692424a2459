import ArgumentParser
import Foundation
import Polar
import PolarEngine
import PolarTokenizer

struct ChatCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "chat", abstract: "Talks with a model in the terminal; an empty line or Ctrl-D ends it.")

  @OptionGroup var model: ModelOptions
  @OptionGroup var sparsity: SparsityOptions
  @OptionGroup var sampling: SamplingOptions

  @Option(help: "A system message.")
  var system: String?

  func run() async throws {
    try sampling.parameters.validate()
    let progress = ProgressPrinter()
    let language = try await LanguageModel.load(
      from: model.url, sparsity: sparsity.setting, weights: model.weights, device: model.device,
      limits: .init(sequences: 1, kvFormat: model.kvFormat))
    let format = try language.loaded.chatFormat()
    progress.note(capacityLine(language))
    var parameters = sampling.parameters
    parameters.stop += format.stopStrings
    var messages: [ChatMessage] = []
    if let system { messages.append(ChatMessage(role: .system, content: system)) }
    let isTerminal = isatty(STDIN_FILENO) == 1
    while true {
      if isTerminal { try emit("> ") }
      guard let line = readLine(), !line.allSatisfy(\.isWhitespace) else { break }
      messages.append(ChatMessage(role: .user, content: line))
      let prompt = format.encode(try format.render(messages: messages), with: language.loaded.tokenizer)
      var answer = ""
      for try await event in try await language.generate(tokens: prompt, parameters: parameters) {
        switch event {
        case .text(let text):
          try emit(text)
          answer += text
        case .finished(let info):
          try emit("\n")
          if isTerminal { progress.note(summaryLine(info)) }
        }
      }
      messages.append(ChatMessage(role: .assistant, content: answer))
    }
  }
}
