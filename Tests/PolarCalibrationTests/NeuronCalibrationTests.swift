import PolarCore
import PolarSparsity
import Testing

@testable import PolarCalibration

/// Samples whose neurons fire by a planted rule: neuron n is active where a map of rank `rank` of the input exceeds an
/// offset. Inputs have unequal scales and a constant last element.
private func planted(
  tokens: Int, inputs: Int, neurons: Int, rank: Int, offset: Float, seed: UInt64
) throws -> LayerSamples {
  var generator = SplitMix64(seed: seed)
  /// Roughly normal: the sum of twelve uniforms.
  func normal() -> Float { (0..<12).reduce(Float(-6)) { sum, _ in sum + generator.unitFloat() } }
  let down = (0..<rank * (inputs - 1)).map { _ in normal() / Float(inputs).squareRoot() }
  let up = (0..<neurons * rank).map { _ in normal() / Float(rank).squareRoot() }
  var samples = try LayerSamples(inputs: inputs, units: 0, neurons: neurons, capacity: tokens)
  for _ in 0..<tokens {
    let x = (0..<inputs - 1).map { _ in normal() }
    let middle = (0..<rank).map { r in
      x.indices.reduce(Float(0)) { $0 + down[r * (inputs - 1) + $1] * x[$1] }
    }
    let activations = (0..<neurons).map { n in
      (0..<rank).reduce(-offset) { $0 + up[n * rank + $1] * middle[$1] }
    }
    samples.append(
      input: x.indices.map { x[$0] * (0.5 + Float($0 % 4)) } + [1], deviations: [], norms: [])
    activations.map { max(0, $0) }.withUnsafeBufferPointer { samples.append(activations: $0) }
  }
  return samples
}

private func options(rank: Int) -> NeuronRouterTrainer.Options {
  var options = NeuronRouterTrainer.Options()
  options.rank = rank
  options.epochs = 12
  options.batch = 64
  options.rate = 2e-2
  return options
}

@Suite struct NeuronCalibrationTests {
  @Test func bitsRememberWhatFired() {
    var bits = ActivationBits(neurons: 70)
    var row = [Float](repeating: 0, count: 70)
    row[0] = 1
    row[63] = 0.1
    row[69] = -2  // gated activations may be negative
    bits.append(row)
    bits.append([Float](repeating: 0, count: 70))
    row[0] = 0
    row[1] = 3
    bits.append(row)
    #expect(bits.count == 3)
    #expect((0..<70).filter { bits[0, $0] } == [0, 63, 69])
    #expect(bits.activeCount(0) == 3 && bits.activeCount(1) == 0)
    #expect(bits.density(0..<3) == 6.0 / 210)
    var union = [UInt64](repeating: 0, count: 2)
    for token in 0..<3 { bits.unite(token, into: &union) }
    let expected: [UInt64] = [0x8000_0000_0000_0003, 0x20]
    #expect(union == expected)
  }

