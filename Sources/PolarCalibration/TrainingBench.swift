public import PolarCore
import PolarSparsity

/// Times what training does on a device, on random samples: where the minutes of a calibration go.
public struct TrainingBench {
  /// One measurement.
  public struct Row: Sendable, Encodable {
    /// `training`.
    public let section = "training"
    /// `neuron step`, `head step` or `ridge`.
    public let part: String
    /// Width of the routers' input.
    public let hidden: Int
    /// Scores of a router.
    public let outputs: Int
    /// Width of its middle.
    public let rank: Int
    /// Tokens of a step.
    public let batch: Int
    /// Median seconds of a step, or of one solution.
    public let seconds: Double
    /// Bytes that it must move: parameters, moments and gradients of AdamW, and operands as they are rounded.
    public let bytes: Int
    /// GB/s that those bytes come to.
    public let bandwidth: Double
  }

  private let ops: any TrainingOps
  private let repeats: Int
  private let steps: Int

  /// A bench of `repeats` timings of `steps` steps each.
  /// - Throws: ``PolarError/device(name:reason:)`` when kernels cannot be made ready.
  public init(_ ops: any TrainingOps, repeats: Int = 5, steps: Int = 20) throws(PolarError) {
    self.ops = ops
    self.repeats = repeats
    self.steps = steps
    try ops.prepareTraining()
  }

  /// A step of a neuron router, one of a head router with a hidden layer, and a ridge regression, for a layer of this shape.
  public func run(
    hidden: Int, neurons: Int, rank: Int, units: Int, hiddenUnits: Int = 64, batch: Int = 256
  ) throws(PolarError) -> [Row] {
    var generator = SplitMix64(seed: 1)
    let tokens = 2 * batch
    var samples = try LayerSamples(inputs: hidden, units: 0, neurons: neurons, capacity: tokens, on: ops)
    for _ in 0..<tokens {
      samples.append(
        input: (0..<hidden).map { _ in generator.unitFloat() - 0.5 }, deviations: [], norms: [])
      let row = (0..<neurons).map { _ in generator.next() % 8 == 0 ? Float(1) : 0 }
      row.withUnsafeBufferPointer { samples.append(activations: $0) }
    }
    guard let activations = samples.activations else { return [] }
    let data = try TrainingData(samples, tokens: tokens, centred: false)
    let step = Minibatches.Step(
      tokens: (0..<Int32(batch)).map { $0 }[...], rows: data.list(0..<batch), rate: 1e-3)

    let network = NeuronRouterNetwork(data: data, neurons: neurons, rank: rank, seed: 1)
    var pass = try NeuronRouterPass(network, activations: activations, tokens: tokens, batch: batch)
    let neuronStep = try time {
      pass.descend(step, negativeWeight: 0.1, data: data, neurons: neurons)
    }
    let (down, up) = (hidden * rank, rank * neurons)
    let neuronBytes = 32 * (down + up) + 8 * down + 16 * up + batch * (28 * neurons + 36 * hidden)

    let heads = RouterNetwork(data: data, units: units, hidden: hiddenUnits, looksLocally: false)
    var labels = ActivationBits(neurons: units)
    for _ in 0..<tokens { labels.append((0..<units).map { _ in generator.next() % 2 == 0 ? Float(1) : 0 }) }
    var headPass = try RouterPass(
      heads, batch: batch, loss: .crossEntropy(labels: labels, negativeWeight: 0.5), tokens: tokens)
    let headStep = try time { headPass.descend(step, linearScale: 1, data: data) }
    let headBytes = (hidden + units) * (hiddenUnits + units) * 40 + batch * 36 * hidden

    let gram = try OwnedTensor(rows: hidden, columns: hidden, on: ops)
    let (cross, out) = (
      try OwnedTensor(Array(repeating: 1, count: hidden * units), rows: hidden, on: ops),
      try OwnedTensor(rows: hidden, columns: units, on: ops)
    )
    var failure: PolarError?
    // The identity: what a factorisation takes does not depend on the numbers.
    let ridge = try time(steps: 1) {
      do throws(PolarError) {
        try ops.solveRidge(out.tensor, gram: gram.tensor, cross: cross.tensor, penalty: 1)
      } catch { failure = error }
    }
    if let failure = failure ?? ops.failure { throw failure }
    func row(_ part: String, _ outputs: Int, _ rank: Int, _ seconds: Double, _ bytes: Int) -> Row {
      Row(
        part: part, hidden: hidden, outputs: outputs, rank: rank, batch: batch, seconds: seconds,
        bytes: bytes, bandwidth: Double(bytes) / seconds / 1e9)
    }
    return [
      row("neuron step", neurons, rank, neuronStep, neuronBytes),
      row("head step", units, hiddenUnits, headStep, headBytes),
      // Each of n / 32 steps reads and writes half of what is left, in double precision.
      row("ridge", units, 0, ridge, hidden * hidden * hidden / 12),
    ]
  }

  /// Median seconds of one call of `body`, once warm.
  private func time(steps: Int? = nil, _ body: () -> Void) throws(PolarError) -> Double {
    let fence = try OwnedTensor(columns: 1, on: ops)
    let count = steps ?? self.steps
    body()
    fence.wait()
    var seconds: [Double] = []
    for _ in 0..<repeats {
      let start = ContinuousClock.now
      for _ in 0..<count { body() }
      fence.wait()
      seconds.append((ContinuousClock.now - start) / .seconds(1) / Double(count))
    }
    return max(1e-9, seconds.sorted()[repeats / 2])
  }
}
