import Dispatch
public import PolarCore
import PolarFormats
public import PolarModels
public import PolarSparsity
import Synchronization

/// Measures a policy through the decode path that serves: teacher-forced decoding of held-out windows, all in one
/// batch, after a dense prefill of each window's prefix.
///
/// The prefix's K and V stay valid between policies, since decoding writes later slots only; so it is prefilled once.
public final class QualityMeter {
  /// What was measured of one policy.
  public struct Measurement: Sendable, Equatable {
    /// Perplexity of the scored tokens.
    public var perplexity: Double
    /// Mean divergence from dense, in nats per token.
    public var divergence: Double
    /// Mean density of heads over the sparse layers.
    public var density: Double
    /// Mean density of neurons over all layers.
    public var neuronDensity: Double
    /// Tokens scored.
    public var tokens: Int
  }

  private let model: any CausalLM
  private let backend: any Backend
  private let windows: [[Int32]]
  private let prefix: Int
  private let steps: Int
  private let denseLayers: Set<Int>
  private let staging: BatchStaging
  private let cache: KVCache
  private var reference: [ReferenceDistribution] = []
  private var logits: [Float]

  /// Prefills the prefixes.
  /// - Parameters:
  ///   - windows: token windows of equal length, longer than `prefix` by at least 2.
  ///   - prefix: tokens of each window that are prefilled densely; the rest is decoded one by one.
  ///   - denseLayers: layers that do not count for the density.
  /// - Throws: ``PolarError/request(field:reason:)`` when the windows do not fit, or out of memory.
  public init(
    model: any CausalLM, windows: [[Int32]], prefix: Int, denseLayers: Set<Int> = [0],
    on backend: any Backend
  ) throws(PolarError) {
    guard let length = windows.first?.count, windows.allSatisfy({ $0.count == length }) else {
      throw .request(field: "windows", reason: "they are not of equal length, or there are none")
    }
    guard prefix > 0, length >= prefix + 2, length <= model.config.context else {
      throw .request(
        field: "windows",
        reason: "a prefix of \(prefix) does not fit windows of \(length) tokens and a context of "
          + "\(model.config.context)")
    }
    self.model = model
    self.backend = backend
    self.windows = windows
    self.prefix = prefix
    self.denseLayers = denseLayers
    steps = length - prefix - 1
    let chunk = min(256, prefix)
    staging = try BatchStaging(
      maximumRows: max(chunk, windows.count), sequences: windows.count, context: length, on: backend)
    cache = try KVCache(config: model.config, pages: staging.pages, on: backend)
    logits = Array(repeating: 0, count: windows.count * model.config.vocabulary)
    var workspace = Workspace(
      try backend.allocate(byteCount: model.workspaceByteCount(rows: chunk, logitRows: 1)))
    for (sequence, window) in windows.enumerated() {
      for start in stride(from: 0, to: prefix, by: chunk) {
        let batch = staging.prefill(
          window[start..<min(prefix, start + chunk)], position: start, sequence: sequence)
        _ = model.forward(
          batch, cache: cache, policy: DensePolicy(), tap: nil, workspace: &workspace, on: backend)
        backend.synchronize()
      }
    }
  }

  /// Sequences that are decoded together at most.
  public var windowCount: Int { windows.count }

  /// Tokens that every measurement scores.
  public var scoredTokens: Int { steps * windows.count }

  /// Measures the dense model and remembers its distributions for ``measure(_:)``.
  public func measureDense() throws(PolarError) -> Measurement {
    reference = []
    reference.reserveCapacity(scoredTokens)
    return try run(DensePolicy(), batch: windows.count, isReference: true)
  }

  /// Measures a policy against the dense model; ``measureDense()`` comes first.
  /// - Parameter batch: sequences of a step; all windows when nil. It matters to policies that choose per batch.
  public func measure(
    _ policy: any SparsityPolicy, batch: Int? = nil
  ) throws(PolarError) -> Measurement {
    precondition(reference.count == scoredTokens, "the dense model was not measured")
    return try run(policy, batch: max(1, min(batch ?? windows.count, windows.count)), isReference: false)
  }

  private func run(
    _ policy: any SparsityPolicy, batch rows: Int, isReference: Bool
  ) throws(PolarError) -> Measurement {
    let statistics = SelectionStatistics(
      layers: model.config.layers, heads: model.config.heads, neurons: model.config.intermediate,
      maximumRows: rows)
    let counted = CountingPolicy(policy, statistics: statistics)
    let bytes =
      model.workspaceByteCount(rows: rows, logitRows: rows) + counted.workspaceByteCount(rows: rows)
    var workspace = Workspace(try backend.allocate(byteCount: bytes))
    var (loss, divergence) = (0.0, 0.0)
    for step in 0..<steps {
      for first in stride(from: 0, to: windows.count, by: rows) {
        let group = first..<min(windows.count, first + rows)
        let batch = staging.decode(
          windows[group].map { $0[prefix + step] }, position: prefix + step, firstSequence: first)
        let output = model.forward(
          batch, cache: cache, policy: counted, tap: nil, workspace: &workspace, on: backend)
        backend.synchronize()
        let rowBytes = model.config.vocabulary * 4
        logits.withUnsafeMutableBytes { bytes in
          let place = group.lowerBound * rowBytes..<group.upperBound * rowBytes
          backend.download(
            output.address, into: UnsafeMutableRawBufferPointer(rebasing: bytes[place]))
        }
      }
      let scores = score(step: step, isReference: isReference)
      for row in scores {
        loss += row.loss
        divergence += row.divergence
        if let distribution = row.distribution { reference.append(distribution) }
      }
    }
    let sparse = Set(0..<model.config.layers).subtracting(denseLayers)
    let count = Double(scoredTokens)
    return Measurement(
      perplexity: Math.exp(loss / count), divergence: divergence / count,
      density: statistics.density(layers: sparse), neuronDensity: statistics.neuronDensity(),
      tokens: scoredTokens)
  }

  private struct RowScore: Sendable {
    var loss = 0.0
    var divergence = 0.0
    var distribution: ReferenceDistribution?
  }

  /// Scores the downloaded logits of one step, rows in parallel.
  private func score(step: Int, isReference: Bool) -> [RowScore] {
    let vocabulary = model.config.vocabulary
    let targets = windows.map { Int($0[prefix + step + 1]) }
    let results = Mutex([RowScore](repeating: RowScore(), count: windows.count))
    let (logits, reference) = (logits, reference)
    DispatchQueue.concurrentPerform(iterations: windows.count) { row in
      let score = logits.withUnsafeBufferPointer { logits -> RowScore in
        var score = RowScore()
        guard let base = logits.baseAddress else { return score }
        let values = base + row * vocabulary
        let total = LogProbabilities.logSumExp(values, count: vocabulary)
        score.loss = Double(total - values[targets[row]])
        if isReference {
          score.distribution = ReferenceDistribution(values, count: vocabulary)
        } else {
          score.divergence = reference[step * targets.count + row].divergence(values, logSumExp: total)
        }
        return score
      }
      results.withLock { $0[row] = score }
    }
    return results.withLock { $0 }
  }
}
