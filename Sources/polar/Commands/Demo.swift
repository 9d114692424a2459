import ArgumentParser
import Polar
import PolarBench
import PolarCore
import PolarSparsity

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract: "Continues a batch of prompts with the embedded model, dense beside head-sparse; needs nothing."
  )

  @Option(help: "Sequences in the batch.")
  var batch = 64
  @Option(help: "Tokens to decode of each sequence.")
  var steps = 32
  @Option(help: "Mean fraction of heads computed in full in the sparse layers.")
  var density = 0.5
  @Option(help: "Seed of the sampling.")
  var seed: UInt64 = 1
  @Option(help: "Threads to compute with; all cores by default.")
  var threads: Int?

  func validate() throws {
    guard (1...64).contains(batch) else { throw ValidationError("--batch: must be between 1 and 64") }
    guard (2...256).contains(steps) else { throw ValidationError("--steps: must be between 2 and 256") }
  }

  func run() throws {
    try Density.validated(density)
    var options = Demo.Options()
    options.batch = batch
    options.steps = steps
    options.density = density
    options.seed = seed
    options.threads = threads
    var progress = ProgressPrinter()
    let report = try Demo(options: options).run { stage, fraction in
      progress.report(stage, fraction: fraction)
    }
    show(report)
  }

  private func show(_ report: Demo.Report) {
    print("\(report.model); \(report.backend)")
    print(
      "\(report.batch) prompts of \(report.promptTokens.lowerBound) to \(report.promptTokens.upperBound) tokens "
        + "(prefilled in \(fixed(report.prefillSeconds, 1)) s), each continued by \(steps) tokens\n")
    for (index, prompt) in report.prompts.enumerated() {
      print("...\(oneLine(prompt))")
      print("  dense   |\(oneLine(report.dense.texts[index]))")
      print("  sparse  |\(oneLine(report.sparse.texts[index]))\n")
    }
    var table = TextTable(["", "dense", "sparse", "dense / sparse"])
    let (dense, sparse) = (report.dense, report.sparse)
    table.add([
      "tokens/s", fixed(dense.tokensPerSecond, 0), fixed(sparse.tokensPerSecond, 0),
      fixed(report.speedup, 2) + "x faster",
    ])
    table.add([
      "ms per step", fixed(dense.stepSeconds * 1e3, 2), fixed(sparse.stepSeconds * 1e3, 2), "",
    ])
    for part in ProfilingBackend.Part.allCases {
      let (left, right) = (dense.breakdown[part] ?? 0, sparse.breakdown[part] ?? 0)
      table.add(["  " + part.title, fixed(left * 1e3, 2), fixed(right * 1e3, 2), ""])
    }
    table.add([
      "heads computed in full", fixed(dense.density * 100, 1) + " %",
      fixed(sparse.density * 100, 1) + " %", "layer 0 is dense",
    ])
    table.add(["perplexity", fixed(dense.perplexity, 2), fixed(sparse.perplexity, 2), ""])
    print(table.text)
  }

  private func oneLine(_ text: String) -> String {
    String(text.map { $0.isNewline ? " " : $0 })
  }
}
