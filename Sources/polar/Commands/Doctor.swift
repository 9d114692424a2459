import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCUDA
import PolarCore
import PolarEngine
import PolarReference

struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract: "Tells what this machine is and can do; --selftest checks every op and whole decode steps.")

  @Flag(help: "Check every op against the reference, and decode steps of a model against the CPU.")
  var selftest = false
  @Option(help: "The model that --selftest decodes with; the demo's by default.")
  var model: String?
  @Option(help: "Decode steps of each mode that --selftest compares.")
  var steps = 300
  @Option(help: "Run only checks of the conformance suite whose name contains this, and no model.")
  var only: String?
  @Option(name: .customLong("kv"), help: "How the checks store K and V: bf16, or int8 (CPU).")
  var kvFormat = KVFormat.bf16
  @OptionGroup var place: DeviceOptions
  @Flag(help: "Print JSON.")
  var json = false

  func validate() throws {
    if steps < 1 { throw ValidationError("--steps: must be at least 1, is \(steps)") }
  }

  private struct Report: Encodable {
    var processor: String
    var cores: Int
    var backend: String
    var availableMemoryBytes: Int?
    var readBandwidthGBs: Double
    var arithmeticPeakGFLOPs: Double
    var cuda: [String]
    var selftestPassed: Int?
    var selftestFailed: [String]?
  }

  func run() throws {
    let cuda = CUDAReport()
    if !json { for line in cuda.lines { print("cuda        \(line)") } }
    let backend = try place.device.makeBackend(kv: kvFormat)
    let limits = try Device.measureLimits(threads: place.threads)
    var report = Report(
      processor: processorName(), cores: ProcessInfo.processInfo.activeProcessorCount,
      backend: backend.name, availableMemoryBytes: KVBudget.availableMemory(),
      readBandwidthGBs: limits.readBandwidth, arithmeticPeakGFLOPs: limits.arithmeticPeak,
      cuda: cuda.lines)
    if !json {
      print("processor   \(report.processor), \(report.cores) cores")
      print("backend     \(report.backend)")
      print("memory      \(report.availableMemoryBytes.map(bytesText) ?? "unknown") available to the CPU")
      print("bandwidth   \(fixed(limits.readBandwidth, 1)) GB/s read")
      print("arithmetic  \(fixed(limits.arithmeticPeak, 0)) GFLOP/s multiply-add")
    }
    if selftest {
      var failures: [String] = []
      let results = ConformanceSuite().run(backend, matching: only) { result in
        guard !result.passed else { return }
        failures.append("\(result.name): \(result.detail)")
      }
      if let only, results.isEmpty {
        throw PolarError.request(field: "only", reason: "no check's name contains '\(only)'")
      }
      if !json { print("ops         \(results.count - failures.count) of \(results.count) checks passed") }
      let checks =
        only != nil
        ? []
        : try DeviceSelfTest(backend, model: model.map { URL(fileURLWithPath: $0) }).run(steps: steps) {
          if !json { print("\($0.passed ? "ok    " : "FAILED")      \($0.name): \($0.detail)") }
        }
      for check in checks where !check.passed { failures.append("\(check.name): \(check.detail)") }
      report.selftestPassed = results.count + checks.count - failures.count
      report.selftestFailed = failures
      if !json {
        for failure in failures { print("FAILED      \(failure)") }
        let count = results.count + checks.count
        print("selftest    \(count - failures.count) of \(count) checks passed")
      }
    }
    if json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
      print(String(decoding: try encoder.encode(report), as: UTF8.self))
    }
    if report.selftestFailed?.isEmpty == false { throw ExitCode.failure }
  }
}

/// The processor's name as the system tells it.
func processorName() -> String {
  let info = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
  let line = info.split(separator: "\n").first { $0.hasPrefix("model name") }
  return line?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown"
}
