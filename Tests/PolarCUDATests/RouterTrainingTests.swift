import EmulatedCUDA
import Foundation
@testable import PolarCalibration
import PolarCUDA
import PolarCPU
import PolarCore
import PolarFormats
import PolarModels
import PolarSparsity
import PolarTestSupport
import Testing

/// Routers that are trained on the device against the same on the host: same seed, same order of the data.
@Suite struct RouterTrainingTests {
  /// Samples whose neurons and units follow planted rules of the input.
  private func planted(tokens: Int, on ops: any TrainingOps) throws -> LayerSamples {
    let (inputs, local, units, neurons, rank) = (24, 4, 5, 44, 4)
    var generator = SplitMix64(seed: 3)
    /// Roughly normal: the sum of twelve uniforms.
    func normal() -> Float { (0..<12).reduce(Float(-6)) { sum, _ in sum + generator.unitFloat() } }
    let down = (0..<rank * inputs).map { _ in normal() / Float(inputs).squareRoot() }
    let up = (0..<neurons * rank).map { _ in normal() / Float(rank).squareRoot() }
    var samples = try LayerSamples(
      inputs: inputs, localFeatures: local, units: units, neurons: neurons, capacity: tokens, on: ops)
    for _ in 0..<tokens {
      let x = (0..<inputs).map { _ in normal() }
      let middle = (0..<rank).map { r in x.indices.reduce(Float(0)) { $0 + down[r * inputs + $1] * x[$1] } }
      let labels = (0..<units).map { unit in
        Math.exp(0.5 * middle[unit % rank] + 0.4 * x[inputs - local + unit % local] - 2 + 0.05 * normal())
      }
      samples.append(
        input: x.indices.map { x[$0] * (0.5 + Float($0 % 4)) + 0.3 }, deviations: labels, norms: labels)
      let activations = (0..<neurons).map { n in
        max(0, (0..<rank).reduce(Float(-1)) { $0 + up[n * rank + $1] * middle[$1] })
      }
      activations.withUnsafeBufferPointer { samples.append(activations: $0) }
    }
    return samples
  }

  private func sides(
    tokens: Int, element: CUDAElement = .bf16
  ) throws -> (host: LayerSamples, device: LayerSamples, backend: CUDABackend) {
    let backend = try CUDABackend(device: EmulatedDevice(element: element))
    try backend.prepareTraining()
    return (
      try planted(tokens: tokens, on: HostTrainingOps()), try planted(tokens: tokens, on: backend), backend
    )
  }

  /// Fraction of scores on the same side of a threshold.
  private func agreement(_ a: [Float], _ b: [Float], threshold: Float) -> Double {
    let same = zip(a, b).reduce(0) { $0 + (($1.0 > threshold) == ($1.1 > threshold) ? 1 : 0) }
    return Double(same) / Double(max(1, a.count))
  }

