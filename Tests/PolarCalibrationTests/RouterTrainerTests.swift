import PolarCore
import PolarCalibration
import PolarSparsity
import Testing

/// Synthetic samples whose labels follow a known rule.
private func planted(
  tokens: Int, inputs: Int, units: Int, seed: UInt64, noise: Float = 0.05,
  rule: (_ projections: [Float]) -> [Float]
) throws -> LayerSamples {
  var generator = SplitMix64(seed: seed)
  /// Roughly normal: the sum of twelve uniforms.
  func normal() -> Float { (0..<12).reduce(Float(-6)) { sum, _ in sum + generator.unitFloat() } }
  let directions = (0..<units * inputs).map { _ in normal() / Float(inputs).squareRoot() }
  var samples = try LayerSamples(inputs: inputs, units: units, capacity: tokens)
  for _ in 0..<tokens {
    // Inputs with an offset and unequal scales, as after a norm with weights.
    let z = (0..<inputs).map { _ in normal() }
    let input = z.indices.map { z[$0] * (0.5 + Float($0 % 4)) + 0.3 }
    let projections = (0..<units).map { unit in
      z.indices.reduce(Float(0)) { $0 + directions[unit * inputs + $1] * z[$1] }
    }
    let labels = rule(projections).map { exponential($0 - 2 + noise * normal()) }
    samples.append(input: input, deviations: labels, norms: labels)
  }
  return samples
}

/// e^x without Foundation: 2^k times a short series.
private func exponential(_ x: Float) -> Float {
  var (term, sum): (Double, Double) = (1, 1)
  for i in 1...24 {
    term *= Double(x) / 8 / Double(i)
    sum += term
  }
  let squared = sum * sum
  return Float(squared * squared * squared * squared)
}

private func options(hidden: Int, epochs: Int = 12) -> RouterTrainer.Options {
  var options = RouterTrainer.Options()
  options.hiddenUnits = hidden
  options.epochs = epochs
  options.floor = 0
  options.batch = 64
  options.rate = 1e-2
  options.normRate = 1e-2
  options.normEpochs = 10
  return options
}

@Suite struct RouterTrainerTests {
  @Test func recoversALinearRule() throws {
    let samples = try planted(tokens: 1500, inputs: 20, units: 5, seed: 3) { $0 }
    let trained = try RouterTrainer(options: options(hidden: 0)).trainDeviation(samples, seed: 1)
    #expect(trained.r2 > 0.95)
    #expect(trained.router.hiddenUnits == 0)
    #expect(
      ThresholdSearch.recall(scores: trained.scores, labels: trained.labels[...], units: 5, count: 2)
        > 0.9)
  }

  @Test func aHiddenLayerIsKeptOnlyWhereItPays() throws {
    let bent = try planted(tokens: 2000, inputs: 8, units: 3, seed: 4) { $0.map { 2 * abs($0) } }
    let linear = try RouterTrainer(options: options(hidden: 0)).trainDeviation(bent, seed: 1)
    let wide = try RouterTrainer(options: options(hidden: 16, epochs: 30)).trainDeviation(bent, seed: 1)
    #expect(linear.r2 < 0.3)
    #expect(wide.r2 > 0.8)
    #expect(wide.router.hiddenUnits == 16)
    let straight = try planted(tokens: 1200, inputs: 8, units: 3, seed: 5) { $0 }
    let kept = try RouterTrainer(options: options(hidden: 16, epochs: 3)).trainDeviation(straight, seed: 1)
    #expect(kept.router.hiddenUnits == 0)
  }

  @Test func foldedWeightsScoreLikeTraining() throws {
    let samples = try planted(tokens: 800, inputs: 8, units: 3, seed: 6) { $0.map { 2 * abs($0) } }
    let trained = try RouterTrainer(options: options(hidden: 8)).trainDeviation(samples, seed: 2)
    var generator = SplitMix64(seed: 1)
    let other = (0..<8).map { _ in generator.unitFloat() }
    let scores = other.withUnsafeBufferPointer { trained.router.scores(of: $0) }
    #expect(scores.count == 3)
    #expect(scores.allSatisfy { $0.isFinite })
    #expect(trained.scores.count == trained.labels.count)
  }

  @Test func crossEntropyRecallsAPlantedTopHalf() throws {
    let samples = try planted(tokens: 1500, inputs: 20, units: 6, seed: 7) { $0 }
    let trained = try RouterTrainer(options: options(hidden: 0)).trainNorm(samples, seed: 1)
    let recall = ThresholdSearch.recall(
      scores: trained.scores, labels: trained.labels[...], units: 6, count: 3)
    #expect(recall > 0.9)
  }

  @Test func sameSeedSameWeights() throws {
    let samples = try planted(tokens: 400, inputs: 8, units: 3, seed: 8) { $0.map { 2 * abs($0) } }
    let trainer = RouterTrainer(options: options(hidden: 8, epochs: 4))
    let (a, b) = (
      try trainer.trainDeviation(samples, seed: 5), try trainer.trainDeviation(samples, seed: 5)
    )
    #expect(a.router == b.router)
    #expect(
      try trainer.trainNorm(samples, seed: 5).router == trainer.trainNorm(samples, seed: 5).router)
    #expect(try trainer.trainDeviation(samples, seed: 6).router != a.router)
  }

  @Test func thresholdsSelectTheWantedDensity() {
    var generator = SplitMix64(seed: 9)
    let scores = (0..<5000).map { _ in generator.unitFloat() * 7 - 3 }
    let densities = [0.1, 0.34, 0.56, 0.9]
    for (density, threshold) in zip(
      densities, ThresholdSearch.thresholds(scores: scores, densities: densities))
    {
      let got = Double(scores.count { $0 > threshold }) / Double(scores.count)
      #expect(abs(got - density) < 0.001)
    }
    #expect(ThresholdSearch.thresholds(scores: [], densities: [0.5]) == [0])
    let all = ThresholdSearch.thresholds(scores: [1, 2], densities: [1])[0]
    #expect(all < 1)
  }

  @Test func recallCountsWhatIsFound() {
    let labels: [Float] = [3, 2, 1, 0, 0, 1, 2, 3]
    #expect(ThresholdSearch.recall(scores: labels, labels: labels[...], units: 4, count: 2) == 1)
    let opposite = labels.map { -$0 }
    #expect(ThresholdSearch.recall(scores: opposite, labels: labels[...], units: 4, count: 2) == 0)
  }
}
