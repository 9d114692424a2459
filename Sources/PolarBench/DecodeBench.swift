public import PolarCore
import PolarEngine
import PolarFormats
public import PolarModels
public import PolarSparsity

/// Times decode steps of a model at one batch size and context, policies interleaved step by step in one process.
///
/// One sequence is prefilled and its pages are copied to the others, so that a cell of the grid costs one prompt.
/// Every policy decodes the same token at the same position, one after the other; the order rotates.
public final class DecodeBench {
  /// One policy to time.
  public struct Candidate: Sendable {
    /// The name in the table.
    public var name: String
    /// The policy.
    public var policy: any SparsityPolicy

    /// A policy under a name.
    public init(name: String, policy: any SparsityPolicy) {
      self.name = name
      self.policy = policy
    }
  }

  /// One policy's result in one cell, in llama-batched-bench's columns and ours.
  public struct Row: Sendable, Codable {
    /// Policy name.
    public var policy: String
    /// Sequences.
    public var batch: Int
    /// Prompt tokens of each sequence.
    public var promptTokens: Int
    /// Decoded tokens of each sequence.
    public var decodedTokens: Int
    /// Seconds to prefill one prompt.
    public var promptSeconds: Double
    /// Operations of the prefill per second over the machine's multiply-add peak.
    public var promptPeakFraction: Double
    /// Median seconds of one step.
    public var stepSeconds: Double
    /// Decoded tokens per second over the batch.
    public var tokensPerSecond: Double
    /// Median ratio of the dense step's time to this one's, step by step.
    public var speedup: Double
    /// Fraction of heads computed in full, measured over all layers.
    public var density: Double
    /// Fraction of MLP neurons computed, measured over all layers.
    public var neuronDensity: Double
    /// The least time of a step: the larger of bytes over bandwidth and operations over peak.
    public var floorSeconds: Double
    /// Where a step's time goes, in seconds, by ``ProfilingBackend/Part``.
    public var breakdown: [String: Double]
  }

  private let model: any CausalLM
  private let backend: any Backend
  private let limits: MachineLimits

  /// A bench of `model`, whose results are related to `limits`.
  public init(model: any CausalLM, backend: any Backend, limits: MachineLimits) {
    self.model = model
    self.backend = backend
    self.limits = limits
  }

  /// Measures one cell. The first candidate is the baseline of `speedup`.
  ///
  /// - Parameters:
  ///   - prompt: the tokens of the prompt; their count is the context.
  ///   - batch: sequences.
  ///   - steps: timed steps.
  /// - Throws: ``PolarError/request(field:reason:)`` when prompt and steps exceed the model's context, and
  ///   ``PolarError/outOfMemory(what:bytes:)``.
  public func run(
    prompt: [Int32], batch: Int, steps: Int, candidates: [Candidate]
  ) throws(PolarError) -> [Row] {
    guard batch >= 1, steps >= 1, !prompt.isEmpty, !candidates.isEmpty else {
      throw .request(field: "batch", reason: "batch, context and steps must be at least 1")
    }
    let (context, overflow) = prompt.count.addingReportingOverflow(steps)
    guard !overflow, context <= model.config.context else {
      throw .request(
        field: "context",
        reason: "\(prompt.count) + \(steps) steps exceed the model's \(model.config.context) tokens")
    }
    let pagesEach = (context + KVPage.tokens - 1) / KVPage.tokens
    let profiler = ProfilingBackend(backend)
    let scratch = candidates.map { $0.policy.workspaceByteCount(rows: batch) }.max() ?? 0
    let runner = try ModelRunner(
      model: model, backend: profiler, cachePages: pagesEach * batch,
      maximumRows: max(512, batch), maximumSequences: batch, maximumContext: context,
      policyBytes: scratch)
    let pages = (0..<batch).map { sequence in
      (0..<pagesEach).map { Int32(sequence * pagesEach + $0) }
    }
    var next: Int32 = 0
    let promptSeconds = seconds {
      runner.prefill([(tokens: prompt, pages: pages[0])]) { _, logits in next = argmax(logits) }
    }
    copyPages(of: runner.cache, pagesEach: pagesEach, batch: batch)

    var times = [[Double]](repeating: [], count: candidates.count)
    var parts = [[ProfilingBackend.Part: Double]](repeating: [:], count: candidates.count)
    let policies = candidates.map { ProfilingPolicy($0.policy, profiler: profiler) }
    for step in -1..<steps {  // step -1 warms up
      var following = next
      for turn in candidates.indices {
        let index = (turn + max(0, step)) % candidates.count
        profiler.reset()
        var logits = UnsafeBufferPointer<Float>(start: nil, count: 0)
        let elapsed = seconds {
          runner.begin()
          for sequence in 0..<batch {
            runner.append(next, at: prompt.count + max(0, step), pages: pages[sequence])
          }
          logits = runner.run(.decode, policy: policies[index])
        }
        if index == 0 {
          following = argmax(UnsafeBufferPointer(rebasing: logits[..<model.config.vocabulary]))
        }
        guard step >= 0 else { continue }
        times[index].append(elapsed)
        for (part, value) in profiler.breakdown { parts[index][part, default: 0] += value }
      }
      if step >= 0 { next = following }
    }
    let densities = try measureDensities(
      runner, candidates, token: next, position: context - 1, pages: pages)
    return candidates.indices.map { index in
      let stepSeconds = median(times[index])
      return Row(
        policy: candidates[index].name, batch: batch, promptTokens: prompt.count,
        decodedTokens: steps, promptSeconds: promptSeconds,
        promptPeakFraction: prefillOperations(tokens: prompt.count) / promptSeconds
          / (limits.arithmeticPeak * 1e9),
        stepSeconds: stepSeconds,
        tokensPerSecond: Double(batch) / stepSeconds,
        speedup: median(zip(times[0], times[index]).map { $0 / $1 }),
        density: densities[index].heads, neuronDensity: densities[index].neurons,
        floorSeconds: floor(batch: batch, context: prompt.count + steps / 2, densities[index]),
        breakdown: Dictionary(
          uniqueKeysWithValues: parts[index].map { ($0.key.title, $0.value / Double(steps)) }))
    }
  }

