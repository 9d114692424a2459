public import Foundation
import PolarCPU
import PolarCalibration
public import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarSparsity
import PolarTokenizer

/// Checks of a device that need a model: recorded steps against issued ones, and the device against the CPU, dense and with
/// heads, neurons or both selected; a greedy text; and the ops of training. The model is the demo's with its profile, unless another is given.
public struct DeviceSelfTest {
  /// The outcome of one check.
  public struct Result: Sendable {
    /// What was checked.
    public var name: String
    /// Whether it holds.
    public var passed: Bool
    /// In figures.
    public var detail: String
  }

  /// Of tokens, the share that must equal the CPU's: rounding may turn near ties, and a selection near its threshold.
  private static let share = 0.95
  /// Two tokens of a greedy text may change places when the CPU's logits of them lie as near as this.
  private static let nearTie: Float = 0.25

  private let model: URL
  private let isDemo: Bool
  private let backend: any Backend

  /// Checks of `backend` with the model at `url`; the demo's model when nil.
  /// - Throws: ``PolarError/file(path:reason:)`` when the demo's files are missing.
  public init(_ backend: any Backend, model url: URL? = nil) throws(PolarError) {
    if let url { model = url } else { model = try Demo.folder() }
    isDemo = url == nil
    self.backend = backend
  }

  /// Runs all checks: `steps` decode steps of requests that come and go for each mode, then a text of at most `textTokens`
  /// tokens, then the ops of training where the device has some, with `largeProducts` of real sizes too. `progress` gets
  /// each result as it is there. Every other prompt is of about `longestPrompt` tokens.
  public func run(
    steps: Int = 300, textTokens: Int = 48, longestPrompt: Int = 160, largeProducts: Bool = true,
    progress: ((Result) -> Void)? = nil
  ) throws(PolarError) -> [Result] {
    var results: [Result] = []
    func report(_ name: String, _ passed: Bool, _ detail: String) {
      results.append(Result(name: name, passed: passed, detail: detail))
      if let last = results.last { progress?(last) }
    }
    let device = try Side(model, isDemo: isDemo, on: backend)
    let cpu = try Side(
      model, isDemo: isDemo, on: try CPUBackend(kvDType: backend.kvDType == .i8 ? .i8 : .bf16))
    for (ours, theirs) in zip(device.policies, cpu.policies) {
      let counts = compare(
        device, ours.policy, cpu, theirs.policy, steps: steps, longestPrompt: longestPrompt)
      let title = ours.name
      report(
        "\(title) steps: most likely tokens equal the CPU's",
        Double(counts.asCPU) >= Self.share * Double(counts.tokens),
        "\(counts.asCPU) of \(counts.tokens), at least \(Int(Self.share * 100)) % wanted"
          + (counts.heads < 1 ? "; \(Int((counts.heads * 100).rounded())) % of heads computed" : "")
          + (counts.neurons < 1 ? "; \(Int((counts.neurons * 100).rounded())) % of neurons computed" : ""))
      guard backend.recordsWork else { continue }
      report(
        "\(title) steps: recorded equal issued", counts.asIssued == counts.tokens,
        "\(counts.asIssued) of \(counts.tokens) tokens in \(steps) steps, recorded batches "
          + counts.recorded.map(String.init).joined(separator: ", "))
    }
    let text = greedyText(device, cpu, tokens: textTokens)
    report("greedy text equals the CPU's", text.passed, text.detail)
    if let ops = backend.training {
      let faults = try TrainingConformance.faults(of: ops, large: largeProducts)
      report("ops of training equal the host's", faults.isEmpty, faults.joined(separator: "; "))
    }
    if let failure = backend.failure { report("no error of the device", false, "\(failure)") }
    return results
  }

  private struct Counts {
    var tokens = 0
    /// Of recorded steps, those that equal issued ones.
    var asIssued = 0
    var asCPU = 0
    var recorded: [Int] = []
    /// The fraction of heads computed.
    var heads = 1.0
    var neurons = 1.0
  }

