import ArgumentParser
import Foundation
import Polar
import PolarBench
import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarSparsity
import PolarTokenizer

struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measures speed, dense beside sparse, in one process.",
    subcommands: [
      BenchDecodeCommand.self, BenchAttentionCommand.self, BenchMLPCommand.self, BenchLinearCommand.self,
      BenchEngineCommand.self, BenchGPUCommand.self,
    ])
}

/// A list of numbers such as `1,8,32`.
struct NumberList<Number: LosslessStringConvertible & Sendable>: ExpressibleByArgument, Sendable {
  var values: [Number]

  init(_ values: [Number]) { self.values = values }

  init?(argument: String) {
    let values = argument.split(separator: ",").map { Number(String($0)) }
    guard !values.isEmpty, values.allSatisfy({ $0 != nil }) else { return nil }
    self.values = values.compactMap { $0 }
  }

  var defaultValueDescription: String { values.map { "\($0)" }.joined(separator: ",") }
}

/// What figures were measured under.
struct BenchConditions: Encodable {
  var processor = processorName()
  var cores = ProcessInfo.processInfo.activeProcessorCount
  var backend: String
  var limits: MachineLimits
}

/// Appends JSON lines to a file.
func appendLines(_ lines: [String], to path: String) throws {
  let data = Data((lines.joined(separator: "\n") + "\n").utf8)
  if !FileManager.default.fileExists(atPath: path) {
    guard FileManager.default.createFile(atPath: path, contents: nil) else {
      throw PolarError.file(path: path, reason: "cannot be created")
    }
  }
  guard let handle = FileHandle(forWritingAtPath: path) else {
    throw PolarError.file(path: path, reason: "cannot be written")
  }
  defer { try? handle.close() }
  do {
    try handle.seekToEnd()
    try handle.write(contentsOf: data)
  } catch {
    throw PolarError.file(path: path, reason: "cannot be written: \(error.localizedDescription)")
  }
}

struct BenchAttentionCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attention",
    abstract: "Times the decode attention op alone, dense and at several densities, interleaved.")

  @Option(help: "Query heads.")
  var heads = 32
  @Option(help: "KV heads.")
  var kvHeads = 32
  @Option(help: "Elements per head.")
  var headDim = 64
  @Flag(
    help: """
      Five shapes instead of one: 32/32, 32/8 and 9/3 heads of 64, 32/32 and 32/8 heads of 128, each of at least 256 MiB \
      of K and V, for which there may be more sequences than --batch says.
      """)
  var shapes = false
  @Option(name: .customLong("kv"), help: "How K and V are stored: bf16, int8 or both.")
  var formats = FormatList(formats: KVFormat.allCases)
  @Option(help: "Tokens in each sequence's cache.")
  var context = 4096
  @Option(help: "Sequences.")
  var batch = 8
  @Option(help: "Fractions of heads computed in full.")
  var density = NumberList([0.125, 0.25, 0.5, 0.75])
  @Option(help: "Interleaved rounds.")
  var rounds = 15
  @Option(help: "Threads to compute with; all cores by default.")
  var threads: Int?
  @Option(help: "Append JSON lines, with the conditions, to this file.")
  var json: String?

  private struct Line: Encodable {
    var conditions: BenchConditions
    var shape: AttentionBench.Shape
    var result: AttentionBench.Row
  }

  func validate() throws {
    guard heads >= 1, kvHeads >= 1, heads % kvHeads == 0, headDim >= 2, headDim % 2 == 0, context >= 1,
      batch >= 1, rounds >= 1, heads <= 4096, headDim <= 1024, context <= 1 << 24, batch <= 65536
    else {
      throw ValidationError("heads, kv-heads (a divisor), head-dim (even), context, batch must be positive")
    }
  }

  func run() throws {
    for value in density.values { try Density.validated(value) }
    let all = [(32, 32, 64), (32, 8, 64), (9, 3, 64), (32, 32, 128), (32, 8, 128)]
    for (heads, kvHeads, headDim) in shapes ? all : [(heads, kvHeads, headDim)] {
      let shape = AttentionBench.Shape(
        heads: heads, kvHeads: kvHeads, headDim: headDim, context: context, batch: batch)
      for format in formats.formats { try measure(shape, format) }
    }
  }

  /// Measures one shape, relates it to the read rate measured just before, prints and records it.
  private func measure(_ shape: AttentionBench.Shape, _ format: KVFormat) throws {
    let backend = try Device.cpu(threads: threads).makeBackend(kv: format)
    var shape = shape
    if shapes {
      // Of 64 MiB, a cache of 32 MiB still holds a third from one round to the next.
      var sequence = shape
      sequence.batch = 1
      let bytes = sequence.kvBytes(dtype: backend.kvDType)
      shape.batch = max(batch, ((256 << 20) + bytes - 1) / bytes)
    }
    let limits = try Device.measureLimits(threads: threads)
    let rows = try AttentionBench(backend, shape: shape).run(densities: density.values, rounds: rounds)
    print(
      "# \(processorName()), \(backend.name), \(fixed(limits.readBandwidth, 1)) GB/s; \(shape.heads) heads, "
        + "\(shape.kvHeads) KV heads x \(shape.headDim), context \(shape.context), batch \(shape.batch), "
        + "K and V \(format.rawValue), \(shape.kvBytes(dtype: backend.kvDType) >> 20) MiB")
    var table = TextTable(["density", "sparse ms", "dense ms", "ratio", "dense GB/s", "of bandwidth"])
    for row in rows {
      table.add([
        fixed(row.density, 3), fixed(row.seconds * 1e3, 2), fixed(row.denseSeconds * 1e3, 2),
        fixed(row.ratio, 3), fixed(row.denseBandwidth, 1),
        fixed(row.denseBandwidth / limits.readBandwidth * 100, 0) + " %",
      ])
    }
    print(table.text)
    if let json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
      let conditions = BenchConditions(backend: backend.name, limits: limits)
      try appendLines(
        rows.map {
          String(
            decoding: try encoder.encode(Line(conditions: conditions, shape: shape, result: $0)),
            as: UTF8.self)
        }, to: json)
    }
  }
}

/// `bf16`, `int8` or `both`.
struct FormatList: ExpressibleByArgument, Sendable {
  var formats: [KVFormat]

  init(formats: [KVFormat]) { self.formats = formats }

  init?(argument: String) {
    guard let formats = argument == "both" ? KVFormat.allCases : KVFormat(rawValue: argument).map({ [$0] })
    else { return nil }
    self.formats = formats
  }

  var defaultValueDescription: String { formats.count > 1 ? "both" : formats[0].rawValue }
}
