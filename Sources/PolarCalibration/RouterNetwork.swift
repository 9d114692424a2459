import PolarCore
import PolarSparsity

/// Samples with the moments that standardise their inputs.
struct TrainingData: Sendable {
  let samples: LayerSamples
  let mean: [Float]
  let scale: [Float]

  /// Samples standardised by the moments of `range`, or scaled alone.
  init(_ samples: LayerSamples, range: Range<Int>, centred: Bool = true) {
    self.samples = samples
    let moments = samples.moments(range)
    mean = centred ? moments.mean : Array(repeating: 0, count: samples.inputs)
    scale = moments.scale
  }

  /// The first `columns` standardised inputs of the tokens `indices`, row-major `[indices.count, width]`; columns past
  /// them are left as they are, zero at first.
  func gather(
    _ indices: some Collection<Int>, columns: Int, into rows: inout [Float], width: Int
  ) {
    if rows.count < indices.count * width { rows = Array(repeating: 0, count: indices.count * width) }
    rows.withUnsafeMutableBufferPointer { rows in
      guard let base = rows.baseAddress else { return }
      for (row, index) in indices.enumerated() {
        samples.copyInput(index, columns: columns, to: base + row * width, mean: mean, scale: scale)
      }
    }
  }
}

/// A router during training, on standardised inputs. With `H` hidden units and `U` scores (padded to a multiple of 8):
/// `z = x first [K, H + U]`, `scores = z[H...] + relu(z[..<H] + hiddenBias) second [H, U] + bias`.
struct RouterNetwork: Sendable {
  let data: TrainingData
  let units: Int
  let hidden: Int
  let inputs: Int
  let localFeatures: Int
  let paddedUnits: Int
  /// `[inputs, hidden + paddedUnits]`.
  var first: [Float]
  var hiddenBias: [Float]
  /// `[hidden, paddedUnits]`.
  var second: [Float]
  var bias: [Float]

  private var width: Int { hidden + paddedUnits }

  /// A network of zeros; `hidden` is a multiple of 8. Local features are inputs only when `looksLocally`.
  init(data: TrainingData, units: Int, hidden: Int, looksLocally: Bool) {
    self.data = data
    self.units = units
    self.hidden = hidden
    localFeatures = looksLocally ? data.samples.localFeatures : 0
    inputs = data.samples.inputs - data.samples.localFeatures + localFeatures
    paddedUnits = (units + 7) & ~7
    first = Array(repeating: 0, count: inputs * (hidden + paddedUnits))
    hiddenBias = Array(repeating: 0, count: hidden)
    second = Array(repeating: 0, count: hidden * paddedUnits)
    bias = Array(repeating: 0, count: paddedUnits)
  }

  /// The same function with a hidden layer of random directions and zero effect beside it.
  func widened(hidden: Int, seed: UInt64) -> RouterNetwork {
    var result = RouterNetwork(
      data: data, units: units, hidden: hidden, looksLocally: localFeatures > 0)
    var generator = SplitMix64(seed: seed)
    let spread = (3 / Float(inputs)).squareRoot()
    for i in 0..<inputs {
      for j in 0..<hidden {
        result.first[i * result.width + j] = (generator.unitFloat() * 2 - 1) * spread
      }
      for j in 0..<paddedUnits {
        result.first[i * result.width + hidden + j] = first[i * width + self.hidden + j]
      }
    }
    result.bias = bias
    return result
  }

  /// Pre-activations of standardised rows, into z `[rows, hidden + paddedUnits]`, and scores `[rows, paddedUnits]`.
  private func forward(_ x: [Float], rows: Int, z: inout [Float], scores: inout [Float]) {
    z.withUnsafeMutableBufferPointer { z in
      x.withUnsafeBufferPointer { x in
        first.withUnsafeBufferPointer { first in
          FloatMatrix.multiply(
            z.baseAddress!, ldc: width, a: x.baseAddress!, rowStride: inputs, innerStride: 1,
            b: first.baseAddress!, ldb: width, rows: rows, columns: width, inner: inputs)
        }
      }
      for row in 0..<rows {
        for j in 0..<hidden { z[row * width + j] = max(0, z[row * width + j] + hiddenBias[j]) }
        for j in 0..<paddedUnits { scores[row * paddedUnits + j] = z[row * width + hidden + j] + bias[j] }
      }
      guard hidden > 0 else { return }
      scores.withUnsafeMutableBufferPointer { scores in
        second.withUnsafeBufferPointer { second in
          FloatMatrix.multiply(
            scores.baseAddress!, ldc: paddedUnits, a: z.baseAddress!, rowStride: width,
            innerStride: 1, b: second.baseAddress!, ldb: paddedUnits, rows: rows,
            columns: paddedUnits, inner: hidden, accumulate: true)
        }
      }
    }
  }

