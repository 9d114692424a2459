import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCore
import PolarSparsity

struct BenchMLPCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mlp",
    abstract:
      "Times a ReLU MLP alone: selective at several densities, dense and gather-then-dense, interleaved.",
    discussion: """
      Weights come from memory: every run uses another copy of them. Floor is the least time (weights read once at the
      machine's read rate, or multiplied at its peak) over the measured one. The break-even is the density at which the
      selective MLP with its router takes as long as the dense one: what a profile keeps as the most neurons that are
      worth selecting.
      """)

  @OptionGroup var place: DeviceOptions
  @Option(help: "Width of the residual stream.")
  var hidden = 2048
  @Option(help: "Neurons.")
  var neurons = 8192
  @Option(help: "Rank of the router; by default the one that calibration takes.")
  var rank: Int?
  @Option(help: "Batch sizes.")
  var batch = NumberList([1, 2, 4, 8, 16, 64])
  @Option(help: "Fractions of the neurons.")
  var density = NumberList([0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1])
  @Option(help: "Interleaved rounds.")
  var rounds = 7
  @Option(help: "Append JSON lines, with the conditions, to this file.")
  var json: String?

  private struct Line: Encodable {
    var conditions: BenchConditions
    var shape: MLPBench.Shape
    var result: MLPBench.Row
    var breakEven: Double
  }

  func validate() throws {
    guard hidden >= 2, hidden % 2 == 0, hidden <= 1 << 16, neurons >= 2, neurons % 2 == 0, neurons <= 1 << 20,
      rounds >= 1, batch.values.allSatisfy({ (1...4096).contains($0) }),
      rank.map({ $0 >= 2 && $0 % 2 == 0 && $0 <= 1 << 16 }) ?? true
    else {
      throw ValidationError(
        "hidden, neurons and rank must be even and positive, batch sizes between 1 and 4096")
    }
  }

  func run() throws {
    for value in density.values { try Density.validated(value) }
    let backend = try place.device.makeBackend()
    let limits = try Device.measureLimits(threads: place.threads)
    let shape = MLPBench.Shape(
      hidden: hidden, neurons: neurons, rank: rank ?? NeuronRouterWeights.defaultRank(hidden: hidden))
    print(
      "# \(processorName()), \(backend.name), \(fixed(limits.readBandwidth, 1)) GB/s, "
        + "\(fixed(limits.arithmeticPeak, 0)) GFLOP/s; hidden \(hidden), \(neurons) neurons, router rank \(shape.rank)"
    )
    let bench = MLPBench(backend, shape: shape, limits: limits)
    var table = TextTable([
      "batch", "density", "sparse ms", "dense ms", "ratio", "floor", "router ms", "gather+dense ms",
    ])
    var breakEvens: [String] = []
    var lines: [String] = []
    for size in batch.values {
      let rows = try bench.run(batch: size, densities: density.values.sorted(), rounds: rounds)
      for row in rows {
        table.add([
          "\(row.batch)", fixed(row.density, 2), fixed(row.seconds * 1e3, 3),
          fixed(row.denseSeconds * 1e3, 3), fixed(row.ratio, 3), fixed(row.floorFraction * 100, 0) + " %",
          fixed(row.routerSeconds * 1e3, 3), fixed(row.gatherSeconds * 1e3, 3),
        ])
      }
      let breakEven = MLPBench.breakEven(rows)
      breakEvens.append("\(size): \(fixed(breakEven, 2))")
      let conditions = BenchConditions(backend: backend.name, limits: limits)
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
      lines += try rows.map {
        String(
          decoding: try encoder.encode(
            Line(conditions: conditions, shape: shape, result: $0, breakEven: breakEven)), as: UTF8.self)
      }
    }
    print(table.text)
    print("break-even density by batch: " + breakEvens.joined(separator: ", "))
    if let json { try appendLines(lines, to: json) }
  }
}
