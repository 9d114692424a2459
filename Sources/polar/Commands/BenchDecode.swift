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

/// Modes of sparsity such as `mlp,polar`.
struct ModeList: ExpressibleByArgument, Sendable {
  var modes: [SparsityMode]

  init?(argument: String) {
    let modes = argument.split(separator: ",").map { SparsityMode(rawValue: String($0)) }
    guard !modes.isEmpty, modes.allSatisfy({ $0 != nil }) else { return nil }
    self.modes = modes.compactMap { $0 }
  }
}

struct BenchDecodeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "decode",
    abstract: "Decode grid batch x context x density, in the columns of llama-batched-bench.",
    discussion: """
      Columns: PP prompt tokens, TG decoded tokens, B sequences, N_KV tokens in the cache, S_PP and S_TG tokens/s of
      prefill and decode, prefill's operations as a fraction of the multiply-add peak, speed-up over dense (median of
      step-by-step ratios), fractions of heads computed in full and of MLP neurons over all layers, and the fraction of
      the roofline (least time over measured time). Dense and sparse steps alternate. Without --profile sparse rows
      choose random heads or neurons: their speed is real, their text is not.
      """)

  @OptionGroup var model: ModelOptions
  @Option(help: "Batch sizes.")
  var batch = NumberList([1, 8, 32])
  @Option(help: "Prompt lengths in tokens.")
  var context = NumberList([128, 1024])
  @Option(help: "Mean densities of heads over the sparse layers; of neurons, too, without a profile.")
  var density = NumberList([0.5])
  @Option(
    help: """
      What is sparse beside dense: mlp, heads, polar (both), or several of them such as mlp,polar; as the profile says by \
      default, or heads.
      """)
  var sparsity: ModeList?
  @Option(help: "Decoded tokens of each sequence.")
  var steps = 16
  @Option(help: "A sparsity profile.")
  var profile: String?
  @Option(help: "A UTF-8 text file whose beginning is the prompt; the embedded books by default.")
  var text: String?
  @Option(help: "Append JSON lines, with the conditions, to this file.")
  var json: String?

  private struct Line: Encodable {
    var model: String
    var conditions: BenchConditions
    var result: DecodeBench.Row
  }

  func run() throws {
    for value in density.values { try Density.validated(value) }
    let backend = try model.makeBackend()
    let loaded = try ModelLoader.load(
      from: model.url, precision: model.weights, on: backend,
      neuronSparse: sparsity.map { $0.modes.contains(where: \.selectsNeurons) }
        ?? (profile == nil ? false : nil))
    let limits = try Device.measureLimits(threads: model.threads)
    let conditions = BenchConditions(backend: backend.name, limits: limits)
    print(
      "# \(conditions.processor), \(conditions.cores) cores, \(backend.name), "
        + "\(fixed(limits.readBandwidth, 1)) GB/s, \(fixed(limits.arithmeticPeak, 0)) GFLOP/s")
    let candidates = try candidates(loaded, on: backend)
    // Real text, since how many heads a router selects depends on it.
    let ids = loaded.tokenizer.encode(try readText(text ?? Demo.folder().path + "/prompts.txt"))
    let bench = DecodeBench(model: loaded.model, backend: backend, limits: limits)
    print(
      "    PP     TG      B     N_KV     S_PP t/s  of peak     S_TG t/s  speed-up    heads  neurons  roofline  policy"
    )
    for length in context.values {
      guard length >= 1, length <= ids.count else {
        throw PolarError.request(
          field: "context", reason: "\(length) is not between 1 and the text's \(ids.count) tokens")
      }
      let prompt = Array(ids.prefix(length))
      for size in batch.values {
        let rows = try bench.run(
          prompt: prompt, batch: size, steps: steps, candidates: candidates)
        for row in rows { print(line(row)) }
        if let json {
          let encoder = JSONEncoder()
          encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
          let lines = try rows.map {
            String(
              decoding: try encoder.encode(
                Line(
                  model: model.url.lastPathComponent, conditions: conditions, result: $0)),
              as: UTF8.self)
          }
          try appendLines(lines, to: json)
        }
      }
    }
  }

  /// Dense, then each mode, at each density where it chooses by density.
  private func candidates(
    _ loaded: LoadedModel, on backend: any Backend
  ) throws -> [DecodeBench.Candidate] {
    var candidates = [DecodeBench.Candidate(name: "dense", policy: DensePolicy())]
    guard let profile else {
      for mode in sparsity?.modes ?? [.heads] {
        for value in density.values {
          candidates.append(
            .init(
              name: "random \(mode.rawValue) \(fixed(value, 2))",
              policy: try random(mode, density: value, loaded.model)))
        }
      }
      return candidates
    }
    let routers = try loaded.profile(at: URL(fileURLWithPath: profile))
    for mode in sparsity?.modes ?? [routers.defaultMode] where mode != .dense {
      for value in mode.selectsHeads ? density.values : [1] {
        candidates.append(
          .init(
            name: "routed " + mode.rawValue + (mode.selectsHeads ? " \(fixed(value, 2))" : ""),
            policy: try routers.policy(mode, density: value, on: backend)))
      }
    }
    return candidates
  }

  private func random(
    _ mode: SparsityMode, density: Double, _ model: any CausalLM
  ) throws -> any SparsityPolicy {
    let config = model.config
    var policy: any SparsityPolicy = DensePolicy()
    if mode.selectsHeads {
      policy = try RandomPolicy(
        units: .natural(heads: config.heads, kvHeads: config.kvHeads), mode: .adaptive,
        density: density, fallback: .local(sinkPages: 1, recentPages: 4), seed: 1)
    }
    if mode.selectsNeurons {
      policy = CombinedPolicy(
        heads: policy,
        neurons: try RandomNeuronPolicy(neurons: config.intermediate, density: density, seed: 1))
    }
    return policy
  }

  private func line(_ row: DecodeBench.Row) -> String {
    func right(_ text: String, _ width: Int) -> String {
      String(repeating: " ", count: max(0, width - text.count)) + text
    }
    return [
      right("\(row.promptTokens)", 6), right("\(row.decodedTokens)", 6), right("\(row.batch)", 6),
      right("\(row.batch * (row.promptTokens + row.decodedTokens))", 8),
      right(fixed(Double(row.promptTokens) / row.promptSeconds, 1), 12),
      right(fixed(row.promptPeakFraction * 100, 0) + " %", 8),
      right(fixed(row.tokensPerSecond, 1), 12), right(fixed(row.speedup, 2), 9),
      right(fixed(row.density, 2), 8), right(fixed(row.neuronDensity, 2), 8),
      right(fixed(row.floorSeconds / row.stepSeconds * 100, 0) + " %", 9), " " + row.policy,
    ].joined(separator: " ")
  }
}
