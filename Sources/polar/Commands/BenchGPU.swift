import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCalibration
import PolarCore
import PolarFormats

struct BenchGPUCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "gpu",
    abstract:
      "Measures a GPU from its copy bandwidth to whole decode steps, with random weights made on the device.",
    discussion: """
      Sections: copy, attention, linear, selective, router, training, decode. Every result is a line of JSON. With --tiny all of it runs at sizes
      for a test, on any device.
      """)

  enum Section: String, CaseIterable, ExpressibleByArgument {
    case copy, attention, linear, selective, router, training, decode
  }

  @OptionGroup var place: DeviceOptions
  @Option(help: "What a GPU computes in: bf16 or f16. Whole decode steps are made for bf16.")
  var weights: WeightPrecision = .bf16
  @Option(help: "What to measure; may be given more than once. All by default.")
  var section: [Section] = []
  @Option(help: "Shapes of the section decode; may be given more than once. All by default.")
  var shape: [String] = []
  @Option(help: "Batch sizes of the section decode.")
  var batch = NumberList([1, 4, 16, 64, 256])
  @Option(help: "Contexts of the section decode; by default those of the published figures.")
  var context: NumberList<Int>?
  @Option(help: "Timed runs, of which the median counts.")
  var repeats = 11
  @Flag(help: "Sizes for a test.")
  var tiny = false
  @Option(help: "Append the lines to this file, too.")
  var json: String?

  private struct Line<Result: Encodable>: Encodable {
    var device: String
    var weights: String
    var copyBandwidth: Double
    var result: Result
  }

  private struct CopyResult: Encodable {
    var section = "copy"
    var bandwidth: Double
  }

  private struct Skipped: Encodable {
    var skipped: String
    var reason: String
  }

  func validate() throws {
    let known = Set((ShapeBench.Shape.published + ShapeBench.Shape.tiny).map(\.name))
    for name in shape where !known.contains(name) {
      throw ValidationError("--shape: '\(name)' is none of \(known.sorted().joined(separator: ", "))")
    }
    guard weights == .bf16 || weights == .f16 else {
      throw ValidationError("--weights: must be bf16 or f16, is \(weights.rawValue)")
    }
    // Random weights are not scaled for a format that ends at 65504.
    if weights == .f16, section.isEmpty || section.contains(.decode) {
      throw ValidationError("--weights f16: give --section other than decode")
    }
    guard repeats >= 1, batch.values.allSatisfy({ (1...4096).contains($0) }),
      (context?.values ?? []).allSatisfy({ (1...1 << 20).contains($0) })
    else { throw ValidationError("--repeats, --batch and --context must be positive and sensible") }
  }

  func run() throws {
    let backend = try place.device.makeBackend(weights: weights)
    let bandwidth = try Device.measureCopyBandwidth(backend, byteCount: tiny ? 1 << 24 : 4 << 30)
    let sections = section.isEmpty ? Section.allCases : section
    func emit(_ result: some Encodable) throws {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
      let line = String(
        decoding: try encoder.encode(
          Line(
            device: backend.name, weights: weights.rawValue, copyBandwidth: bandwidth, result: result)),
        as: UTF8.self)
      print(line)
      if let json { try appendLines([line], to: json) }
      if let failure = backend.failure { throw failure }
    }
    if sections.contains(.copy) { try emit(CopyResult(bandwidth: bandwidth)) }
    let ops = OpBench(backend, repeats: repeats, coldBytes: tiny ? 1 << 20 : 1 << 30)
    if sections.contains(.attention) {
      for (shape, densities) in attentionShapes {
        for row in try ops.attention(shape, densities: densities) { try emit(row) }
      }
    }
    if sections.contains(.linear) {
      for (outputs, inputs) in linearShapes {
        let rows = try ops.linear(outputs: outputs, inputs: inputs, batches: tiny ? [1, 5] : [1, 4, 16, 64])
        for row in rows { try emit(row) }
      }
    }
    if sections.contains(.selective) {
      for (hidden, neurons) in tiny ? [(64, 256)] : [(9216, 36864), (4096, 16384)] {
        let rows = try ops.selective(
          hidden: hidden, neurons: neurons,
          densities: tiny ? [0.1, 1] : [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1],
          batches: tiny ? [1, 5] : [1, 16, 64])
        for row in rows { try emit(row) }
      }
    }
    if sections.contains(.router) {
      // OPT-66B, OPT-6.7B; groups of Llama-3.1-8B.
      let shapes =
        tiny
        ? [(64, 8, 256, 32)] : [(9216, 72, 36864, 1024), (4096, 32, 16384, 1024), (4096, 8, 16384, 1024)]
      for (hidden, units, neurons, rank) in shapes {
        let rows = try ops.routers(
          hidden: hidden, units: units, neurons: neurons, rank: rank, batches: tiny ? [1, 5] : [1, 16, 64])
        for row in rows { try emit(row) }
      }
    }
    if sections.contains(.training) {
      // A layer of OPT-6.7B.
      let bench = try TrainingBench(
        backend.training ?? HostTrainingOps(), repeats: min(repeats, 5), steps: tiny ? 1 : 20)
      let rows =
        tiny
        ? try bench.run(hidden: 64, neurons: 96, rank: 16, units: 8, hiddenUnits: 8, batch: 16)
        : try bench.run(hidden: 4096, neurons: 16384, rank: 1024, units: 32)
      for row in rows { try emit(row) }
    }
    if sections.contains(.decode) { try decode(backend) { try emit($0) } }
  }

  private func decode(_ backend: any Backend, _ emit: (any Encodable) throws -> Void) throws {
    let bench = ShapeBench(backend, repeats: repeats)
    let shapes = tiny ? ShapeBench.Shape.tiny : ShapeBench.Shape.published
    for shape in shapes where self.shape.isEmpty || self.shape.contains(shape.name) {
      var cells: [ShapeBench.Cell] = []
      for context in contexts(shape) {
        for size in tiny ? [1, 3] : batch.values {
          let needed = ShapeBench.memoryBytes(shape, batch: size, context: context)
          guard let available = backend.availableMemory, needed > available else {
            cells.append(.init(batch: size, context: context))
            continue
          }
          try emit(
            Skipped(
              skipped: "\(shape.name), batch \(size), context \(context)",
              reason: "needs \(needed >> 30) of \(available >> 30) GiB"))
        }
      }
      if !cells.isEmpty { try bench.run(shape, cells: cells) { for row in $0 { try emit(row) } } }
    }
  }

  /// The contexts of the published figures.
  private func contexts(_ shape: ShapeBench.Shape) -> [Int] {
    if let context { return context.values }
    if tiny { return [20] }
    switch shape.name {
    case "llama-3.1-8b", "mistral-7b": return [1024, 8192]
    case "llama-3.1-70b": return [8192]
    case "llama-2-7b", "llama-2-13b": return [512, 3968]
    default: return [512, 1920]
    }
  }

  private var attentionShapes: [(AttentionBench.Shape, [Double])] {
    if tiny { return [(.init(heads: 8, kvHeads: 4, headDim: 16, context: 70, batch: 3), [0.5])] }
    let opt66B = { AttentionBench.Shape(heads: 72, kvHeads: 72, headDim: 128, context: 1920, batch: $0) }
    return [
      (opt66B(64), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.625, 0.7, 0.8, 0.9, 1]),
      (opt66B(16), [0.3]), (opt66B(4), [0.3]), (opt66B(1), [0.3]),
      (.init(heads: 32, kvHeads: 32, headDim: 128, context: 3968, batch: 64), [0.3, 0.5, 0.625]),
      (.init(heads: 32, kvHeads: 8, headDim: 128, context: 8192, batch: 64), [0.3, 0.5, 0.625]),
      (.init(heads: 32, kvHeads: 8, headDim: 128, context: 4096, batch: 1), [0.5]),
    ]
  }

  private var linearShapes: [(Int, Int)] {
    if tiny { return [(96, 64)] }
    // OPT-66B's and Llama-3.1-8B's: q, k and v; out-projection; up (gated); down; output head.
    return [
      (27648, 9216), (9216, 9216), (36864, 9216), (9216, 36864), (6144, 4096), (4096, 4096), (28672, 4096),
      (4096, 14336), (128256, 4096),
    ]
  }
}
