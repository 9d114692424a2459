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

  /// `z = x down`, `[rows, rank]`, and `scores`, `[rows, columns]`, of scaled rows.
  fileprivate func forward(_ x: [Float], rows: Int, z: inout [Float], scores: inout [Float]) {
    FloatMatrix.multiply(
      &z, ldc: rank, a: x, rowStride: inputs, innerStride: 1, b: down, ldb: rank, rows: rows, columns: rank,
      inner: inputs)
    FloatMatrix.multiply(
      &scores, ldc: columns, a: z, rowStride: rank, innerStride: 1, b: up, ldb: columns, rows: rows,
      columns: columns, inner: rank)
  }

  /// Scores of the tokens `range`: `[range.count, neurons]`.
  func scores(_ range: Range<Int>) -> [Float] {
    var result: [Float] = []
    result.reserveCapacity(range.count * neurons)
    let chunk = 256
    var x: [Float] = []
    var z = [Float](repeating: 0, count: chunk * rank)
    var scores = [Float](repeating: 0, count: chunk * columns)
    for start in stride(from: range.lowerBound, to: range.upperBound, by: chunk) {
      let rows = min(chunk, range.upperBound - start)
      data.gather(start..<start + rows, columns: inputs, into: &x, width: inputs)
      forward(x, rows: rows, z: &z, scores: &scores)
      for row in 0..<rows { result += scores[row * columns..<row * columns + neurons] }
    }
    return result
  }

  /// Minibatch AdamW with a cosine schedule on the weighted binary cross-entropy over tokens `0 ..< tokens`: weight 1
  /// for active neurons, the batch's fraction of active ones plus `offset` for the others (Polar Sparsity's code).
  mutating func descend(
    activations: ActivationBits, tokens: Int, epochs: Int, batch: Int, rate: Float, offset: Float,
    seed: UInt64
  ) {
    var generator = SplitMix64(seed: seed ^ 0x5EED)
    var order = Array(0..<tokens)
    var optimisers = [down.count, up.count].map { AdamW(count: $0) }
    var pass = Pass(self, batch: batch)
    let steps = (tokens + batch - 1) / batch
    for epoch in 0..<epochs {
      order.shuffle(using: &generator)
      for step in 0..<steps {
        let indices = order[step * batch..<min(tokens, (step + 1) * batch)]
        let progress = Double(epoch * steps + step) / Double(epochs * steps)
        let now = rate * Float(0.5 * (1 + Math.cos(.pi * progress)))
        pass.compute(self, activations: activations, tokens: indices, offset: offset)
        optimisers[0].update(&down, gradient: pass.down, rate: now)
        optimisers[1].update(&up, gradient: pass.up, rate: now)
      }
    }
  }

  /// Scratch of one forward and backward pass, and the gradients it leaves.
  private struct Pass {
    var down: [Float]
    var up: [Float]
    private var x: [Float] = []
    private var z: [Float]
    private var slopes: [Float]
    private var labels: [Float]
    /// `[columns, rank]`.
    private var transposed: [Float]
    private var back: [Float]

    init(_ network: NeuronRouterNetwork, batch: Int) {
      down = Array(repeating: 0, count: network.down.count)
      up = Array(repeating: 0, count: network.up.count)
      z = Array(repeating: 0, count: batch * network.rank)
      slopes = Array(repeating: 0, count: batch * network.columns)
      labels = slopes
      transposed = up
      back = z
    }

    mutating func compute(
      _ network: NeuronRouterNetwork, activations: ActivationBits, tokens: ArraySlice<Int>, offset: Float
    ) {
      let (rows, rank, columns) = (tokens.count, network.rank, network.columns)
      network.data.gather(tokens, columns: network.inputs, into: &x, width: network.inputs)
      network.forward(x, rows: rows, z: &z, scores: &slopes)
      let active = readLabels(activations, tokens: tokens, columns: columns)
      slope(
        rows: rows, columns: columns, neurons: network.neurons,
        negativeWeight: active / Float(rows * network.neurons) + offset)
      // [rank, columns] = z' slopes
      FloatMatrix.multiply(
        &up, ldc: columns, a: z, rowStride: 1, innerStride: rank, b: slopes, ldb: columns, rows: rank,
        columns: columns, inner: rows)
      for i in 0..<rank {
        for j in 0..<columns { transposed[j * rank + i] = network.up[i * columns + j] }
      }
      FloatMatrix.multiply(
        &back, ldc: rank, a: slopes, rowStride: columns, innerStride: 1, b: transposed, ldb: rank,
        rows: rows, columns: rank, inner: columns)
      // [inputs, rank] = x' back
      FloatMatrix.multiply(
        &down, ldc: rank, a: x, rowStride: 1, innerStride: network.inputs, b: back, ldb: rank,
        rows: network.inputs, columns: rank, inner: rows)
    }

    /// Writes the tokens' labels; returns how many are 1.
    private mutating func readLabels(
      _ activations: ActivationBits, tokens: ArraySlice<Int>, columns: Int
    ) -> Float {
      var active = 0
      labels.withUnsafeMutableBufferPointer { labels in
        for (row, token) in tokens.enumerated() {
          activations.copy(token, to: labels.baseAddress! + row * columns)
          active += activations.activeCount(token)
        }
      }
      return Float(active)
    }

    /// Turns scores into the loss's derivatives by them, the mean over rows.
    private mutating func slope(rows: Int, columns: Int, neurons: Int, negativeWeight: Float) {
      let share = 1 / Float(rows)
      slopes.withUnsafeMutableBufferPointer { slopes in
        labels.withUnsafeBufferPointer { labels in
          for row in 0..<rows {
            for j in stride(from: 0, to: columns, by: 8) {
              let at = row * columns + j
              let pointer = UnsafeMutableRawPointer(slopes.baseAddress! + at)
              let score = pointer.loadUnaligned(as: SIMD8<Float>.self)
              let label = UnsafeRawPointer(labels.baseAddress! + at).loadUnaligned(as: SIMD8<Float>.self)
              let weight = negativeWeight + (1 - negativeWeight) * label
              pointer.storeBytes(
                of: (Math.sigmoid(score) - label) * weight * share, as: SIMD8<Float>.self)
            }
            for j in neurons..<max(neurons, columns) { slopes[row * columns + j] = 0 }
          }
        }
      }
    }
  }

  /// Rounds the weights so that, with the scaling folded in, they are bf16 numbers, as backends and files keep them.
  mutating func round() {
    for i in 0..<inputs {
      for r in 0..<rank {
        down[i * rank + r] = Self.bf16(down[i * rank + r] * data.scale[i]) / data.scale[i]
      }
    }
    for i in up.indices { up[i] = Self.bf16(up[i]) }
  }

  /// The nearest number that bf16 can hold.
  private static func bf16(_ value: Float) -> Float {
    let bits = value.bitPattern
    return Float(bitPattern: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) & 0xFFFF_0000)
  }

  /// The router for inputs as they come: the scaling is folded into the weights, all of them bf16 numbers (see
  /// ``round()``).
  func folded() -> NeuronRouterWeights {
    var router = NeuronRouterWeights(inputs: inputs, rank: rank, neurons: neurons)
    for r in 0..<rank {
      // After rounding this product is a rounding error away from a bf16 number.
      for i in 0..<inputs { router.down[r * inputs + i] = Self.bf16(down[i * rank + r] * data.scale[i]) }
      for n in 0..<neurons { router.up[n * rank + r] = up[r * columns + n] }
    }
    return router
  }
}
