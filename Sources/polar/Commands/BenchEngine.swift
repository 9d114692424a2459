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

  func validate() throws {
    guard 1...4096 ~= batch, context >= 1, 1...1_000_000 ~= steps, runs >= 1 else {
      throw ValidationError(
        "--batch must be between 1 and 4096, --context, --steps and --runs at least 1, --steps at most 1000000"
      )
    }
  }

  func run() async throws {
    let backend = try model.makeBackend()
    let loaded = try ModelLoader.load(from: model.url, precision: model.weights, on: backend)
    let tokenizer = loaded.tokenizer
    let prompt = Array(tokenizer.encode(try readText(Demo.folder().path + "/prompts.txt")).prefix(context))
    guard prompt.count == context else {
      throw PolarError.request(
        field: "context", reason: "\(context) is more than the books' \(prompt.count) tokens")
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