  /// The fractions of heads and of neurons that each candidate selects in one more, untimed step.
  private func measureDensities(
    _ runner: ModelRunner, _ candidates: [Candidate], token: Int32, position: Int, pages: [[Int32]]
  ) throws(PolarError) -> [(heads: Double, neurons: Double)] {
    let config = model.config
    return candidates.map { candidate in
      let statistics = SelectionStatistics(
        layers: config.layers, heads: config.heads, neurons: config.intermediate,
        maximumRows: pages.count)
      runner.begin()
      for table in pages { runner.append(token, at: position, pages: table) }
      _ = runner.run(.decode, policy: CountingPolicy(candidate.policy, statistics: statistics))
      return (statistics.density(), statistics.neuronDensity())
    }
  }

  /// Gives every sequence the K and V of the first one.
  private func copyPages(of cache: KVCache, pagesEach: Int, batch: Int) {
    for layer in cache.layers {
      let blockBytes = layer.blockByteCount
      let bytes = pagesEach * blockBytes
      let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
      defer { buffer.deallocate() }
      for head in 0..<layer.kvHeads {
        let base = layer.address.advanced(by: head * layer.pages * blockBytes)
        backend.download(base, into: buffer)
        for sequence in 1..<max(1, batch) {
          backend.upload(
            UnsafeRawBufferPointer(buffer), to: base.advanced(by: sequence * bytes))
        }
      }
    }
  }

  /// Operations of a prefill, two for each product and sum: every weight of the layers meets every token, those of the output
  /// head the last one, and every query the keys and values that it sees.
  private func prefillOperations(tokens: Int) -> Double {
    let config = model.config
    let projections = 2 * config.hidden * (config.heads + config.kvHeads) * config.headDim
    let mlp = (config.architecture == .opt ? 2 : 3) * config.hidden * config.intermediate
    let linear =
      2 * Double(tokens) * Double(config.layers) * Double(projections + mlp)
      + 2 * Double(config.hidden) * Double(config.vocabulary)
    let seen = (0..<config.layers).reduce(0.0) { sum, layer in
      let full = min(tokens, config.window(layer: layer) ?? tokens)
      return sum + Double(full * (full + 1) / 2 + (tokens - full) * full)
    }
    return linear + 4 * Double(config.heads * config.headDim) * seen
  }

  /// The least seconds of a step: the weights of what is computed and the selected heads' K and V are read once, and every
  /// such weight is multiplied once per row.
  private func floor(
    batch: Int, context: Int, _ density: (heads: Double, neurons: Double)
  ) -> Double {
    let config = model.config
    let kvBytes =
      Double(batch * context) / Double(KVPage.tokens)
      * Double(KVCache.bytesPerPage(config, dtype: backend.kvDType)) * density.heads
    let weightBytes =
      Double(model.weightByteCount - model.neuronByteCount)
      - Double(model.mlpByteCount) * (1 - density.neurons)
    let weightOperations = weightBytes  // 2 operations per weight of 2 bytes
    let attentionOperations =
      4 * Double(batch * context * config.layers * config.heads * config.headDim) * density.heads
    return max(
      (weightBytes + kvBytes) / (limits.readBandwidth * 1e9),
      (weightOperations * Double(batch) + attentionOperations) / (limits.arithmeticPeak * 1e9))
  }
}

/// The index of the largest value; the lowest of equals.
private func argmax(_ logits: UnsafeBufferPointer<Float>) -> Int32 {
  var best = 0
  for index in logits.indices where logits[index] > logits[best] { best = index }
  return Int32(best)
}
