public import PolarCore
public import PolarSparsity

/// Trains the routers of one layer from recorded samples. The same samples, options and seed give the same weights.
public struct RouterTrainer: Sendable {
  /// How routers are trained.
  public struct Options: Sendable {
    /// Width of the deviation router's hidden layer, a multiple of 8; 0 keeps it linear.
    public var hiddenUnits = 64
    /// Passes over the samples of the deviation router.
    public var epochs = 6
    /// Passes over the samples of the norm router.
    public var normEpochs = 4
    /// Samples per step.
    public var batch = 128
    /// Peak learning rate of the hidden layer.
    public var rate: Float = 2e-3
    /// Learning rate of the norm router.
    public var normRate: Float = 1e-3
    /// Fraction of the heads labelled positive for the norm router (the paper's label density).
    public var labelDensity = 0.5
    /// Fraction of the samples, the last ones, held out for early stopping and for the thresholds.
    public var heldOut = 0.1
    /// Deviations are compressed below this: the target is `log(deviation + floor)`. Nil is half the mean deviation
    /// over all layers, since what is small against the mean is left out at any density and need not be told apart.
    public var floor: Float?
    /// The least relative gain in held-out error that pays for the hidden layer.
    public var hiddenGain = 0.01
    /// The least relative gain in held-out error that pays for local features, which cost a local attention pass.
    public var localGain = 0.05
    /// Where the random numbers of training start.
    public var seed: UInt64 = 1

    /// The defaults.
    public init() {}
  }

  /// A trained router and its scores on held-out tokens.
  public struct Trained: Sendable {
    /// The router, for inputs as they come.
    public var router: RouterWeights
    /// Its scores on the held-out tokens: `[tokens, units]`.
    public var scores: [Float]
    /// The true labels of the held-out tokens: `[tokens, units]`.
    public var labels: [Float]
    /// Explained variance of the regression target, the mean over units; 0 for a norm router.
    public var r2: Double
  }

  /// The options in force.
  public let options: Options

  /// A trainer.
  public init(options: Options = Options()) { self.options = options }

  /// Samples `0 ..< split` train, the rest are held out.
  func split(_ samples: LayerSamples) -> Int {
    max(1, samples.count - max(1, Int(Double(samples.count) * options.heldOut)))
  }

  /// A regression of `log(deviation + floor)`: ridge regression in closed form, with local features where they
  /// measurably improve held-out error; then, when it measurably improves
  /// held-out error, a hidden layer beside the linear one, trained with AdamW from there.
  ///
  /// Finally each unit's bias is raised so that scores estimate the root of the mean square of the deviation given the
  /// input, not its geometric mean: a large deviation that is missed costs more than a small one that is kept.
  ///
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``, or what the device that trains reports.
  public func trainDeviation(_ samples: LayerSamples, seed: UInt64) throws(PolarError) -> Trained {
    let split = split(samples)
    let data = try TrainingData(samples, tokens: split)
    let units = samples.units
    let floor =
      options.floor ?? samples.deviations.reduce(0, +) / Float(2 * max(1, samples.deviations.count))
    let targets = samples.deviations.map { Math.log($0 + max(floor, 1e-9)) }
    let ridges = try RouterNetwork.ridge(
      data: data, units: units, targets: targets, heldOut: split..<samples.count)
    var (network, error) = ridges[0]
    if let local = ridges.dropFirst().first, local.error < error * (1 - options.localGain) {
      (network, error) = local
    }
    if options.hiddenUnits > 0 {
      var wider = network.widened(hidden: options.hiddenUnits, seed: seed)
      let widerError = try train(&wider, targets: targets, split: split, seed: seed)
      if widerError < error * (1 - options.hiddenGain) {
        network = wider
        error = widerError
      }
    }
    let heldOut = split..<samples.count
    var scores = try network.scores(heldOut)
    let r2 = Self.r2(scores: scores, targets: targets[(split * units)...], units: units)
    let raise = try secondMomentShift(network, targets: targets, range: max(0, split - 8192)..<split)
    for i in scores.indices { scores[i] += raise[i % units] }
    var router = network.folded()
    for unit in 0..<units { router.bias[unit] += raise[unit] }
    if let failure = samples.ops.failure { throw failure }
    return Trained(
      router: router, scores: scores, labels: Array(samples.deviations[(split * units)...]), r2: r2)
  }

