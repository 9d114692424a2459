import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCalibration
import PolarCore
import PolarSparsity

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract:
      "Continues batches of prompts with the embedded model in all four modes; needs nothing.",
    discussion: """
      dense computes everything; mlp the MLP neurons that routers expect to be active in the batch; heads the attention heads
      that routers expect to matter to each sequence; polar both. The modes alternate on the same prompts.
      """)

  @Option(help: "Sequences in the batch: one or more sizes.")
  var batch = NumberList([1, 8, 64])
  @Option(help: "Tokens to decode of each sequence.")
  var steps = 32
  @Option(help: "Mean fraction of heads computed in full in the layers whose heads are chosen.")
  var density = 0.5
  @Option(help: "Seed of the sampling.")
  var seed: UInt64 = 1
  @Option(help: "Threads to compute with; all cores by default.")
  var threads: Int?
  @Option(help: "Also draw the table into this SVG file.")
  var svg: String?

  func validate() throws {
    guard !batch.values.isEmpty, batch.values.allSatisfy({ (1...64).contains($0) }) else {
      throw ValidationError("--batch: sizes must be between 1 and 64")
    }
    guard (2...256).contains(steps) else { throw ValidationError("--steps: must be between 2 and 256") }
  }

  func run() throws {
    try Density.validated(density)
    if let svg { try checkWritable(svg) }
    var options = Demo.Options()
    options.batches = Set(batch.values).sorted()
    options.steps = steps
    options.density = density
    options.seed = seed
    options.threads = threads
    var progress = ProgressPrinter()
    let report = try Demo(options: options).run { stage, fraction in
      progress.report(stage, fraction: fraction)
    }
    show(report)
    if let svg {
      do {
        try Data(report.svg.file.utf8).write(to: URL(fileURLWithPath: svg), options: .atomic)
      } catch {
        throw PolarError.file(path: svg, reason: "cannot be written")
      }
      print("\nwrote \(svg)")
    }
  }

  private func show(_ report: Demo.Report) {
    print("\(report.model); \(report.backend)")
    print(
      "\(report.sequences) prompts of \(report.promptTokens.lowerBound) to \(report.promptTokens.upperBound) tokens "
        + "(prefilled in \(fixed(report.prefillSeconds, 1)) s), each continued by \(steps) tokens\n")
    for (index, prompt) in report.prompts.enumerated() {
      print("...\(oneLine(prompt))")
      for mode in report.modes {
        let name = mode.rawValue + String(repeating: " ", count: max(0, 6 - mode.rawValue.count))
        print("  \(name)|\(oneLine(report.texts[mode]?[index] ?? ""))")
      }
      print("")
    }
    print(table(report).text + "\n")
    print(chart(report))
    print(
      "\nSpeed: median over interleaved steps; attention, linear and routing: their mean ms. Perplexity: "
        + "\(report.scoredTokens) tokens of\nthe books' own continuations, decoded teacher-forced in batches of that size. "
        + "The heads of layer 0 are always dense;\nlayers whose MLP is faster dense run dense.")
  }

  private func table(_ report: Demo.Report) -> TextTable {
    var table = TextTable([
      "batch", "mode", "tokens/s", "x dense", "ms/step", "attention", "linear", "routing", "heads", "neurons",
      "perplexity",
    ])
    func part(_ row: Demo.Row, _ part: ProfilingBackend.Part) -> String {
      fixed((row.breakdown[part.title] ?? 0) * 1e3, 2)
    }
    for row in report.rows {
      table.add([
        row.mode == .dense ? String(row.batch) : "", row.mode.rawValue, fixed(row.tokensPerSecond, 0),
        fixed(row.speedup, 2), fixed(row.stepSeconds * 1e3, 2), part(row, .attention), part(row, .linear),
        part(row, .routing), fixed(row.heads * 100, 0) + " %", fixed(row.neurons * 100, 0) + " %",
        fixed(row.perplexity, 2),
      ])
    }
    return table
  }

  /// Speed over dense as bars: a block per mode, a bar per batch size.
  private func chart(_ report: Demo.Report) -> String {
    var lines = ["times as fast as dense"]
    let scale = 24.0
    for mode in report.modes where mode != .dense {
      for batch in report.batches {
        guard let row = report.row(mode, batch: batch) else { continue }
        let filled = max(0, Int((row.speedup * scale).rounded()))
        let bar = String(repeating: "#", count: min(72, filled))
        let name = batch == report.batches.first ? mode.rawValue : ""
        lines.append(
          name + String(repeating: " ", count: 7 - name.count)
            + String(repeating: " ", count: max(0, 3 - String(batch).count)) + "\(batch) |\(bar) "
            + fixed(row.speedup, 2))
      }
    }
    return lines.joined(separator: "\n")
  }

  private func oneLine(_ text: String) -> String {
    String(text.map { $0.isNewline ? " " : $0 })
  }
}
