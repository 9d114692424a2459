import PolarCore
import PolarSparsity

/// A head router during training, on standardised inputs. With `H` hidden units and `U` scores (padded to a multiple of
/// 8): `scores = x weight + bias + relu(x hiddenWeight + hiddenBias) second`.
struct RouterNetwork: Sendable {
  let data: TrainingData
  let units: Int
  /// A multiple of 8.
  let hidden: Int
  let inputs: Int
  let localFeatures: Int
  let paddedUnits: Int
  /// `[inputs, paddedUnits]`.
  var weight: [Float]
  /// `[paddedUnits]`.
  var bias: [Float]
  /// `[inputs, hidden]`.
  var hiddenWeight: [Float]
  /// `[hidden]`.
  var hiddenBias: [Float]
  /// `[hidden, paddedUnits]`.
  var second: [Float]

  /// A network of zeros. Local features are inputs only when `looksLocally`.
  init(data: TrainingData, units: Int, hidden: Int, looksLocally: Bool) {
    self.data = data
    self.units = units
    self.hidden = hidden
    localFeatures = looksLocally ? data.samples.localFeatures : 0
    inputs = data.samples.inputs - data.samples.localFeatures + localFeatures
    paddedUnits = (units + 7) & ~7
    weight = Array(repeating: 0, count: inputs * paddedUnits)
    bias = Array(repeating: 0, count: paddedUnits)
    hiddenWeight = Array(repeating: 0, count: inputs * hidden)
    hiddenBias = Array(repeating: 0, count: hidden)
    second = Array(repeating: 0, count: hidden * paddedUnits)
  }

  /// The same function with a hidden layer of random directions and zero effect beside it.
  func widened(hidden: Int, seed: UInt64) -> RouterNetwork {
    var result = RouterNetwork(data: data, units: units, hidden: hidden, looksLocally: localFeatures > 0)
    var generator = SplitMix64(seed: seed)
    let spread = (3 / Float(inputs)).squareRoot()
    for i in result.hiddenWeight.indices {
      result.hiddenWeight[i] = (generator.unitFloat() * 2 - 1) * spread
    }
    result.weight = weight
    result.bias = bias
    return result
  }

  /// Scores of the tokens `range`: `[range.count, units]`.
  func scores(_ range: Range<Int>) throws(PolarError) -> [Float] {
    let chunk = min(256, range.count)
    let pass = try RouterPass(self, batch: chunk)
    var result: [Float] = []
    result.reserveCapacity(range.count * units)
    for start in stride(from: range.lowerBound, to: range.upperBound, by: chunk) {
      let count = min(chunk, range.upperBound - start)
      pass.forward(data.list(start..<start + count), data: data)
      let scores = pass.scores.read(rows: count)
      for row in 0..<count { result += scores[row * paddedUnits..<row * paddedUnits + units] }
    }
    return result
  }

  /// Mean squared error against targets `[tokens, units]` over `range`.
  func error(targets: [Float], range: Range<Int>) throws(PolarError) -> Double {
    let scores = try scores(range)
    var sum = 0.0
    for i in scores.indices {
      let miss = Double(scores[i] - targets[range.lowerBound * units + i])
      sum += miss * miss
    }
    return sum / Double(max(1, scores.count))
  }

  /// What a score is compared with.
  enum Loss {
    /// Half the squared distance to targets `[tokens, units]`.
    case squaredError(targets: [Float])
    /// Binary cross-entropy on labels, with a weight for the labels 0.
    case crossEntropy(labels: ActivationBits, negativeWeight: Float)
  }

  /// Minibatch AdamW with a cosine schedule over tokens `0 ..< tokens`.
  /// - Parameters:
  ///   - rate: peak rate of the hidden layer and the biases; `linearRate` that of the linear part.
  ///   - epochEnded: gets the state after an epoch; false ends training.
  mutating func descend(
    _ loss: Loss, tokens: Int, epochs: Int, batch: Int, rate: Float, linearRate: Float, seed: UInt64,
    epochEnded: (RouterNetwork) throws(PolarError) -> Bool
  ) throws(PolarError) {
    var pass = try RouterPass(self, batch: batch, loss: loss, tokens: tokens)
    let steps = Minibatches(tokens: tokens, epochs: epochs, batch: batch, rate: rate, seed: seed)
    let linearScale = rate > 0 ? linearRate / rate : 1
    var network = self
    try steps.forEach(on: data.ops) { step in
      pass.descend(step, linearScale: linearScale, data: data)
    } epochEnded: { () throws(PolarError) in
      pass.copyParameters(to: &network)
      return try epochEnded(network)
    }
    self = network
  }

  /// The router for inputs as they come: the standardisation is folded into the weights.
  func folded() -> RouterWeights {
    var router = RouterWeights(
      inputs: inputs, units: units, hiddenUnits: hidden, localFeatures: localFeatures)
    for unit in 0..<units {
      var offset = bias[unit]
      for i in 0..<inputs {
        let value = weight[i * paddedUnits + unit] * data.scale[i]
        router.weight[unit * inputs + i] = value
        offset -= value * data.mean[i]
      }
      router.bias[unit] = offset
      for j in 0..<hidden { router.outputWeight[unit * hidden + j] = second[j * paddedUnits + unit] }
    }
    for j in 0..<hidden {
      var offset = hiddenBias[j]
      for i in 0..<inputs {
        let value = hiddenWeight[i * hidden + j] * data.scale[i]
        router.hiddenWeight[j * inputs + i] = value
        offset -= value * data.mean[i]
      }
      router.hiddenBias[j] = offset
    }
    return router
  }
}

