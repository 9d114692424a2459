import Foundation
import PolarCPU
@testable import PolarCalibration
import PolarCore
import PolarFormats
import PolarModels
import PolarReference
import PolarSparsity
import Synchronization
import Testing

/// A tiny model of the fixtures; the Llama has 2 layers of 4 heads, context 128.
private func tiny(_ name: String = "llama-mha", on backend: any Backend) throws -> any CausalLM {
  let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("Fixtures/models/\(name)")
  let file = try ModelFile.open(directory)
  return try ModelRegistry.make(config: file.config, reader: WeightReader(file), backend: backend)
}

/// Tokens that follow each other by a noisy rule.
private func text(_ count: Int, seed: UInt64) -> [Int32] {
  var generator = SplitMix64(seed: seed)
  var token: UInt64 = 3
  return (0..<count).map { _ in
    token = generator.next() % 3 == 0 ? generator.next() % 90 : (token * 7 + 5) % 90
    return Int32(token) + 3
  }
}

private func smallOptions() -> Calibrator.Options {
  var options = Calibrator.Options()
  options.tokens = 512
  options.window = 128
  options.chunk = 48
  options.sinkPages = 1
  options.recentPages = 1
  options.trainer.hiddenUnits = 8
  options.trainer.epochs = 1
  options.trainer.normEpochs = 1
  options.curve.densities = [0.5, 1]
  options.timedBatches = []
  options.heldOutWindows = 3
  options.prefix = 64
  options.steps = 8
  return options
}