  /// Scores of the tokens `range`: `[range.count, units]`.
  func scores(_ range: Range<Int>) -> [Float] {
    var result: [Float] = []
    result.reserveCapacity(range.count * units)
    let chunk = 256
    var x: [Float] = []
    var z = [Float](repeating: 0, count: chunk * width)
    var scores = [Float](repeating: 0, count: chunk * paddedUnits)
    for start in stride(from: range.lowerBound, to: range.upperBound, by: chunk) {
      let rows = min(chunk, range.upperBound - start)
      data.gather(start..<start + rows, columns: inputs, into: &x, width: inputs)
      forward(x, rows: rows, z: &z, scores: &scores)
      for row in 0..<rows { result += scores[row * paddedUnits..<row * paddedUnits + units] }
    }
    return result
  }

  /// Mean squared error against targets `[tokens, units]` over `range`.
  func error(targets: [Float], range: Range<Int>) -> Double {
    let scores = scores(range)
    var sum = 0.0
    for i in scores.indices {
      let miss = Double(scores[i] - targets[range.lowerBound * units + i])
      sum += miss * miss
    }
    return sum / Double(max(1, scores.count))
  }

  /// Ridge regressions of targets `[tokens, units]` on all tokens before `heldOut`, each with the penalty that does best
  /// on `heldOut`: without local features, and with them where the samples have some.
  static func ridge(
    data: TrainingData, units: Int, targets: [Float], heldOut: Range<Int>
  ) -> [(network: RouterNetwork, error: Double)] {
    let widest = RouterNetwork(data: data, units: units, hidden: 0, looksLocally: true)
    let sums = widest.normalEquations(targets: targets, tokens: heldOut.lowerBound)
    return (data.samples.localFeatures > 0 ? [false, true] : [false]).map { looksLocally in
      var network = RouterNetwork(data: data, units: units, hidden: 0, looksLocally: looksLocally)
      let (n, columns) = (network.inputs, network.paddedUnits)
      // The equations of fewer inputs are the leading block of those of all.
      let gram = (0..<n).flatMap { sums.gram[$0 * sums.width..<$0 * sums.width + n] }
      for unit in 0..<units { network.bias[unit] = Float(sums.means[unit]) }
      var best = (network: network, error: Double.infinity)
      for penalty in [0.001, 0.01, 0.05] {
        let solution = FloatMatrix.solve(
          matrix: gram, ridge: penalty * Double(heldOut.lowerBound),
          rhs: Array(sums.cross[..<(n * columns)]), n: n, columns: columns)
        network.first = solution.map { Float($0) }
        let error = network.error(targets: targets, range: heldOut)
        if error < best.error { best = (network, error) }
      }
      return best
    }
  }

  private struct NormalEquations {
    /// Inputs, padded to a multiple of 8.
    var width: Int
    /// `X' X`: `[width, width]`.
    var gram: [Double]
    /// `X' (Y - means)`: `[width, paddedUnits]`.
    var cross: [Double]
    /// Mean target of each unit.
    var means: [Double]
  }