  /// The paper's router: linear, binary cross-entropy on the top `int(labelDensity * units)` units by norm, weight 1
  /// for positives and the fraction of positives for negatives (Polar Sparsity, appendix C), best recall kept.
  ///
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``, or what the device that trains reports.
  public func trainNorm(_ samples: LayerSamples, seed: UInt64) throws(PolarError) -> Trained {
    let split = split(samples)
    let heldOut = split..<samples.count
    let units = samples.units
    let positives = max(1, Int(options.labelDensity * Double(units)))
    let labels = Self.topLabels(samples.norms, units: units, count: positives)
    let data = try TrainingData(samples, tokens: split)
    var network = RouterNetwork(data: data, units: units, hidden: 0, looksLocally: false)
    var best = network
    var bestRecall = -1.0
    try network.descend(
      .crossEntropy(labels: labels, negativeWeight: Float(positives) / Float(units)), tokens: split,
      epochs: options.normEpochs, batch: options.batch, rate: options.normRate,
      linearRate: options.normRate, seed: seed
    ) { network throws(PolarError) in
      let recall = ThresholdSearch.recall(
        scores: try network.scores(heldOut), labels: samples.norms[(split * units)...], units: units,
        count: positives)
      if recall > bestRecall {
        bestRecall = recall
        best = network
      }
      return true
    }
    let scores = try best.scores(heldOut)
    if let failure = samples.ops.failure { throw failure }
    return Trained(
      router: best.folded(), scores: scores, labels: Array(samples.norms[(split * units)...]), r2: 0)
  }

  /// Trains all parameters by mean squared error; leaves the best held-out state in `network`.
  private func train(
    _ network: inout RouterNetwork, targets: [Float], split: Int, seed: UInt64
  ) throws(PolarError) -> Double {
    let heldOut = split..<targets.count / network.units
    var best = network
    var bestError = Double.infinity
    var worse = 0
    try network.descend(
      .squaredError(targets: targets), tokens: split, epochs: options.epochs, batch: options.batch,
      rate: options.rate, linearRate: options.rate * 0.1, seed: seed
    ) { network throws(PolarError) in
      let error = try network.error(targets: targets, range: heldOut)
      if error < bestError {
        bestError = error
        best = network
        worse = 0
      } else {
        worse += 1
      }
      return worse < 2
    }
    network = best
    return bestError
  }

  /// `log sqrt(mean(exp(2 (target - score))))` of each unit.
  private func secondMomentShift(
    _ network: RouterNetwork, targets: [Float], range: Range<Int>
  ) throws(PolarError) -> [Float] {
    let units = network.units
    let scores = try network.scores(range)
    var sums = [Double](repeating: 0, count: units)
    for (i, score) in scores.enumerated() {
      let residual = Double(targets[range.lowerBound * units + i] - score)
      // One wild residual must not decide for a unit.
      sums[i % units] += Math.exp(2 * min(residual, 3))
    }
    return sums.map { Float(0.5 * Math.log(max($0, 1e-9) / Double(max(1, range.count)))) }
  }

  /// Explained variance, the mean over units.
  static func r2(scores: [Float], targets: ArraySlice<Float>, units: Int) -> Double {
    let start = targets.startIndex
    let rows = scores.count / units
    guard rows > 1 else { return 0 }
    var total = 0.0
    for unit in 0..<units {
      var mean = 0.0
      for row in 0..<rows { mean += Double(targets[start + row * units + unit]) }
      mean /= Double(rows)
      var (error, variance) = (0.0, 0.0)
      for row in 0..<rows {
        let target = Double(targets[start + row * units + unit])
        let miss = target - Double(scores[row * units + unit])
        error += miss * miss
        variance += (target - mean) * (target - mean)
      }
      total += variance > 1e-12 ? 1 - error / variance : 0
    }
    return total / Double(units)
  }

  /// A bit for each of the `count` largest values of every row; ties go to the lower index.
  static func topLabels(_ values: [Float], units: Int, count: Int) -> ActivationBits {
    var labels = ActivationBits(neurons: units, capacity: values.count / units)
    for row in stride(from: 0, to: values.count, by: units) {
      var isLargest = [Float](repeating: 0, count: units)
      for unit in ThresholdSearch.largest(count, of: values[row..<row + units]) { isLargest[unit] = 1 }
      labels.append(isLargest)
    }
    return labels
  }
}