/// A head router's parameters and scratch where training computes.
struct RouterPass {
  private var weight: Trainee
  private var bias: Trainee
  private var hidden: Hidden?
  private let loss: Loss?
  private let x: OwnedTensor
  /// Scores `[batch, paddedUnits]`, and in training slopes.
  let scores: OwnedTensor

  private struct Hidden {
    var weight: Trainee
    var bias: Trainee
    var second: Trainee
    let values: OwnedTensor
    let back: OwnedTensor
  }

  private enum Loss {
    case squaredError(targets: OwnedTensor)
    case crossEntropy(labels: OwnedTensor, units: Int, negativeWeight: Float)
  }

  /// Room for batches of `batch` tokens; with a loss it can be trained on tokens `0 ..< tokens`.
  init(
    _ network: RouterNetwork, batch: Int, loss: RouterNetwork.Loss? = nil, tokens: Int = 0
  ) throws(PolarError) {
    let ops = network.data.ops
    weight = try Trainee(network.weight, rows: network.inputs, on: ops)
    bias = try Trainee(network.bias, on: ops)
    x = try OwnedTensor(rows: batch, columns: network.inputs, on: ops)
    scores = try OwnedTensor(rows: batch, columns: network.paddedUnits, on: ops)
    hidden =
      network.hidden > 0
      ? Hidden(
        weight: try Trainee(network.hiddenWeight, rows: network.inputs, on: ops),
        bias: try Trainee(network.hiddenBias, on: ops),
        second: try Trainee(network.second, rows: network.hidden, on: ops),
        values: try OwnedTensor(rows: batch, columns: network.hidden, on: ops),
        back: try OwnedTensor(rows: batch, columns: network.hidden, on: ops)) : nil
    switch loss {
    case .squaredError(let targets):
      self.loss = .squaredError(
        targets: try OwnedTensor(Array(targets[..<(tokens * network.units)]), rows: tokens, on: ops))
    case .crossEntropy(let labels, let negativeWeight):
      self.loss = .crossEntropy(
        labels: try labels.copy(tokens: tokens, on: ops), units: network.units,
        negativeWeight: negativeWeight)
    case nil: self.loss = nil
    }
  }

  /// Scores of the listed tokens, in the first rows of ``scores``.
  func forward(_ rows: Tensor, data: TrainingData) {
    let ops = data.ops
    let (x, scores) = (x.rows(rows.count), scores.rows(rows.count))
    data.gather(x, rows: rows)
    ops.multiply(scores, .plain(x), .plain(weight.values.tensor), adding: false)
    if let hidden {
      let values = hidden.values.rows(rows.count)
      ops.multiply(values, .plain(x), .plain(hidden.weight.values.tensor), adding: false)
      ops.addBias(values, hidden.bias.values.tensor, rectifying: true)
      ops.multiply(scores, .plain(values), .plain(hidden.second.values.tensor), adding: true)
    }
    ops.addBias(scores, bias.values.tensor, rectifying: false)
  }

  /// Forward, backward and an update of all parameters; the linear part, which may start from a solution, learns at
  /// `linearScale` times the rate.
  mutating func descend(_ step: Minibatches.Step, linearScale: Float, data: TrainingData) {
    let (ops, count) = (data.ops, step.tokens.count)
    forward(step.rows, data: data)
    let (x, slopes) = (x.rows(count), scores.rows(count))
    switch loss {
    case .squaredError(let targets):
      ops.squaredErrorSlopes(slopes, targets: targets.tensor, rows: step.rows)
    case .crossEntropy(let labels, let units, let negativeWeight):
      ops.crossEntropySlopes(
        slopes, bits: labels.tensor, rows: step.rows, units: units, negativeWeight: negativeWeight)
    case nil: preconditionFailure("a pass without a loss")
    }
    ops.sumRows(bias.gradient.tensor, slopes, rows: nil)
    ops.multiply(weight.gradient.tensor, .transposed(x), .plain(slopes), adding: false)
    if hidden != nil { descendHidden(x: x, slopes: slopes, rate: step.rate, on: ops) }
    weight.update(rate: step.rate * linearScale, batch: count)
    bias.update(rate: step.rate, batch: count)
  }

  private mutating func descendHidden(x: Tensor, slopes: Tensor, rate: Float, on ops: any TrainingOps) {
    guard var hidden else { return }
    let (values, back) = (hidden.values.rows(x.rows), hidden.back.rows(x.rows))
    ops.multiply(hidden.second.gradient.tensor, .transposed(values), .plain(slopes), adding: false)
    ops.multiply(back, .plain(slopes), .transposed(hidden.second.values.tensor), adding: false)
    ops.maskInactive(back, values)
    ops.sumRows(hidden.bias.gradient.tensor, back, rows: nil)
    ops.multiply(hidden.weight.gradient.tensor, .transposed(x), .plain(back), adding: false)
    hidden.weight.update(rate: rate, batch: x.rows)
    hidden.bias.update(rate: rate, batch: x.rows)
    hidden.second.update(rate: rate, batch: x.rows)
    self.hidden = hidden
  }

  /// Waits, and reads the parameters back.
  func copyParameters(to network: inout RouterNetwork) {
    network.weight = weight.values.read()
    network.bias = bias.values.read()
    guard let hidden else { return }
    network.hiddenWeight = hidden.weight.values.read()
    network.hiddenBias = hidden.bias.values.read()
    network.second = hidden.second.values.read()
  }
}