  /// Decodes the same changing batch three times: issued and recorded on the device, and on the CPU.
  private func compare(
    _ device: Side, _ ours: any SparsityPolicy, _ cpu: Side, _ theirs: any SparsityPolicy, steps: Int,
    longestPrompt: Int
  ) -> Counts {
    var counts = Counts()
    var generator = SplitMix64(seed: 5)
    var scene = SelfTestScene(
      vocabulary: device.loaded.model.config.vocabulary, longestPrompt: longestPrompt)
    device.runner.forgetRecordings()
    device.runner.recordSteps(policy: ours)
    let counted = CountingPolicy(theirs, statistics: cpu.statistics)
    cpu.statistics.reset()
    for _ in 0..<steps {
      for request in scene.advance(&generator) {
        for side in [device, cpu] {
          side.runner.prefill([(request.tokens, scene.pages(request.slot))]) { _, _ in }
        }
      }
      let issued = device.tokens(scene, ours, replaying: false)
      // The same step again: it writes the same K and V.
      let replayed = backend.recordsWork ? device.tokens(scene, ours, replaying: true) : issued
      let expected = cpu.tokens(scene, counted, replaying: false)
      counts.tokens += issued.count
      counts.asIssued += zip(issued, replayed).count { $0 == $1 }
      counts.asCPU += zip(issued, expected).count { $0 == $1 }
      scene.append(expected)
    }
    counts.recorded = device.runner.recordedBuckets
    counts.heads = cpu.statistics.density()
    counts.neurons = cpu.statistics.neuronDensity()
    return counts
  }

  /// A text on both, token for token; it may part where two tokens are as likely as each other.
  private func greedyText(_ device: Side, _ cpu: Side, tokens: Int) -> (passed: Bool, detail: String) {
    var sequence = device.loaded.tokenizer.encode("He went to the")
    let start = sequence.count
    let pages = (0..<Int32(SelfTestScene.pagesEach)).map { $0 }
    device.runner.forgetRecordings()
    for side in [device, cpu] { side.runner.prefill([(sequence, pages)]) { _, _ in } }
    let room = SelfTestScene.pagesEach * KVPage.tokens - start
    for step in 0..<max(0, min(tokens, room)) {
      func logits(_ side: Side) -> UnsafeBufferPointer<Float> {
        side.runner.begin()
        side.runner.append(sequence[start + step - 1], at: start + step - 1, pages: pages)
        return side.runner.run(.decode, replaying: side === device)
      }
      guard let mine = Sampler.argmax(logits(device)) else {
        return (false, "logits of token \(step + 1) are not numbers")
      }
      let theirs = logits(cpu)
      guard let wanted = Sampler.argmax(theirs) else { return (false, "the CPU's logits are not numbers") }
      if mine != wanted {
        let apart = theirs[Int(wanted)] - theirs[Int(mine)]
        return (
          apart <= Self.nearTie,
          "parts at token \(step + 1), where the CPU's logits of the two are \(apart) apart "
            + "(a near tie up to \(Self.nearTie))"
        )
      }
      sequence.append(wanted)
    }
    let text = device.loaded.tokenizer.decode(Array(sequence[start...]))
    return (true, "\(sequence.count - start) tokens: \(text.debugDescription)")
  }
}

/// The model on one backend, with a policy for each mode.
private final class Side {
  let loaded: LoadedModel
  let runner: ModelRunner
  /// What is sparse, and the policy.
  let policies: [(name: String, policy: any SparsityPolicy)]
  let statistics: SelectionStatistics

  init(_ model: URL, isDemo: Bool, on backend: any Backend) throws(PolarError) {
    let loaded = try ModelLoader.load(from: model, on: backend)
    let config = loaded.model.config
    var profile: SparsityProfile?
    if isDemo { profile = try loaded.profile(at: model.appendingPathComponent(Demo.profileName)) }
    if let profile {
      var all = try profile.modes.map { mode throws(PolarError) in
        (mode == .dense ? "dense" : "\(mode.rawValue)-sparse", try profile.policy(mode, on: backend))
      }
      if profile.modes.contains(.heads) {
        all.append(("top-k of heads, others zero,", try profile.policy(.heads, heads: .paper, on: backend)))
      }
      policies = all
    } else {
      policies = [
        ("dense", DensePolicy()), ("heads-sparse", try Self.everyOtherHead(config, on: backend)),
      ]
    }
    self.loaded = loaded
    statistics = SelectionStatistics(
      layers: config.layers, heads: config.heads, neurons: config.intermediate)
    runner = try ModelRunner(
      model: loaded.model, backend: backend,
      cachePages: SelfTestScene.sequences * SelfTestScene.pagesEach, maximumRows: 64,
      maximumSequences: SelfTestScene.sequences,
      maximumContext: SelfTestScene.pagesEach * KVPage.tokens,
      policyBytes: policies.map { $0.policy.workspaceByteCount(rows: SelfTestScene.sequences) }.max() ?? 0)
  }