  private func normalEquations(targets: [Float], tokens: Int) -> NormalEquations {
    let n = (inputs + 7) & ~7
    var means = [Double](repeating: 0, count: units)
    for i in 0..<tokens * units { means[i % units] += Double(targets[i]) }
    for unit in 0..<units { means[unit] /= Double(tokens) }
    var gram = [Double](repeating: 0, count: n * n)
    var cross = [Double](repeating: 0, count: n * paddedUnits)
    let chunk = 2048
    var x = [Float](repeating: 0, count: chunk * n)
    var y = [Float](repeating: 0, count: chunk * paddedUnits)
    var partialGram = [Float](repeating: 0, count: n * n)
    var partialCross = [Float](repeating: 0, count: n * paddedUnits)
    for start in stride(from: 0, to: tokens, by: chunk) {
      let rows = min(chunk, tokens - start)
      data.gather(start..<start + rows, columns: inputs, into: &x, width: n)
      for row in 0..<rows {
        for unit in 0..<units {
          y[row * paddedUnits + unit] = targets[(start + row) * units + unit] - Float(means[unit])
        }
      }
      Self.transposedProduct(&partialGram, x, x, columns: n, width: n, rows: rows)
      Self.transposedProduct(&partialCross, x, y, columns: paddedUnits, width: n, rows: rows)
      for i in gram.indices { gram[i] += Double(partialGram[i]) }
      for i in cross.indices { cross[i] += Double(partialCross[i]) }
    }
    return NormalEquations(width: n, gram: gram, cross: cross, means: means)
  }

  /// `c [width, columns] = a' b` for a `[rows, width]`, b `[rows, columns]`.
  private static func transposedProduct(
    _ c: inout [Float], _ a: [Float], _ b: [Float], columns: Int, width: Int, rows: Int
  ) {
    c.withUnsafeMutableBufferPointer { c in
      a.withUnsafeBufferPointer { a in
        b.withUnsafeBufferPointer { b in
          FloatMatrix.multiply(
            c.baseAddress!, ldc: columns, a: a.baseAddress!, rowStride: 1, innerStride: width,
            b: b.baseAddress!, ldb: columns, rows: width, columns: columns, inner: rows)
        }
      }
    }
  }

  /// Minibatch AdamW with a cosine schedule over tokens `0 ..< tokens`.
  /// - Parameters:
  ///   - rate: peak rate of the hidden layer and the biases; `linearRate` that of the linear part.
  ///   - slope: the loss's derivative by the score of (token, unit).
  ///   - epochEnded: gets the state after an epoch; false ends training.
  mutating func descend(
    tokens: Int, epochs: Int, batch: Int, rate: Float, linearRate: Float, seed: UInt64,
    slope: (_ token: Int, _ unit: Int, _ score: Float) -> Float,
    epochEnded: (RouterNetwork) -> Bool
  ) {
    var generator = SplitMix64(seed: seed ^ 0x5EED)
    var order = Array(0..<tokens)
    var optimisers = [first.count, second.count, hiddenBias.count, bias.count].map { AdamW(count: $0) }
    var x: [Float] = []
    var z = [Float](repeating: 0, count: batch * width)
    var scores = [Float](repeating: 0, count: batch * paddedUnits)
    var gradient = Gradient(self)
    let steps = (tokens + batch - 1) / batch
    // The linear part, which starts from a solution, learns at its own rate: its share of an update is rescaled.
    let linearScale = rate > 0 ? linearRate / rate : 1
    for epoch in 0..<epochs {
      order.shuffle(using: &generator)
      for step in 0..<steps {
        let indices = order[step * batch..<min(tokens, (step + 1) * batch)]
        let progress = Double(epoch * steps + step) / Double(epochs * steps)
        let now = rate * Float(0.5 * (1 + Math.cos(.pi * progress)))
        data.gather(indices, columns: inputs, into: &x, width: inputs)
        forward(x, rows: indices.count, z: &z, scores: &scores)
        for (row, index) in indices.enumerated() {
          for unit in 0..<units {
            let at = row * paddedUnits + unit
            scores[at] = slope(index, unit, scores[at]) / Float(indices.count)
          }
          for unit in units..<max(units, paddedUnits) { scores[row * paddedUnits + unit] = 0 }
        }
        gradient.compute(self, x: x, z: &z, slopes: scores, rows: indices.count)
        let before = linearScale == 1 ? [] : first
        optimisers[0].update(&first, gradient: gradient.first, rate: now)
        if linearScale != 1 {
          for i in 0..<inputs {
            for j in hidden..<width {
              let at = i * width + j
              first[at] = before[at] + (first[at] - before[at]) * linearScale
            }
          }
        }
        optimisers[1].update(&second, gradient: gradient.second, rate: now)
        optimisers[2].update(&hiddenBias, gradient: gradient.hiddenBias, rate: now)
        optimisers[3].update(&bias, gradient: gradient.bias, rate: now)
      }
      guard epochEnded(self) else { return }
    }
  }

