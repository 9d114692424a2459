import PolarCore
import PolarSparsity

/// A neuron router during training, on scaled inputs: `scores = (x down) up`, a map of low rank without bias or
/// non-linearity (as published; with a ReLU between the two halves, or with biases, it took more neurons to find the same
/// fraction, see `Docs/log.md`).
struct NeuronRouterNetwork: Sendable {
  let data: TrainingData
  let inputs: Int
  /// A multiple of 8.
  let rank: Int
  let neurons: Int
  /// `neurons`, rounded up to a multiple of 8.
  let columns: Int
  /// `[inputs, rank]`.
  var down: [Float]
  /// `[rank, columns]`.
  var up: [Float]

  /// Random directions.
  init(data: TrainingData, neurons: Int, rank: Int, seed: UInt64) {
    self.data = data
    self.rank = rank
    inputs = data.samples.inputs - data.samples.localFeatures
    self.neurons = neurons
    columns = (neurons + 7) & ~7
    var generator = SplitMix64(seed: seed)
    func uniform(_ count: Int, _ spread: Float) -> [Float] {
      (0..<count).map { _ in (generator.unitFloat() * 2 - 1) * spread }
    }
    down = uniform(inputs * rank, (3 / Float(inputs)).squareRoot())
    up = uniform(rank * columns, 0.03)
  }

  /// Minibatch AdamW with a cosine schedule on the weighted binary cross-entropy over tokens `0 ..< tokens`: weight 1
  /// for active neurons, the batch's fraction of active ones plus `offset` for the others (Polar Sparsity's code).
  mutating func descend(
    activations: ActivationBits, tokens: Int, epochs: Int, batch: Int, rate: Float, offset: Float,
    seed: UInt64
  ) throws(PolarError) {
    var pass = try NeuronRouterPass(self, activations: activations, tokens: tokens, batch: batch)
    let steps = Minibatches(tokens: tokens, epochs: epochs, batch: batch, rate: rate, seed: seed)
    let counts = activations.activeCounts(tokens: tokens)
    try steps.forEach(on: data.ops) { step in
      let active = step.tokens.reduce(0) { $0 + Int(counts[Int($1)]) }
      pass.descend(
        step, negativeWeight: Float(active) / Float(step.tokens.count * neurons) + offset, data: data,
        neurons: neurons)
    }
    down = pass.down.values.read()
    up = pass.up.values.read()
  }

  /// The router for inputs as they come: the scaling is folded into the weights, all of them rounded to bf16, as backends
  /// and files keep them.
  func folded() -> NeuronRouterWeights {
    var router = NeuronRouterWeights(inputs: inputs, rank: rank, neurons: neurons)
    for r in 0..<rank {
      for i in 0..<inputs { router.down[r * inputs + i] = rounded(down[i * rank + r] * data.scale[i]) }
      for n in 0..<neurons { router.up[n * rank + r] = rounded(up[r * columns + n]) }
    }
    return router
  }

  private func rounded(_ value: Float) -> Float { BF16.value(BF16.bits(value)) }

  /// Scores of the ``folded()`` router for the tokens `range`, whose inputs it takes as they come:
  /// `[range.count, neurons]`.
  func servedScores(_ range: Range<Int>) throws(PolarError) -> [Float] {
    let ops = data.ops
    var folded = down
    for i in 0..<inputs {
      for r in 0..<rank { folded[i * rank + r] = rounded(down[i * rank + r] * data.scale[i]) }
    }
    let downWeights = try OwnedTensor(folded, rows: inputs, on: ops)
    let upWeights = try OwnedTensor(up.map(rounded), rows: rank, on: ops)
    let (zeros, ones) = (
      try OwnedTensor(columns: inputs, on: ops),
      try OwnedTensor(Array(repeating: 1, count: inputs), on: ops)
    )
    let chunk = min(256, range.count)
    let x = try OwnedTensor(rows: chunk, columns: inputs, on: ops)
    let z = try OwnedTensor(rows: chunk, columns: rank, on: ops)
    let scores = try OwnedTensor(rows: chunk, columns: columns, on: ops)
    var result: [Float] = []
    result.reserveCapacity(range.count * neurons)
    for start in stride(from: range.lowerBound, to: range.upperBound, by: chunk) {
      let count = min(chunk, range.upperBound - start)
      ops.gatherScaled(
        x.rows(count), data.samples.inputRows(0..<data.samples.count), rows: data.list(start..<start + count),
        mean: zeros.tensor, scale: ones.tensor)
      ops.multiply(z.rows(count), .plain(x.rows(count)), .plain(downWeights.tensor), adding: false)
      ops.multiply(scores.rows(count), .plain(z.rows(count)), .plain(upWeights.tensor), adding: false)
      let values = scores.read(rows: count)
      for row in 0..<count { result += values[row * columns..<row * columns + neurons] }
    }
    return result
  }
}

/// A neuron router's parameters and scratch where training computes.
struct NeuronRouterPass {
  var down: Trainee
  var up: Trainee
  private let bits: OwnedTensor
  private let x: OwnedTensor
  private let z: OwnedTensor
  /// Scores, and then slopes.
  private let scores: OwnedTensor
  private let back: OwnedTensor

  init(
    _ network: NeuronRouterNetwork, activations: ActivationBits, tokens: Int, batch: Int
  ) throws(PolarError) {
    let ops = network.data.ops
    down = try Trainee(network.down, rows: network.inputs, on: ops)
    up = try Trainee(network.up, rows: network.rank, on: ops)
    bits = try activations.copy(tokens: tokens, on: ops)
    x = try OwnedTensor(rows: batch, columns: network.inputs, on: ops)
    z = try OwnedTensor(rows: batch, columns: network.rank, on: ops)
    scores = try OwnedTensor(rows: batch, columns: network.columns, on: ops)
    back = try OwnedTensor(rows: batch, columns: network.rank, on: ops)
  }

  /// Forward, backward and an update of both halves.
  mutating func descend(
    _ step: Minibatches.Step, negativeWeight: Float, data: TrainingData, neurons: Int
  ) {
    let (ops, count) = (data.ops, step.tokens.count)
    let (x, z, slopes, back) = (x.rows(count), z.rows(count), scores.rows(count), back.rows(count))
    data.gather(x, rows: step.rows)
    ops.multiply(z, .plain(x), .plain(down.values.tensor), adding: false)
    ops.multiply(slopes, .plain(z), .plain(up.values.tensor), adding: false)
    ops.crossEntropySlopes(
      slopes, bits: bits.tensor, rows: step.rows, units: neurons, negativeWeight: negativeWeight)
    ops.multiply(up.gradient.tensor, .transposed(z), .plain(slopes), adding: false)
    ops.multiply(back, .plain(slopes), .transposed(up.values.tensor), adding: false)
    ops.multiply(down.gradient.tensor, .transposed(x), .plain(back), adding: false)
    down.update(rate: step.rate, batch: count)
    up.update(rate: step.rate, batch: count)
  }
}
