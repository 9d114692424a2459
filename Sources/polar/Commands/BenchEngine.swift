import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCore
import PolarEngine
import PolarTokenizer

struct BenchEngineCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "engine",
    abstract: "Time of a decode step of the whole engine, and how much of it is not spent in ops.",
    discussion: """
      Greedy requests of one prompt decode together. The host's part is the wall time of a step less the time of its ops:
      scheduling, staging, sampling, detokenising and delivery of tokens.
      """)

  @OptionGroup var model: ModelOptions
  @Option(help: "Sequences.")
  var batch = 8
  @Option(help: "Prompt tokens of each sequence.")
  var context = 256
  @Option(help: "Timed steps.")
  var steps = 128
  @Option(help: "Runs, one after the other.")
  var runs = 3

  func run() async throws {
    let backend = try model.makeBackend()
    let loaded = try ModelLoader.load(from: model.url, on: backend)
    let tokenizer = loaded.tokenizer
    guard let books = Demo.resources?.appendingPathComponent("prompts.txt").path else {
      throw PolarError.file(path: "demo resources", reason: "are missing beside the executable")
    }
    let prompt = Array(tokenizer.encode(try readText(books)).prefix(context))
    guard prompt.count == context else {
      throw PolarError.request(field: "context", reason: "is not between 1 and \(prompt.count)")
    }
    print("     B     PP   steps    step ms     ops ms    host us    host")
    for _ in 0..<runs {
      let result = try await EngineBench.run(
        model: loaded.model, backend: backend, prompt: prompt, batch: batch, steps: steps,
        text: { StreamingDecoder(tokenizer: tokenizer) })
      let host = (result.stepSeconds - result.opSeconds) * 1e6
      print(
        String(
          format: "%6d %6d %7d %10.3f %10.3f %10.0f %6.2f %%", result.batch, result.promptTokens,
          result.steps,
          result.stepSeconds * 1e3, result.opSeconds * 1e3, host, result.hostShare * 100))
    }
  }
}