  @Test func unionsByHand() {
    // Tokens 0 and 1 fire neuron 0 alone, tokens 2 and 3 neurons 1 and 2: any pair has 1, 2 or 3 of 4.
    var bits = ActivationBits(neurons: 4)
    for row in [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]] as [[Float]] { bits.append(row) }
    #expect(NeuronCalibrator.unionActivity(bits, batch: 1, batches: 4, seed: 1) == 6.0 / 16)
    #expect(NeuronCalibrator.unionActivity(bits, batch: 4, batches: 3, seed: 1) == 3.0 / 4)
    // Of the three ways to pair four tokens one gives 1 and 2, two give 3 and 3: (3 + 6 + 6) / 3 / 2 of 4 on average.
    let pairs = NeuronCalibrator.unionActivity(bits, batch: 2, batches: 4000, seed: 1)
    #expect(abs(pairs - 2.5 / 4) < 0.01)
  }

  @Test func randomBatchesUseEveryTokenOncePerShuffle() {
    let random = RandomBatches(of: 10..<20, size: 4, count: 5, seed: 3)
    let batches = random.batches.map(Array.init)
    #expect(batches.count == 5 && random.count == 5)
    for pair in [batches[0] + batches[1], batches[2] + batches[3]] {
      #expect(Set(pair).count == 8 && pair.allSatisfy { (10..<20).contains($0) })
    }
    #expect(RandomBatches(of: 0..<3, size: 64, count: 2, seed: 1).batches.allSatisfy { $0.count == 3 })
  }

  @Test func learnsAPlantedRule() throws {
    let samples = try planted(tokens: 3000, inputs: 24, neurons: 40, rank: 4, offset: 1.2, seed: 3)
    let bits = samples.activations ?? ActivationBits(neurons: 0)
    let trainer = NeuronRouterTrainer(options: options(rank: 8))
    let trained = try trainer.train(samples, activations: bits, seed: 1)
    #expect(trained.recall > 0.97)
    #expect(trained.precision > 0.7)
    let again = try trainer.train(samples, activations: bits, seed: 1)
    #expect(again.router == trained.router)
    #expect(try trainer.train(samples, activations: bits, seed: 2).router != trained.router)
  }

  @Test func foldedWeightsScoreAsInTraining() throws {
    let samples = try planted(tokens: 400, inputs: 16, neurons: 20, rank: 2, offset: 0.5, seed: 4)
    let bits = samples.activations ?? ActivationBits(neurons: 0)
    let trained = try NeuronRouterTrainer(options: options(rank: 8)).train(
      samples, activations: bits, seed: 1)
    let token = trained.heldOut.lowerBound
    let x = samples.inputRows(token..<token + 1).host(0, as: UInt16.self).map(BF16.value)
    let scores = x.withUnsafeBufferPointer { trained.router.scores(of: $0) }
    for (a, b) in zip(scores, trained.scores[..<20]) {
      let tolerance: Float = 1e-3 * (1 + abs(b))
      #expect(abs(a - b) < tolerance)
    }
    // What a file keeps is what was scored.
    let weights = trained.router.down + trained.router.up
    #expect(weights.allSatisfy { $0.bitPattern & 0xFFFF == 0 })
  }

  @Test func budgetsFindTheWantedFractionOfPlantedUnions() throws {
    let samples = try planted(tokens: 4000, inputs: 24, neurons: 128, rank: 4, offset: 1.6, seed: 5)
    let bits = samples.activations ?? ActivationBits(neurons: 0)
    var calibration = NeuronCalibrator.Options()
    calibration.trainer = options(rank: 8)
    calibration.trainer.heldOut = 0.3
    calibration.batches = [1, 4, 16]
    let calibrator = NeuronCalibrator(options: calibration)
    let result = try calibrator.calibrate(samples, activations: bits, seed: 1, sweep: [], sweepBatch: 1)
    // Other random batches of tokens that the router was not trained on.
    let trained = try NeuronRouterTrainer(options: calibration.trainer)
      .train(samples, activations: bits, seed: 1)
    for need in result.needs {
      let random = RandomBatches(of: trained.heldOut, size: need.batch, count: 200, seed: 99)
      var recall = 0.0
      for rows in random.batches {
        var union = 0
        var found = 0
        for neuron in 0..<128 where rows.contains(where: { bits[$0, neuron] }) {
          union += 1
          let isFound = rows.contains {
            trained.scores[($0 - trained.heldOut.lowerBound) * 128 + neuron] > need.threshold
          }
          found += isFound ? 1 : 0
        }
        recall += union == 0 ? 1 : Double(found) / Double(union)
      }
      #expect(recall / Double(random.count) > 0.98)
      #expect(need.above >= 0.99 * need.union * 0.99)
    }
    #expect(result.needs.map(\.union) == result.needs.map(\.union).sorted())
    let sparsity = calibrator.sparsity([nil, result], neurons: 128)
    #expect(sparsity.layers[0] == nil)
    #expect(sparsity.layers[1]?.thresholds.count == 3)
    #expect(sparsity.comparison.map(\.batch) == [1, 4, 16])
    for row in sparsity.comparison { #expect(row.union > 0.98 && row.aggregate > 0.9) }
  }

  @Test func needsByHand() {
    // One token a batch. Neurons 0 and 1 are active; scores rank 0, 2, 1, and 3 below zero.
    var bits = ActivationBits(neurons: 4)
    bits.append([1, 1, 0, 0])
    let search = UnionRecall(scores: [3, 1, 2, -1], truth: bits, tokens: 0..<1, batches: 1)
    let all = search.need(batch: 1, target: 1, tile: 1)
    #expect(all.union == 2)
    #expect(all.summed == 3 && all.above == 3 && all.equalSize == 3)
    #expect(all.threshold < 1 && all.threshold > 0.99)
    #expect(all.summedRecall == 1 && all.thresholdRecall == 1)
    #expect(abs(all.precision - 2.0 / 3) < 1e-12)
    let half = search.need(batch: 1, target: 0.5, tile: 2)
    #expect(half.summed == 2 && half.above == 1 && half.equalSize == 2)
    #expect(half.summedRecall == 0.5)
    // The published sum never takes a neuron without a positive score, whatever k.
    let low = UnionRecall(scores: [3, -1, 2, -2], truth: bits, tokens: 0..<1, batches: 1)
      .need(batch: 1, target: 1, tile: 1)
    #expect(low.summed == nil && low.above == 3)
  }

  @Test func attentionTurnsByHand() throws {
    let ops = HostTrainingOps()
    func turn(_ x: [Float], _ delta: [Float]) throws -> Float {
      let out = try OwnedTensor(columns: 1, on: ops)
      let (x, delta) = (try OwnedTensor(x, on: ops), try OwnedTensor(delta, on: ops))
      ops.turns(out.tensor, x.tensor, delta.tensor)
      return out.read()[0]
    }
    #expect(try turn([1, 0], [0, 0]) == 0)
    #expect(abs(try turn([1, 0], [-1, 1]) - 1) < 1e-6)
    #expect(abs(try turn([1, 0], [-2, 0]) - 2) < 1e-6)
    #expect(try turn([0, 0], [1, 0]) == 0)
  }

  @Test func sigmoidIsAccurate() {
    for x in stride(from: Float(-30), through: 30, by: 0.37) {
      let exact = 1 / (1 + Math.exp(-x))
      #expect(abs(Math.sigmoid(SIMD8(repeating: x))[3] - exact) < 2e-6)
    }
    #expect(Math.sigmoid(SIMD8(repeating: 500))[0] == 1)
    #expect(Math.sigmoid(SIMD8(repeating: -500))[0] < 1e-30)
  }
}