  /// For models without a profile: every other unit, the others attending locally; the first layer is dense.
  private static func everyOtherHead(
    _ config: ModelConfig, on backend: any Backend
  ) throws(PolarError) -> any SparsityPolicy {
    let units = SelectionUnits.natural(heads: config.heads, kvHeads: config.kvHeads)
    return try StaticPolicy(
      masks: (0..<config.layers).map { layer in
        layer == 0 ? nil : (0..<units.count).map { ($0 + layer) % 2 == 0 }
      }, hidden: config.hidden, units: units, fallback: .local(sinkPages: 1, recentPages: 2), on: backend)
  }

  /// The most likely token of each row of a step.
  func tokens(_ scene: SelfTestScene, _ policy: any SparsityPolicy, replaying: Bool) -> [Int32] {
    runner.begin()
    for request in scene.running {
      let last = request.tokens.count - 1
      runner.append(request.tokens[last], at: last, pages: scene.pages(request.slot))
    }
    // Which neurons a step computes depends on its number of rows: issued steps have the padding rows of recorded ones.
    let logits = runner.run(.decode, policy: policy, replaying: replaying, padding: true)
    return scene.running.indices.map { row in
      let line = logits[row * scene.vocabulary..<(row + 1) * scene.vocabulary]
      return Sampler.argmax(UnsafeBufferPointer(rebasing: line)) ?? -1
    }
  }
}

/// Requests that come and go.
private struct SelfTestScene {
  static let sequences = 8
  /// More than the sinks and recent pages of a local fallback.
  static let pagesEach = 14

  struct Request {
    let slot: Int
    var tokens: [Int32]
    var remaining: Int
  }

  let vocabulary: Int
  let longestPrompt: Int
  private(set) var running: [Request] = []
  private var free = Array(0..<Self.sequences)
  private var isLong = false

  /// Every other prompt is of about `longestPrompt` tokens, the first one is.
  init(vocabulary: Int, longestPrompt: Int) {
    self.vocabulary = vocabulary
    self.longestPrompt = min(longestPrompt, Self.pagesEach * KVPage.tokens - 1)
  }

  /// Pages of a slot, none beside the other.
  func pages(_ slot: Int) -> [Int32] {
    (0..<Int32(Self.pagesEach)).map { $0 * Int32(Self.sequences) + Int32(slot) }
  }

  /// Lets finished requests go and new ones come, and returns the new ones.
  mutating func advance(_ generator: inout SplitMix64) -> [Request] {
    let most = Self.pagesEach * KVPage.tokens
    for request in running where request.remaining <= 0 || request.tokens.count >= most {
      free.append(request.slot)
    }
    running.removeAll { $0.remaining <= 0 || $0.tokens.count >= most }
    guard running.isEmpty || (!free.isEmpty && Int.random(in: 0..<4, using: &generator) == 0) else {
      return []
    }
    let slot = free.remove(at: Int.random(in: 0..<free.count, using: &generator))
    isLong.toggle()
    let lengths = isLong ? max(1, longestPrompt - 8)...longestPrompt : 1...min(40, longestPrompt)
    let tokens = (0..<Int.random(in: lengths, using: &generator)).map { _ in
      Int32.random(in: 0..<Int32(vocabulary), using: &generator)
    }
    let request = Request(
      slot: slot, tokens: tokens, remaining: Int.random(in: 1...40, using: &generator))
    running.append(request)
    return [request]
  }

  mutating func append(_ tokens: [Int32]) {
    for index in running.indices {
      running[index].tokens.append(max(0, tokens[index]))
      running[index].remaining -= 1
    }
  }
}
