public import Foundation
import PolarBench
public import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
public import PolarSparsity
import PolarTokenizer

/// What `polar demo` does: the embedded model continues batches of unequal prompts in all four modes, so that the
/// polarity shift of the paper shows: MLP sparsity pays at small batches, head sparsity at large ones.
///
/// The model is a small ReLU OPT trained for this project on public-domain books; the prompts are from books it was not
/// trained on. The modes alternate and start from the same prefilled cache.
public struct Demo: Sendable {
  /// What the demo runs.
  public struct Options: Sendable {
    /// Sequences in the batch, ascending.
    public var batches = [1, 8, 64]
    /// Tokens that every sequence is continued by.
    public var steps = 32
    /// Alternations of the modes at the largest batch; smaller ones, whose steps are short, get more.
    public var rounds = 4
    /// Mean density of heads over the layers whose heads are chosen.
    public var density = 0.5
    /// Seed of the sampling.
    public var seed: UInt64 = 1
    /// Threads; all cores when nil.
    public var threads: Int?

    /// The defaults.
    public init() {}
  }

  /// One mode at one batch size.
  public struct Row: Sendable, Codable {
    /// Sequences in the batch.
    public var batch: Int
    /// What was sparse.
    public var mode: SparsityMode
    /// Tokens per second over the batch, from the median step.
    public var tokensPerSecond: Double
    /// Median seconds of a step.
    public var stepSeconds: Double
    /// Median ratio of dense to this mode's time, step by step.
    public var speedup: Double
    /// Perplexity on the books' own continuations of all prompts, teacher-forced in batches of this size.
    public var perplexity: Double
    /// Fraction of heads computed in full, over all layers.
    public var heads: Double
    /// Fraction of MLP neurons computed, over all layers.
    public var neurons: Double
    /// Mean seconds of a step by part, by the parts' titles.
    public var breakdown: [String: Double]
  }

  /// What the demo found.
  public struct Report: Sendable {
    /// The model, in words.
    public var model: String
    /// The backend's name.
    public var backend: String
    /// Prompts.
    public var sequences: Int
    /// Shortest and longest prompt in tokens.
    public var promptTokens: ClosedRange<Int>
    /// Seconds to prefill all prompts.
    public var prefillSeconds: Double
    /// The ends of the first prompts.
    public var prompts: [String]
    /// Continuations of the first prompts in the largest batch, by mode.
    public var texts: [SparsityMode: [String]]
    /// By batch, then mode.
    public var rows: [Row]
    /// Tokens that every perplexity scores.
    public var scoredTokens: Int
  }

  private let options: Options

  /// A demo.
  public init(options: Options = Options()) { self.options = options }

  /// The file of the profile in that folder.
  static let profileName = "opt-books.profile.safetensors"
  /// The folder with the embedded model, its profile and the prompts.
  ///
  /// It lies beside the executable, or, while the sources are where they were built, among them. (`Bundle.module` ends the
  /// process when it finds nothing, and looks in the build folder even if the executable has left it.)
  /// - Throws: ``PolarError/file(path:reason:)`` when it is missing.
  public static func folder() throws(PolarError) -> URL {
    let executable = Bundle.main.executableURL?.resolvingSymlinksInPath().deletingLastPathComponent()
    let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    let folders = [
      executable?.appendingPathComponent("polar_Polar.resources/demo"),
      sources.appendingPathComponent("Resources/demo"),
    ]
    for case let folder? in folders
    where FileManager.default.fileExists(atPath: folder.appendingPathComponent("config.json").path) {
      return folder
    }
    throw .file(
      path: "polar_Polar.resources", reason: "the folder with the demo's model is not beside the executable")
  }