  @Test(arguments: CUDAElement.allCases) func neuronRoutersAreTheHosts(element: CUDAElement) throws {
    let (host, device, backend) = try sides(tokens: 600, element: element)
    var options = NeuronRouterTrainer.Options()
    (options.rank, options.epochs, options.batch, options.rate) = (8, 16, 64, 3e-2)
    options.heldOut = 0.25
    let bits = try #require(host.activations)
    #expect(device.activations == bits)
    let trainer = NeuronRouterTrainer(options: options)
    let want = try trainer.train(host, activations: bits, seed: 1)
    let got = try trainer.train(device, activations: bits, seed: 1)
    func loss(_ trained: NeuronRouterTrainer.Trained) -> Double {
      var sum = 0.0
      for (i, score) in trained.scores.enumerated() {
        let label = bits[trained.heldOut.lowerBound + i / bits.neurons, i % bits.neurons]
        sum += Math.log(1 + Math.exp(Double(label ? -score : score)))
      }
      return sum / Double(trained.scores.count)
    }
    #expect(want.recall > 0.9)
    #expect(
      abs(loss(got) - loss(want)) < TrainingTolerance.loss * loss(want), "\(loss(got)) for \(loss(want))")
    #expect(agreement(got.scores, want.scores, threshold: 0) > TrainingTolerance.agreement)
    #expect(abs(got.recall - want.recall) < TrainingTolerance.quality)
    #expect(abs(got.precision - want.precision) < TrainingTolerance.quality)
    let weights = got.router.down + got.router.up
    #expect(weights.allSatisfy { $0.bitPattern & 0xFFFF == 0 }, "weights that bf16 cannot hold")
    #expect(try trainer.train(device, activations: bits, seed: 1).router == got.router, "not repeatable")
    #expect(backend.failure == nil)
  }

  @Test func headRoutersAreTheHosts() throws {
    let (host, device, backend) = try sides(tokens: 500)
    var options = RouterTrainer.Options()
    (options.hiddenUnits, options.epochs, options.normEpochs, options.batch) = (8, 2, 2, 64)
    (options.hiddenGain, options.normRate, options.heldOut) = (-1, 1e-2, 0.2)
    let trainer = RouterTrainer(options: options)
    let want = try trainer.trainDeviation(host, seed: 1)
    let got = try trainer.trainDeviation(device, seed: 1)
    // A gain of less than nothing is always there: the hidden layer is trained and kept.
    #expect(want.router.hiddenUnits == 8 && got.router.hiddenUnits == 8)
    #expect(want.router.localFeatures == 4 && got.router.localFeatures == 4)
    #expect(want.r2 > 0.9)
    #expect(abs(got.r2 - want.r2) < TrainingTolerance.quality)
    let middle = want.scores.reduce(0, +) / Float(want.scores.count)
    #expect(agreement(got.scores, want.scores, threshold: middle) > TrainingTolerance.agreement)
    let (wantNorm, gotNorm) = (try trainer.trainNorm(host, seed: 1), try trainer.trainNorm(device, seed: 1))
    func recall(_ trained: RouterTrainer.Trained) -> Double {
      ThresholdSearch.recall(scores: trained.scores, labels: trained.labels[...], units: 5, count: 2)
    }
    #expect(abs(recall(gotNorm) - recall(wantNorm)) < TrainingTolerance.quality)
    #expect(agreement(gotNorm.scores, wantNorm.scores, threshold: 0) > TrainingTolerance.agreement)
    #expect(try trainer.trainDeviation(device, seed: 1).router == got.router, "not repeatable")
    #expect(backend.failure == nil)
  }

  // MARK: A whole calibration

  private func calibrate(
    on backend: any Backend, _ change: (inout Calibrator.Options) -> Void = { _ in }
  ) throws -> (result: CalibrationResult, plan: RecordingPlan) {
    let file = try ModelFile.open(Places.fixtures.appendingPathComponent("models/opt"))
    let model = try ModelRegistry.make(config: file.config, reader: WeightReader(file), backend: backend)
    var generator = SplitMix64(seed: 1)
    var token: UInt64 = 3
    let text = (0..<640).map { _ -> Int32 in
      token = generator.next() % 3 == 0 ? generator.next() % 90 : (token * 7 + 5) % 90
      return Int32(token) + 3
    }
    var options = Calibrator.Options()
    (options.tokens, options.window, options.chunk) = (640, 64, 48)
    (options.sinkPages, options.recentPages, options.timedBatches) = (1, 1, [])
    (options.trainer.hiddenUnits, options.trainer.epochs, options.trainer.normEpochs) = (8, 1, 1)
    options.curve.policies = []
    options.neurons?.trainer.epochs = 8
    options.neurons?.trainer.batch = 32
    options.neurons?.trainer.heldOut = 0.3
    options.neurons?.batches = [1, 4]
    options.neurons?.samples = 16
    change(&options)
    var plan: RecordingPlan?
    let result = try Calibrator(options: options).run(
      model: model, fingerprint: "f", text: text, heldOut: options.curve.count > 0 ? Array(text[..<64]) : [],
      on: backend, planned: { plan = $0 })
    return (result, try #require(plan))
  }

  @Test func aReLUModelIsCalibratedOnTheDevice() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let want = try calibrate(on: CPUBackend(threads: 1)).result
    let (got, plan) = try calibrate(on: backend)
    #expect(backend.failure == nil)
    // Positions from 48 on of all ten windows are kept, inputs on the device, labels on the host.
    #expect(plan.tokens == 160 && plan.expected == 160)
    let config = try ModelFile.open(Places.fixtures.appendingPathComponent("models/opt")).config
    #expect(plan.deviceBytes >= 160 * config.layers * config.hidden * 2 && plan.hostBytes > 0)
    #expect(got.profile.calibration.samples == 160)
    func near(_ a: [Float], _ b: [Float]) -> Bool {
      a.count == b.count && zip(a, b).allSatisfy { abs($0 - $1) < 0.03 * max(abs($0), abs($1)) + 1e-3 }
    }
    #expect(near(got.profile.meanNorms, want.profile.meanNorms))
    #expect(near(got.profile.meanDeviations, want.profile.meanDeviations))
    #expect(near(got.profile.constants, want.profile.constants))
    for (a, b) in zip(got.statistics.attentionImportance, want.statistics.attentionImportance) {
      #expect(abs(a - b) < 0.03 * b + 1e-4)
    }
    // Activations near 0 may fall on the other side.
    for (a, b) in zip(got.statistics.unions, want.statistics.unions) {
      for (x, y) in zip(a.activity, b.activity) { #expect(abs(x - y) < TrainingTolerance.quality) }
    }
    let (gotNeurons, wantNeurons) = (try #require(got.profile.neurons), try #require(want.profile.neurons))
    for (a, b) in zip(gotNeurons.layers, wantNeurons.layers) {
      let (a, b) = (try #require(a), try #require(b))
      #expect(abs(a.recall - b.recall) < TrainingTolerance.quality, "\(a.recall) for \(b.recall)")
      #expect(abs(a.precision - b.precision) < TrainingTolerance.quality, "\(a.precision) for \(b.precision)")
    }
    for (a, b) in zip(got.profile.layerQuality, want.profile.layerQuality) {
      #expect(a.layer == b.layer)
      #expect(abs(a.r2 - b.r2) < TrainingTolerance.quality, "\(a.r2) for \(b.r2)")
    }
  }

  @Test func aCalibrationMeasuresOnTheDevice() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    func measure(on backend: any Backend) throws -> CalibrationResult {
      try calibrate(on: backend) { options in
        (options.tokens, options.heldOutWindows, options.prefix, options.steps) = (128, 1, 50, 3)
        options.curve = QualityCurve()
        (options.curve.densities, options.curve.policies) = ([0.5], [.routed])
        options.neurons?.trainer.epochs = 1
      }.result
    }
    let (want, got) = (try measure(on: CPUBackend(threads: 1)), try measure(on: backend))
    #expect(backend.failure == nil)
    #expect(got.profile.curve.count == want.profile.curve.count)
    #expect(
      abs(got.profile.densePerplexity - want.profile.densePerplexity) < 0.02 * want.profile.densePerplexity)
    #expect(got.statistics.modes.map(\.policy) == want.statistics.modes.map(\.policy))
    #expect(got.statistics.neuronCurve.allSatisfy { $0.perplexity.isFinite && $0.perplexity > 1 })
  }

  @Test func recordedInputsStayWithinTheDevicesMemory() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let (result, plan) = try calibrate(on: backend) { options in
      options.deviceMemoryLimit = 15_000
      options.neurons = nil
      options.trainer.epochs = 0
      options.trainer.normEpochs = 0
    }
    #expect(plan.deviceLimit == 15_000 && plan.deviceBytes <= 15_000 && plan.deviceBytes > 14_000)
    #expect(plan.tokens < 160)
    #expect(abs(result.profile.calibration.samples - plan.tokens) <= 1)
    #expect(plan.summary.contains("on the device (at most"))
    #expect(backend.failure == nil)
  }
}
