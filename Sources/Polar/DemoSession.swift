import PolarBench
import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarSparsity
import PolarTokenizer

extension Demo {
  /// The state of one demo: a prefilled cache that dense and sparse runs continue in turn. Decoding writes only slots
  /// after the prompts, so every run starts from the same cache.
  final class Session {
    private let cases: [Case]
    private let loaded: LoadedModel
    private let options: Options
    private let profiler: ProfilingBackend
    private let runner: ModelRunner
    private let policies: [any SparsityPolicy]
    private let pages: [[Int32]]
    private let sampler: Sampler
    /// The token that follows each prompt.
    private var firstTokens: [Int32]
    /// Seconds of every timed step: dense, sparse.
    private(set) var times: [[Double]] = [[], []]
    private var breakdowns: [[ProfilingBackend.Part: Double]] = [[:], [:]]
    private var perplexities = [Double.nan, Double.nan]
    private var densities = [1.0, 1.0]
    private var texts: [[String]] = [[], []]

    init(
      cases: [Case], loaded: LoadedModel, backend: any Backend, policy: RoutedPolicy, options: Options
    ) throws {
      self.cases = cases
      self.loaded = loaded
      self.options = options
      profiler = ProfilingBackend(backend)
      policies = [DensePolicy(), policy]
      var next: Int32 = 0
      pages = cases.map { item in
        let count = (item.prompt.count + options.steps + KVPage.tokens) / KVPage.tokens
        defer { next += Int32(count) }
        return (next..<next + Int32(count)).map { $0 }
      }
      let context = loaded.model.config.context
      runner = try ModelRunner(
        model: loaded.model, backend: profiler, cachePages: Int(next), maximumRows: 1024,
        maximumSequences: cases.count, maximumContext: context,
        policyBytes: policy.workspaceByteCount(rows: cases.count))
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

    /// One step of all sequences; logits `[sequences, vocabulary]`.
    private func step(
      _ tokens: [Int32], at offset: Int, policy: any SparsityPolicy
    ) -> UnsafeBufferPointer<Float> {
      runner.begin()
      for index in cases.indices {
        runner.append(tokens[index], at: cases[index].prompt.count + offset, pages: pages[index])
      }
      return runner.run(.decode, policy: policy)
    }

    private func row(_ logits: UnsafeBufferPointer<Float>, _ index: Int) -> UnsafeBufferPointer<Float> {
      let vocabulary = loaded.model.config.vocabulary
      return UnsafeBufferPointer(rebasing: logits[index * vocabulary..<(index + 1) * vocabulary])
    }

    /// Samples a continuation of every sequence, timing each step with its sampling. The first run of a mode keeps
    /// its texts.
    func generate(sparse: Bool) throws {
      let mode = sparse ? 1 : 0
      let policy = ProfilingPolicy(policies[mode], profiler: profiler)
      var states = cases.indices.map { SamplerState(parameters: sampling($0), prompt: []) }
      let parameters = cases.indices.map { sampling($0) }
      var tokens = firstTokens
      var outputs = tokens.map { [$0] }
      profiler.reset()
      for offset in 0..<options.steps {
        let elapsed = try seconds {
          let logits = step(tokens, at: offset, policy: policy)
          for index in cases.indices {
            tokens[index] = try sampler.sample(
              row(logits, index), parameters: parameters[index], state: &states[index])
          }
        }
        for index in cases.indices { outputs[index].append(tokens[index]) }
        times[mode].append(elapsed)
      }
      for (part, value) in profiler.breakdown { breakdowns[mode][part, default: 0] += value }
      if texts[mode].isEmpty { texts[mode] = outputs.prefix(3).map { loaded.tokenizer.decode($0) } }
    }

    /// Feeds the books' own continuations and measures perplexity and density.
    func score(sparse: Bool) {
      let mode = sparse ? 1 : 0
      let config = loaded.model.config
      let statistics = SelectionStatistics(
        layers: config.layers, heads: config.heads, maximumRows: cases.count)
      let policy = CountingPolicy(policies[mode], statistics: statistics)
      var loss = 0.0
      for offset in 0..<options.steps - 1 {
        let logits = step(cases.map { $0.continuation[offset] }, at: offset, policy: policy)
        for index in cases.indices {
          loss += negativeLogLikelihood(
            row(logits, index), of: Int(cases[index].continuation[offset + 1]))
        }
      }
      perplexities[mode] = Perplexity.of(loss: loss, tokens: cases.count * (options.steps - 1))
      densities[mode] = statistics.density()
    }

    /// What was found of one mode.
    func mode(sparse: Bool) -> Mode {
      let mode = sparse ? 1 : 0
      let step = median(times[mode])
      let count = Double(max(1, times[mode].count))
      return Mode(
        tokensPerSecond: Double(cases.count) / step, stepSeconds: step,
        perplexity: perplexities[mode], density: densities[mode],
        breakdown: breakdowns[mode].mapValues { $0 / count }, texts: texts[mode])
    }
  }
}