  /// Gradients of all parameters.
  private struct Gradient {
    var first: [Float]
    var second: [Float]
    var hiddenBias: [Float]
    var bias: [Float]
    private var transposed: [Float]

    init(_ network: RouterNetwork) {
      first = Array(repeating: 0, count: network.first.count)
      second = Array(repeating: 0, count: network.second.count)
      hiddenBias = Array(repeating: 0, count: network.hidden)
      bias = Array(repeating: 0, count: network.paddedUnits)
      transposed = second
    }

    /// Back-propagates slopes `[rows, paddedUnits]`; z holds the hidden activations and is overwritten by slopes.
    mutating func compute(
      _ network: RouterNetwork, x: [Float], z: inout [Float], slopes: [Float], rows: Int
    ) {
      let (hidden, padded, width) = (network.hidden, network.paddedUnits, network.width)
      for j in 0..<padded {
        var sum: Float = 0
        for row in 0..<rows { sum += slopes[row * padded + j] }
        bias[j] = sum
      }
      if hidden > 0 {
        z.withUnsafeMutableBufferPointer { z in
          slopes.withUnsafeBufferPointer { slopes in
            second.withUnsafeMutableBufferPointer { second in
              FloatMatrix.multiply(
                second.baseAddress!, ldc: padded, a: z.baseAddress!, rowStride: 1, innerStride: width,
                b: slopes.baseAddress!, ldb: padded, rows: hidden, columns: padded, inner: rows)
            }
          }
        }
        for i in 0..<hidden {
          for j in 0..<padded { transposed[j * hidden + i] = network.second[i * padded + j] }
        }
        backThroughHidden(&z, slopes: slopes, hidden: hidden, padded: padded, rows: rows)
      }
      for row in 0..<rows {
        for j in 0..<padded { z[row * width + hidden + j] = slopes[row * padded + j] }
      }
      RouterNetwork.transposedProduct(
        &first, x, z, columns: width, width: network.inputs, rows: rows)
    }

    private mutating func backThroughHidden(
      _ z: inout [Float], slopes: [Float], hidden: Int, padded: Int, rows: Int
    ) {
      let width = hidden + padded
      var back = [Float](repeating: 0, count: rows * hidden)
      back.withUnsafeMutableBufferPointer { back in
        slopes.withUnsafeBufferPointer { slopes in
          transposed.withUnsafeBufferPointer { transposed in
            FloatMatrix.multiply(
              back.baseAddress!, ldc: hidden, a: slopes.baseAddress!, rowStride: padded,
              innerStride: 1, b: transposed.baseAddress!, ldb: hidden, rows: rows, columns: hidden,
              inner: padded)
          }
        }
      }
      for j in 0..<hidden { hiddenBias[j] = 0 }
      for row in 0..<rows {
        for j in 0..<hidden {
          let slope = z[row * width + j] > 0 ? back[row * hidden + j] : 0
          z[row * width + j] = slope
          hiddenBias[j] += slope
        }
      }
    }
  }

  /// The router for inputs as they come: the standardisation is folded into the weights.
  func folded() -> RouterWeights {
    var router = RouterWeights(
      inputs: inputs, units: units, hiddenUnits: hidden, localFeatures: localFeatures)
    for unit in 0..<units {
      var offset = bias[unit]
      for i in 0..<inputs {
        let weight = first[i * width + hidden + unit] * data.scale[i]
        router.weight[unit * inputs + i] = weight
        offset -= weight * data.mean[i]
      }
      router.bias[unit] = offset
      for j in 0..<hidden { router.outputWeight[unit * hidden + j] = second[j * paddedUnits + unit] }
    }
    for j in 0..<hidden {
      var offset = hiddenBias[j]
      for i in 0..<inputs {
        let weight = first[i * width + j] * data.scale[i]
        router.hiddenWeight[j * inputs + i] = weight
        offset -= weight * data.mean[i]
      }
      router.hiddenBias[j] = offset
    }
    return router
  }
}