  /// Runs the demo; `progress` gets a stage and the fraction of it that is done.
  public func run(progress: (String, Double) -> Void) throws -> Report {
    let folder = try Self.folder()
    guard let largest = options.batches.max(), options.batches.allSatisfy({ $0 >= 1 }), options.steps >= 2,
      options.rounds >= 1
    else {
      throw PolarError.request(
        field: "batch", reason: "batches and rounds must be at least 1, steps at least 2")
    }
    let backend = try Device.cpu(threads: options.threads).makeBackend()
    let loaded = try ModelLoader.load(from: folder, on: backend)
    let profile = try loaded.profile(at: folder.appendingPathComponent(Self.profileName))
    let policies = try profile.modes.map { mode in
      (mode: mode, policy: try profile.policy(mode, density: options.density, on: backend))
    }
    let promptFile = folder.appendingPathComponent("prompts.txt")
    guard let data = FileManager.default.contents(atPath: promptFile.path) else {
      throw PolarError.file(path: promptFile.path, reason: "cannot be read")
    }
    let cases = try makeCases(
      loaded.tokenizer.encode(String(decoding: data, as: UTF8.self), addSpecialTokens: false),
      count: largest, start: loaded.tokenizer.bosToken, context: loaded.model.config.context)
    let session = try Session(
      cases: cases, loaded: loaded, backend: backend, policies: policies, options: options)
    let prefillSeconds = try session.prefill { progress("prefill", $0) }
    let rows = try measure(session, policies.map(\.mode), progress: progress)
    let config = loaded.model.config
    let lengths = cases.map(\.prompt.count)
    let shape =
      "\(config.architecture.name), \(config.layers) layers, hidden \(config.hidden), "
      + "\(config.heads) heads of \(config.headDim), \(config.intermediate) neurons, ReLU"
    return Report(
      model: shape,
      backend: backend.name, sequences: cases.count,
      promptTokens: (lengths.min() ?? 0)...(lengths.max() ?? 0), prefillSeconds: prefillSeconds,
      prompts: cases.prefix(2).map { loaded.tokenizer.decode($0.prompt.suffix(24)) },
      texts: session.texts, rows: rows, scoredTokens: cases.count * (options.steps - 1))
  }

  /// Alternates the modes at every batch size, then scores each.
  private func measure(
    _ session: Session, _ modes: [SparsityMode], progress: (String, Double) -> Void
  ) throws -> [Row] {
    let largest = options.batches.max() ?? 1
    let rounds = options.batches.map { batch in
      // Short steps are repeated more often: their medians need it and their time is small.
      options.rounds * min(8, max(1, largest / max(1, batch) / 2))
    }
    // A sequence-step of decoding costs about as much in every mode; scoring runs all prompts once per batch size.
    let total = zip(options.batches, rounds).reduce(0) { $0 + $1.0 * $1.1 + largest } * modes.count
    var done = 0
    var rows: [Row] = []
    for (batch, rounds) in zip(options.batches, rounds) {
      var runs = modes.map { _ in Session.Run() }
      for round in 0..<rounds {
        // Another order each time, so that no mode always follows the same one.
        for offset in modes.indices {
          let index = (offset + round) % modes.count
          try session.generate(index, batch: batch, into: &runs[index])
          done += batch
          progress("decode", Double(done) / Double(total))
        }
      }
      for (index, mode) in modes.enumerated() {
        let score = session.score(index, batch: batch)
        let run = runs[index]
        let step = median(run.times)
        rows.append(
          Row(
            batch: batch, mode: mode, tokensPerSecond: Double(batch) / step, stepSeconds: step,
            speedup: median(zip(runs[0].times, run.times).map { $0 / $1 }), perplexity: score.perplexity,
            heads: score.heads, neurons: score.neurons,
            breakdown: Dictionary(
              uniqueKeysWithValues: run.breakdown.map {
                ($0.key.title, $0.value / Double(max(1, run.times.count)))
              })))
        done += largest
        progress("decode", Double(done) / Double(total))
      }
    }
    return rows
  }

  /// A prompt and the book's own continuation.
  struct Case: Sendable {
    var prompt: [Int32]
    var continuation: [Int32]
  }

  /// Cuts the books into `count` prompts, of unequal lengths near the context, with their continuations.
  private func makeCases(
    _ tokens: [Int32], count: Int, start: Int32?, context: Int
  ) throws(PolarError) -> [Case] {
    let longest = context - options.steps - 2
    let stride = tokens.count / count
    guard longest >= 2, stride >= longest + options.steps + 1 else {
      throw .request(
        field: "batch",
        reason: "\(count) sequences of up to \(longest) tokens exceed the prompts' text")
    }
    return (0..<count).map { index in
      // Lengths between 3/4 of the longest and the longest, scattered over the batch.
      let length = longest - (index * 37 + Int(options.seed % 31)) % max(1, longest / 4)
      let first = index * stride
      let prompt = (start.map { [$0] } ?? []) + tokens[first..<first + length]
      return Case(
        prompt: prompt, continuation: Array(tokens[first + length..<first + length + options.steps]))
    }
  }
}
