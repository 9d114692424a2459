import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCore

struct BenchLinearCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "linear",
    abstract: "Times linear layers on weights that come from memory, as fractions of the limit that binds.",
    discussion: """
      The least time of a layer is the larger of its weights' bytes over the read rate and its operations over the peak of
      the instruction set, both measured before each shape and format.
      """)

  @Option(help: "Shapes of weights, outputs x inputs.")
  var shape = NumberList<LayerShape>(
    ["576x576", "3072x576", "576x1536", "2048x8192", "4096x4096"].compactMap(LayerShape.init))
  @Option(help: "Formats of weights.")
  var format = NumberList<FormatName>([.bf16, .int8, .int4, .int4Affine].map(FormatName.init(format:)))
  @Option(help: "Rows of activations.")
  var batch = NumberList([1, 2, 4, 8, 16, 32, 64, 128])
  @Option(help: "Interleaved rounds.")
  var rounds = 9
  @Option(help: "Threads to compute with; all cores by default.")
  var threads: Int?
  @Option(help: "Append JSON lines, with the conditions, to this file.")
  var json: String?

  private struct Line: Encodable {
    var conditions: BenchConditions
    var result: LinearBench.Row
  }

  func validate() throws {
    guard rounds >= 1, batch.values.allSatisfy({ 1...65536 ~= $0 }) else {
      throw ValidationError("--rounds and --batch must be positive, --batch at most 65536")
    }
  }

  func run() throws {
    let backend = try Device.cpu(threads: threads).makeBackend()
    for name in format.values where !backend.weightFormats.contains(name.format) {
      throw PolarError.request(field: "format", reason: "\(backend.name) has no \(name) weights")
    }
    print("# \(processorName()), \(backend.name)")
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    for shape in shape.values {
      for name in format.values {
        // The limits of a shared machine drift: they are taken anew each time.
        let limits = try Device.measureLimits(threads: threads)
        let rows = try LinearBench(backend, limits: limits).run(
          outputs: shape.outputs, inputs: shape.inputs, format: name.format, batches: batch.values,
          rounds: rounds)
        let peak = name.format == .bf16 ? limits.arithmeticPeak : limits.integerPeak
        print(
          "\(shape) \(name): \(fixed(limits.readBandwidth, 1)) GB/s read, \(fixed(peak, 0)) GOP/s peak")
        var table = TextTable(["batch", "us", "GB/s", "GOP/s", "of limit", "limit"])
        for row in rows {
          table.add([
            "\(row.batch)", fixed(row.seconds * 1e6, 1), fixed(row.bandwidth, 1), fixed(row.arithmetic, 0),
            fixed(row.fractionOfLimit * 100, 0) + " %", row.limit,
          ])
        }
        print(table.text)
        if let json {
          let conditions = BenchConditions(backend: backend.name, limits: limits)
          try appendLines(
            rows.map {
              String(
                decoding: try encoder.encode(Line(conditions: conditions, result: $0)), as: UTF8.self)
            }, to: json)
        }
      }
    }
  }
}

/// `outputs x inputs` of a weight, such as `4096x4096`.
struct LayerShape: LosslessStringConvertible, Sendable {
  let outputs: Int
  let inputs: Int
  var description: String { "\(outputs)x\(inputs)" }

  init?(_ text: String) {
    let parts = text.split(separator: "x").map { Int($0) }
    guard parts.count == 2, let outputs = parts[0], let inputs = parts[1] else { return nil }
    guard 1...1 << 20 ~= outputs, 2...1 << 19 ~= inputs, inputs % 2 == 0 else { return nil }
    self.outputs = outputs
    self.inputs = inputs
  }
}

/// A weight format by its name.
struct FormatName: LosslessStringConvertible, Sendable {
  let format: WeightFormat
  var description: String { "\(format)" }

  init(format: WeightFormat) { self.format = format }

  init?(_ text: String) {
    guard let format = WeightFormat.allCases.first(where: { "\($0)" == text }) else { return nil }
    self.format = format
  }
}
