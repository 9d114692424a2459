public import Foundation
public import PolarBench
import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarSparsity
import PolarTokenizer

/// What `polar demo` does: the embedded model continues a batch of unequal prompts, dense beside head-sparse.
///
/// The model is a small ReLU OPT trained for this project on public-domain books; the prompts are from books it was not
/// trained on. Dense and sparse runs alternate and start from the same prefilled cache.
public struct Demo: Sendable {
  /// What the demo runs.
  public struct Options: Sendable {
    /// Sequences in the batch.
    public var batch = 64
    /// Tokens that every sequence is continued by.
    public var steps = 32
    /// Alternations of dense and sparse runs.
    public var rounds = 3
    /// Mean density over the sparse layers.
    public var density = 0.5
    /// Seed of the sampling.
    public var seed: UInt64 = 1
    /// Threads; all cores when nil.
    public var threads: Int?

    /// The defaults.
    public init() {}
  }

  /// One mode's part of the report.
  public struct Mode: Sendable {
    /// Tokens per second over the batch, from the median step.
    public var tokensPerSecond: Double
    /// Median seconds of a step.
    public var stepSeconds: Double
    /// Perplexity on the books' own continuations, teacher-forced through the same decode path.
    public var perplexity: Double
    /// Fraction of heads computed in full, over all layers.
    public var density: Double
    /// Mean seconds of a step by part.
    public var breakdown: [ProfilingBackend.Part: Double]
    /// Continuations of the first sequences.
    public var texts: [String]
  }

  /// What the demo found.
  public struct Report: Sendable {
    /// The model, in words.
    public var model: String
    /// The backend's name.
    public var backend: String
    /// Sequences.
    public var batch: Int
    /// Shortest and longest prompt in tokens.
    public var promptTokens: ClosedRange<Int>
    /// Seconds to prefill all prompts.
    public var prefillSeconds: Double
    /// The ends of the first prompts.
    public var prompts: [String]
    /// Everything computed.
    public var dense: Mode
    /// Heads chosen by the profile's routers.
    public var sparse: Mode
    /// Median ratio of dense to sparse time, step by step.
    public var speedup: Double
  }

  private let options: Options

  /// A demo.
  public init(options: Options = Options()) { self.options = options }

  /// The folder with the embedded model, its profile and the prompts.
  public static var resources: URL? {
    Bundle.module.resourceURL?.appendingPathComponent("demo", isDirectory: true)
  }

  /// Runs the demo; `progress` gets a stage and the fraction of it that is done.
  public func run(progress: (String, Double) -> Void) throws -> Report {
    guard let folder = Self.resources else {
      throw PolarError.file(path: "demo resources", reason: "are missing beside the executable")
    }
    guard options.batch >= 1, options.steps >= 1, options.rounds >= 1 else {
      throw PolarError.request(field: "batch", reason: "batch, steps and rounds must be at least 1")
    }
    let backend = try Device.cpu(threads: options.threads).makeBackend()
    let loaded = try ModelLoader.load(from: folder, on: backend)
    let profile = try loaded.profile(at: folder.appendingPathComponent("opt-books.profile.safetensors"))
    let policy = try RoutedPolicy(profile: profile, density: options.density, on: backend)
    let promptFile = folder.appendingPathComponent("prompts.txt")
    guard let data = FileManager.default.contents(atPath: promptFile.path) else {
      throw PolarError.file(path: promptFile.path, reason: "cannot be read")
    }
    let cases = try makeCases(
      loaded.tokenizer.encode(String(decoding: data, as: UTF8.self), addSpecialTokens: false),
      start: loaded.tokenizer.bosToken, context: loaded.model.config.context)
    let session = try Session(
      cases: cases, loaded: loaded, backend: backend, policy: policy, options: options)
    let prefillSeconds = try session.prefill { progress("prefill", $0) }
    let total = Double(2 * options.rounds + 2)
    var done = 0.0
    for round in 0..<options.rounds {
      for sparse in round % 2 == 0 ? [false, true] : [true, false] {
        try session.generate(sparse: sparse)
        done += 1
        progress("decode", done / total)
      }
    }
    for sparse in [false, true] {
      session.score(sparse: sparse)
      done += 1
      progress("decode", done / total)
    }
    let config = loaded.model.config
    let lengths = cases.map(\.prompt.count)
    return Report(
      model: "\(config.architecture.name), \(config.layers) layers, hidden \(config.hidden), "
        + "\(config.heads) heads of \(config.headDim), ReLU",
      backend: backend.name, batch: cases.count,
      promptTokens: (lengths.min() ?? 0)...(lengths.max() ?? 0), prefillSeconds: prefillSeconds,
      prompts: cases.prefix(3).map { loaded.tokenizer.decode($0.prompt.suffix(24)) },
      dense: session.mode(sparse: false), sparse: session.mode(sparse: true),
      speedup: median(zip(session.times[0], session.times[1]).map { $0 / $1 }))
  }

  /// A prompt and the book's own continuation.
  struct Case: Sendable {
    var prompt: [Int32]
    var continuation: [Int32]
  }

  /// Cuts the books into one prompt per sequence, of unequal lengths near the context, with their continuations.
  private func makeCases(_ tokens: [Int32], start: Int32?, context: Int) throws(PolarError) -> [Case] {
    let longest = context - options.steps - 2
    let stride = tokens.count / options.batch
    guard longest >= 2, stride >= longest + options.steps + 1 else {
      throw .request(
        field: "batch",
        reason: "\(options.batch) sequences of up to \(longest) tokens exceed the prompts' text")
    }
    return (0..<options.batch).map { index in
      // Lengths between 3/4 of the longest and the longest, scattered over the batch.
      let length = longest - (index * 37 + Int(options.seed % 31)) % max(1, longest / 4)
      let first = index * stride
      let prompt = (start.map { [$0] } ?? []) + tokens[first..<first + length]
      return Case(
        prompt: prompt, continuation: Array(tokens[first + length..<first + length + options.steps]))
    }
  }
}
