import PolarBench
import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarSparsity
import PolarTokenizer

extension Demo {
  /// The state of one demo: a prefilled cache that runs of all modes continue in turn. Decoding writes only slots after
  /// the prompts, so every run starts from the same cache.
  final class Session {
    /// What was timed of one mode at one batch size.
    struct Run {
      /// Seconds of every step.
      var times: [Double] = []
      /// Seconds by part, all steps together.
      var breakdown: [ProfilingBackend.Part: Double] = [:]
    }

    private let cases: [Case]
    private let loaded: LoadedModel
    private let options: Options
    private let profiler: ProfilingBackend
    private let runner: ModelRunner
    private let policies: [(mode: SparsityMode, policy: any SparsityPolicy)]
    private let pages: [[Int32]]
    private let sampler: Sampler
    /// The token that follows each prompt.
    private var firstTokens: [Int32]
    /// Continuations of the first prompts in the largest batch, by mode.
    private(set) var texts: [SparsityMode: [String]] = [:]

    init(
      cases: [Case], loaded: LoadedModel, backend: any Backend,
      policies: [(mode: SparsityMode, policy: any SparsityPolicy)], options: Options
    ) throws {
      self.cases = cases
      self.loaded = loaded
      self.options = options
      self.policies = policies
      profiler = ProfilingBackend(backend)
      var next: Int32 = 0
      pages = cases.map { item in
        let count = (item.prompt.count + options.steps + KVPage.tokens) / KVPage.tokens
        defer { next += Int32(count) }
        return (next..<next + Int32(count)).map { $0 }
      }
      runner = try ModelRunner(
        model: loaded.model, backend: profiler, cachePages: Int(next), maximumRows: 1024,
        maximumSequences: cases.count, maximumContext: loaded.model.config.context,
        policyBytes: policies.map { $0.policy.workspaceByteCount(rows: cases.count) }.max() ?? 0)
      sampler = try Sampler(vocabulary: loaded.model.config.vocabulary)
      firstTokens = Array(repeating: 0, count: cases.count)
    }

    private func sampling(_ sequence: Int) -> SamplingParameters {
      SamplingParameters(
        temperature: 0.7, topK: 40, repetitionPenalty: 1.1, seed: options.seed &+ UInt64(sequence))
    }

    /// Computes all prompts densely; returns the seconds it took.
    func prefill(progress: (Double) -> Void) throws -> Double {
      var done = 0
      return seconds {
        for (index, item) in cases.enumerated() {
          runner.prefill([(tokens: item.prompt, pages: pages[index])]) { _, logits in
            firstTokens[index] = Sampler.argmax(logits) ?? 0
          }
          done += 1
          progress(Double(done) / Double(cases.count))
        }
      }
    }

    /// One step of some sequences, `tokens` in their order; logits `[sequences, vocabulary]`.
    private func step(
      _ tokens: [Int32], of sequences: Range<Int>, at offset: Int, policy: any SparsityPolicy
    ) -> UnsafeBufferPointer<Float> {
      runner.begin()
      for (token, index) in zip(tokens, sequences) {
        runner.append(token, at: cases[index].prompt.count + offset, pages: pages[index])
      }
      return runner.run(.decode, policy: policy)
    }

    private func row(_ logits: UnsafeBufferPointer<Float>, _ index: Int) -> UnsafeBufferPointer<Float> {
      let vocabulary = loaded.model.config.vocabulary
      return UnsafeBufferPointer(rebasing: logits[index * vocabulary..<(index + 1) * vocabulary])
    }

    /// Samples a continuation of the first `batch` sequences, timing each step with its sampling.
    func generate(_ index: Int, batch: Int, into run: inout Run) throws {
      let (mode, policy) = policies[index]
      let timed = ProfilingPolicy(policy, profiler: profiler)
      let sequences = 0..<batch
      let parameters = sequences.map { sampling($0) }
      var states = parameters.map { SamplerState(parameters: $0, prompt: []) }
      var tokens = Array(firstTokens[sequences])
      var outputs = tokens.map { [$0] }
      profiler.reset()
      for offset in 0..<options.steps {
        let elapsed = try seconds {
          let logits = step(tokens, of: sequences, at: offset, policy: timed)
          for index in sequences {
            tokens[index] = try sampler.sample(
              row(logits, index), parameters: parameters[index], state: &states[index])
          }
        }
        for index in sequences { outputs[index].append(tokens[index]) }
        run.times.append(elapsed)
      }
      for (part, value) in profiler.breakdown { run.breakdown[part, default: 0] += value }
      texts[mode] = outputs.prefix(2).map { loaded.tokenizer.decode($0) }
    }

    /// Feeds all prompts' own continuations, `batch` sequences at a time.
    func score(_ index: Int, batch: Int) -> (perplexity: Double, heads: Double, neurons: Double) {
      let config = loaded.model.config
      let statistics = SelectionStatistics(
        layers: config.layers, heads: config.heads, neurons: config.intermediate, maximumRows: batch)
      let policy = CountingPolicy(policies[index].policy, statistics: statistics)
      var loss = 0.0
      for first in stride(from: 0, to: cases.count, by: batch) {
        let sequences = first..<min(cases.count, first + batch)
        for offset in 0..<options.steps - 1 {
          let logits = step(
            cases[sequences].map { $0.continuation[offset] }, of: sequences, at: offset, policy: policy)
          for (place, index) in sequences.enumerated() {
            loss += negativeLogLikelihood(
              row(logits, place), of: Int(cases[index].continuation[offset + 1]))
          }
        }
      }
      return (
        Perplexity.of(loss: loss, tokens: cases.count * (options.steps - 1)), statistics.density(),
        statistics.neuronDensity()
      )
    }
  }
}
