public import Foundation
import PolarCPU
public import PolarCore
import PolarEngine
import PolarFormats
import PolarModels
import PolarSparsity

/// Checks of a device that need a model: recorded steps against issued ones, and the device against the CPU. The model is the
/// demo's, unless another is given.
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

  private static let sequences = 8
  private static let pagesEach = 8

  private let model: URL
  private let backend: any Backend

  /// Checks of `backend` with the model at `url`; the demo's model when nil.
  /// - Throws: ``PolarError/file(path:reason:)`` when the demo's files are missing.
  public init(_ backend: any Backend, model url: URL? = nil) throws(PolarError) {
    guard let model = url ?? Demo.resources else {
      throw .file(path: "demo resources", reason: "are missing beside the executable")
    }
    self.model = model
    self.backend = backend
  }

  /// Runs all checks.
  public func run(steps: Int = 300) throws(PolarError) -> [Result] {
    let loaded = try ModelLoader.load(from: model, on: backend)
    let device = try runner(loaded, on: backend)
    let cpuBackend = try CPUBackend()
    let cpu = try runner(try ModelLoader.load(from: model, on: cpuBackend), on: cpuBackend)
    var generator = SplitMix64(seed: 5)
    var scene = Scene(vocabulary: loaded.model.config.vocabulary)
    var compared = 0
    var replaysAgree = 0
    var tokensAgree = 0
    for _ in 0..<steps {
      for request in scene.advance(&generator) {
        for runner in [device, cpu] {
          runner.prefill([(request.tokens, scene.pages(request.slot))]) { _, _ in }
        }
      }
      let issued = tokens(device, scene, replaying: false)
      // The same step again: it writes the same K and V.
      let replayed = tokens(device, scene, replaying: true)
      let expected = tokens(cpu, scene, replaying: false)
      compared += issued.count
      replaysAgree += zip(issued, replayed).count { $0 == $1 }
      tokensAgree += zip(issued, expected).count { $0 == $1 }
      scene.append(expected)
    }
    var results = [
      Result(
        name: "most likely tokens equal the CPU's", passed: Double(tokensAgree) >= 0.97 * Double(compared),
        detail: "\(tokensAgree) of \(compared) (rounding may turn near ties)")
    ]
    if backend.recordsWork {
      results.append(
        Result(
          name: "recorded steps equal issued ones", passed: replaysAgree == compared,
          detail: "\(replaysAgree) of \(compared) tokens, recorded batches \(device.recordedBuckets)"))
    }
    if let failure = backend.failure {
      results.append(Result(name: "no error of the device", passed: false, detail: "\(failure)"))
    }
    return results
  }

  private func runner(_ loaded: LoadedModel, on backend: any Backend) throws(PolarError) -> ModelRunner {
    try ModelRunner(
      model: loaded.model, backend: backend, cachePages: Self.sequences * Self.pagesEach, maximumRows: 64,
      maximumSequences: Self.sequences, maximumContext: Self.pagesEach * KVPage.tokens)
  }

  private func tokens(_ runner: ModelRunner, _ scene: Scene, replaying: Bool) -> [Int32] {
    runner.begin()
    for request in scene.running {
      let last = request.tokens.count - 1
      runner.append(request.tokens[last], at: last, pages: scene.pages(request.slot))
    }
    let logits = runner.run(.decode, replaying: replaying)
    return scene.running.indices.map { row in
      let line = logits[row * scene.vocabulary..<(row + 1) * scene.vocabulary]
      return Sampler.argmax(UnsafeBufferPointer(rebasing: line)) ?? -1
    }
  }

  /// Requests that come and go.
  private struct Scene {
    struct Request {
      let slot: Int
      var tokens: [Int32]
      var remaining: Int
    }

    let vocabulary: Int
    private(set) var running: [Request] = []
    private var free = Array(0..<DeviceSelfTest.sequences)

    init(vocabulary: Int) { self.vocabulary = vocabulary }

    func pages(_ slot: Int) -> [Int32] {
      (0..<Int32(DeviceSelfTest.pagesEach)).map { $0 * Int32(DeviceSelfTest.sequences) + Int32(slot) }
    }

    /// Lets finished requests go and new ones come, and returns the new ones.
    mutating func advance(_ generator: inout SplitMix64) -> [Request] {
      let most = DeviceSelfTest.pagesEach * KVPage.tokens
      for request in running where request.remaining <= 0 || request.tokens.count >= most {
        free.append(request.slot)
      }
      running.removeAll { $0.remaining <= 0 || $0.tokens.count >= most }
      guard running.isEmpty || (!free.isEmpty && Int.random(in: 0..<4, using: &generator) == 0) else {
        return []
      }
      let slot = free.remove(at: Int.random(in: 0..<free.count, using: &generator))
      let tokens = (0..<Int.random(in: 1...40, using: &generator)).map { _ in
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
}