@Suite struct CalibratorTests {
  @Test func aWholeCalibrationMeasuresAndRepeats() throws {
    let backend = try CPUBackend(threads: 2)
    let model = try tiny(on: backend)
    let stages = Mutex<[String]>([])
    func calibrate() throws -> CalibrationResult {
      try Calibrator(options: smallOptions()).run(
        model: model, fingerprint: "f", text: text(600, seed: 1), heldOut: text(300, seed: 2), on: backend
      ) { progress in
        #expect(progress.fraction >= 0 && progress.fraction <= 1)
        stages.withLock { if $0.last != progress.stage.rawValue { $0.append(progress.stage.rawValue) } }
      }
    }
    let result = try calibrate()
    let profile = result.profile
    #expect(stages.withLock { $0 } == ["recording", "training", "measuring"])
    #expect(profile.calibration.tokens == 512)
    // Positions from 48 on of each of four windows.
    #expect(profile.calibration.samples == 4 * 80)
    #expect(profile.deviationRouters[0] == nil && profile.deviationRouters[1] != nil)
    #expect(profile.layerQuality.map(\.layer) == [1])
    #expect(profile.meanDeviations.allSatisfy { $0 > 0 && $0.isFinite })
    #expect(profile.curve.count == 1 + 4 * 2 * 2)
    for row in profile.curve where row.wanted == 1 {
      #expect(row.got == 1)
      #expect(row.perplexity == profile.densePerplexity, "\(row)")
      #expect(row.divergence < 1e-6, "\(row)")
    }
    for row in profile.curve where row.mode == "paper" && row.wanted == 0.5 {
      #expect(row.got == 0.5)
    }
    #expect(try calibrate().profile == profile)
    #expect(profile.neurons == nil && profile.defaultMode == .heads)
    #expect(result.statistics.unions.isEmpty && result.statistics.needs.isEmpty)
    #expect(result.statistics.attentionImportance.count == 2)
    #expect(result.statistics.attentionImportance.allSatisfy { $0 > 0 && $0 < 2 })
    // Half of the four heads are the larger half of every token.
    for layer in result.statistics.largestHeads { #expect(abs(layer.reduce(0, +) - 2) < 1e-9) }
    #expect(result.statistics.selectedHeads[0] == [1, 1, 1, 1])
    #expect(profile.defaultDensity > 0 && profile.defaultDensity <= 1)

    let report = QualityReport(profile, statistics: result.statistics, title: "tiny <model>")
    #expect(report.table.contains("oracle: got"))
    #expect(report.page.contains("tiny &lt;model&gt;"))
    #expect(report.page.contains("<polyline"))
    #expect(!report.page.contains("http"), "the page must not refer to other files")
    #expect(!report.page.contains("Routers of neurons"))
  }

  @Test func aReLUModelGetsNeuronRoutersAndStatistics() throws {
    let backend = try CPUBackend(threads: 2)
    let model = try tiny("opt", on: backend)
    let (layers, neurons) = (model.config.layers, model.config.intermediate)
    var options = smallOptions()
    options.curve.policies = [.routed]
    options.neurons?.batches = [1, 2, 4]
    options.neurons?.samples = 16
    options.timedBatches = [1, 2]
    let result = try Calibrator(options: options).run(
      model: model, fingerprint: "f", text: text(600, seed: 1), heldOut: text(300, seed: 2), on: backend)
    let sparsity = try #require(result.profile.neurons)
    #expect(result.profile.defaultMode == .polar)
    #expect(sparsity.neurons == neurons && sparsity.layers.allSatisfy { $0 != nil })
    for layer in sparsity.layers.compactMap({ $0 }) {
      #expect(layer.budgets.map(\.batch) == [1, 2, 4])
      #expect(layer.recall >= 0 && layer.recall <= 1 && layer.precision >= 0 && layer.precision <= 1)
    }
    let statistics = result.statistics
    #expect(statistics.unions.map(\.batch) == [1, 2, 4])
    for layer in 0..<layers {
      let activity = statistics.unions.map { $0.activity[layer] }
      #expect(activity == activity.sorted() && activity[0] > 0 && activity[2] <= 1)
    }
    #expect(statistics.needs.count == 3 * layers)
    let modes = statistics.modes.map { "\($0.mode.rawValue) \($0.policy) \($0.batch)" }
    #expect(modes.first == "dense dense 3")
    for row in ["mlp routed 1", "heads routed 3", "polar oracle 3"] { #expect(modes.contains(row)) }
    for row in statistics.modes where row.policy == "oracle" && row.mode == .mlp {
      #expect(row.neurons <= 1 && row.heads == 1)
    }
    #expect(statistics.neuronCurve.count == Calibrator.sweepTargets.count + 5)
    #expect(sparsity.breakEven.map(\.batch) == [1, 2])
    #expect(sparsity.breakEven.allSatisfy { (0...neurons).contains($0.neurons) })
    #expect(statistics.costs.map(\.part) == ["MLP", "attention", "MLP", "attention"])
    #expect(statistics.costs.allSatisfy { $0.dense > 0 && $0.router > 0 && $0.sparse.count == 3 })
    let page = QualityReport(result.profile, statistics: statistics, title: "tiny").page
    #expect(page.contains("Routers of neurons") && page.contains("\"unions\":"))
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).safetensors").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    try result.profile.write(to: path)
    #expect(try SparsityProfile(path: path) == result.profile)
  }

  @Test func textsThatAreTooShortAreRefused() throws {
    let backend = ReferenceBackend()
    let model = try tiny(on: backend)
    func run(_ text: [Int32], _ heldOut: [Int32], _ options: Calibrator.Options) throws {
      _ = try Calibrator(options: options).run(
        model: model, fingerprint: "f", text: text, heldOut: heldOut, on: backend)
    }
    let (long, short) = (text(600, seed: 1), text(60, seed: 1))
    #expect(throws: PolarError.self) { try run(short, long, smallOptions()) }
    #expect(throws: PolarError.self) { try run(long, short, smallOptions()) }
    #expect(throws: PolarError.self) { try run([], [], smallOptions()) }
    var options = smallOptions()
    options.recentPages = 8
    #expect(throws: PolarError.self) { try run(long, long, options) }
    options = smallOptions()
    options.curve.densities = [0]
    #expect(throws: PolarError.self) { try run(long, long, options) }
  }

  @Test func recordedLabelsMatchBetweenBackends() throws {
    var options = smallOptions()
    options.curve.policies = []
    var means: [[Float]] = []
    for backend in [try CPUBackend(threads: 1) as any Backend, ReferenceBackend()] {
      let result = try Calibrator(options: options).run(
        model: try tiny(on: backend), fingerprint: "f", text: text(300, seed: 1), heldOut: [], on: backend)
      #expect(result.profile.curve.isEmpty)
      means.append(result.profile.meanDeviations + result.profile.meanNorms)
    }
    for (a, b) in zip(means[0], means[1]) { #expect(abs(a - b) < 0.02 * max(abs(a), abs(b)) + 1e-4) }
  }

  @Test func samplesStayWithinTheMemoryLimit() throws {
    let backend = try CPUBackend(threads: 1)
    var options = smallOptions()
    options.curve.policies = []
    options.memoryLimit = 100 * LayerSamples.bytesPerToken(inputs: 72, units: 4)
    let result = try Calibrator(options: options).run(
      model: try tiny(on: backend), fingerprint: "f", text: text(600, seed: 1), heldOut: [], on: backend)
    #expect(result.profile.calibration.samples <= 100)
    #expect(result.profile.calibration.samples >= 98)
  }

  @Test func defaultAndCriticalDensityFollowTheCurve() throws {
    let backend = ReferenceBackend()
    let config = try tiny(on: backend).config
    var profile = SparsityProfile(
      model: .init(fingerprint: "f", config: config),
      calibration: .init(textHash: "", tokens: 0, samples: 0, seed: 0))
    profile.densePerplexity = 10
    func row(_ density: Double, _ perplexity: Double, _ divergence: Double) -> QualityRow {
      QualityRow(
        mode: "adaptive", policy: "routed", wanted: density, got: density, perplexity: perplexity,
        divergence: divergence)
    }
    profile.curve = [row(0.2, 14, 0.4), row(0.4, 10.05, 0.1), row(0.6, 10.2, 0.03), row(0.8, 10.01, 0.01)]
    // 0.4 is within 1 %, but 0.6 above it is not.
    #expect(profile.criticalDensity(tolerance: 0.01) == 0.8)
    #expect(profile.criticalDensity(tolerance: 0.03) == 0.4)
    #expect(abs(profile.density(divergence: 0.02) - 0.7) < 1e-9)
    #expect(profile.density(divergence: 0.001) == 1)
    #expect(profile.density(divergence: 1) == 0.2)
  }
}
