import ArgumentParser
import Foundation
import Polar
import PolarCalibration
import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarSparsity
import PolarTokenizer

struct CalibrateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "calibrate",
    abstract:
      "Learns a model's sparsity profile from text: routers, thresholds, and a measured quality curve.",
    discussion: """
      Runs the text through the dense model, trains small routers of each layer's heads and, where the MLP is a ReLU, of its
      neurons, finds thresholds and budgets, and measures perplexity and divergence through the decode path that serves. Without --held-out the last fifth of the text is held out.
      Writes the profile, and beside it an HTML report.
      """)

  @OptionGroup var model: ModelOptions
  @Option(parsing: .upToNextOption, help: "UTF-8 text files to calibrate on.")
  var text: [String]
  @Option(name: .customLong("held-out"), help: "A UTF-8 text file to measure quality on.")
  var heldOut: String?
  @Option(name: .shortAndLong, help: "The profile to write.")
  var output: String
  @Option(help: "Calibration tokens to use at most.")
  var tokens = 60_000
  @Option(help: "Mean densities to measure.")
  var density = NumberList([0.75, 0.56, 0.5, 0.34, 0.25])
  @Option(help: "Pages of 16 tokens at the end of a sequence that unselected heads attend to.")
  var recentPages = 4
  @Flag(help: "Routers see the block input alone: steps are a little faster, choices less faithful.")
  var plainRouters = false
  @Option(
    help:
      "Gigabytes of this machine's memory that recorded samples may take; an eighth of it, or 3, if not given."
  )
  var memory: Double?
  @Option(
    help: "Gigabytes of a GPU's memory that recorded samples may take; half of what is free if not given.")
  var deviceMemory: Double?
  @Option(help: "Seed of the training.")
  var seed: UInt64 = 1

  func validate() throws {
    guard !text.isEmpty else { throw ValidationError("--text needs at least one file") }
    guard (1...1_000_000_000).contains(tokens) else {
      throw ValidationError("--tokens: must be at least 1, is \(tokens)")
    }
    for (name, value) in [("--memory", memory ?? 1), ("--device-memory", deviceMemory ?? 1)] {
      guard (0.001...1_000_000).contains(value) else {
        throw ValidationError("\(name): must be between 0.001 and 1000000, is \(value)")
      }
    }
    guard (1...64).contains(recentPages) else {
      throw ValidationError("--recent-pages: must be between 1 and 64, is \(recentPages)")
    }
  }

  func run() throws {
    for value in density.values { try Density.validated(value) }
    let page = URL(fileURLWithPath: output).deletingPathExtension().appendingPathExtension("html")
    guard page.path != URL(fileURLWithPath: output).path else {
      throw PolarError.file(
        path: output, reason: "is where the HTML report goes; the profile needs another name")
    }
    for path in [output, page.path] { try checkWritable(path) }
    let backend = try model.makeBackend()
    let loaded = try ModelLoader.load(
      from: model.url, precision: model.weights, on: backend)
    var ids = loaded.tokenizer.encode(try text.map(readText).joined(separator: "\n\n"))
    let held: [Int32]
    if let heldOut {
      held = loaded.tokenizer.encode(try readText(heldOut))
    } else {
      let cut = ids.count * 4 / 5
      held = Array(ids[cut...])
      ids = Array(ids[..<cut])
    }
    var options = Calibrator.Options()
    options.tokens = tokens
    options.recentPages = recentPages
    options.memoryLimit =
      memory.map { Int($0 * 1e9) }
      ?? max(options.memoryLimit, Int(clamping: ProcessInfo.processInfo.physicalMemory / 8))
    options.deviceMemoryLimit = deviceMemory.map { Int($0 * 1e9) }
    options.trainer.seed = seed
    // No gain is infinite, so local features are never taken.
    if plainRouters { options.trainer.localGain = .infinity }
    options.curve.densities = density.values
    let start = ContinuousClock.now
    let printer = LockedProgress()
    let result = try Calibrator(options: options).run(
      model: loaded.model, fingerprint: loaded.fingerprint, text: ids, heldOut: held, on: backend,
      progress: { printer.report($0) }, planned: { print($0.summary) })
    try result.profile.write(to: output)
    let report = QualityReport(
      result.profile, statistics: result.statistics, title: model.url.lastPathComponent)
    print(report.table)
    if result.profile.neurons == nil {
      print(
        "the MLP stays dense: its activation, \(loaded.model.config.activation.rawValue), leaves no neuron at zero"
      )
    }
    do {
      try Data(report.page.utf8).write(to: page, options: .atomic)
    } catch {
      throw PolarError.file(path: page.path, reason: "cannot be written")
    }
    let seconds = (ContinuousClock.now - start).components.seconds
    print("wrote \(output) and \(page.path) in \(seconds / 60) min \(seconds % 60) s")
  }
}

/// A progress line that any thread may update.
private final class LockedProgress: @unchecked Sendable {
  // Guarded by `lock`.
  private var printer = ProgressPrinter()
  private let lock = NSLock()

  func report(_ progress: CalibrationProgress) {
    lock.lock()
    defer { lock.unlock() }
    let left = Int(progress.secondsLeft.rounded())
    printer.report(
      progress.stage.rawValue, fraction: progress.fraction,
      detail: "\(fixed(progress.rate, progress.rate < 10 ? 1 : 0))/s, \(left) s left")
  }
}
