import EmulatedCUDA
import PolarCore
import PolarReference
import Testing

@testable import PolarCUDA

/// The conformance suite would notice a broken kernel of any op: each planted fault must make one of its checks fail.
@Suite struct PlantedOpFaultTests {
  /// What a run of the suite's checks of one name says of kernels with a fault, nil when it finds nothing.
  private func verdict(
    _ fault: String?, in kernel: Kernel? = nil, checks: String
  ) throws -> (verdict: String?, ran: Set<Kernel>) {
    let device = EmulatedDevice(mutation: fault, mutated: kernel)
    let backend = try CUDABackend(device: device)
    var verdict: String?
    var count = 0
    for result in ConformanceSuite().run(backend, matching: checks) {
      count += 1
      if !result.passed, verdict == nil { verdict = "\(result.name): \(result.detail)" }
    }
    #expect(count > 0, "no check is called \(checks)")
    return (verdict ?? backend.failure.map { "\($0)" }, device.kernels)
  }

  struct Case: Sendable, CustomTestStringConvertible {
    let fault: String
    let kernel: Kernel
    let checks: String
    var testDescription: String { "\(fault) in \(kernel.rawValue)" }
  }

  /// Faults of one idea each.
  static let special: [Case] = [
    Case(fault: "next neuron's weights", kernel: .selectiveDown8, checks: "selectiveDown, 5 of 9"),
    Case(fault: "next neuron's weights", kernel: .selectiveDown64, checks: "selectiveDown, 17 of 96"),
    Case(fault: "last tile left out", kernel: .linear16, checks: "linear rows 13, K 576"),
    Case(fault: "last tile left out", kernel: .selectiveUp16, checks: "selectiveUp, 65 of 130"),
    Case(fault: "last tile left out", kernel: .selectiveDown16, checks: "selectiveDown, 65 of 130"),
    Case(fault: "last piece not added", kernel: .reduce, checks: "selectiveDown, 530 of 600"),
    Case(fault: "early block", kernel: .routeHeads, checks: "routeHeads 2 x 1090"),
    Case(fault: "early block", kernel: .routeNeurons16, checks: "routeNeurons 9"),
    Case(fault: "ties to the higher index", kernel: .routeHeads, checks: "routeHeads 70"),
    Case(fault: "ties to the higher index", kernel: .selectTopK, checks: "selectTopK"),
    Case(fault: "half a word counted", kernel: .routeNeurons8, checks: "routeNeurons 3 x 30"),
    Case(fault: "half a word counted", kernel: .routeNeurons16, checks: "routeNeurons 9"),
    Case(fault: "half a word counted", kernel: .routeNeurons32, checks: "routeNeurons 20"),
    Case(fault: "half a word counted", kernel: .routeNeurons64, checks: "routeNeurons 40"),
    Case(fault: "first of a share left out", kernel: .listTopK, checks: "topKUnion 3"),
    Case(fault: "first of a share left out", kernel: .listAbove, checks: "unionAbove 3"),
  ]

  /// In every other kernel one thread does another's work. (A list of wrong length would be written to who knows where.)
  private static let otherKernels: [(kernel: Kernel, checks: String)] = [
    (.embed, "embed"), (.gatherRows, "gatherRows"), (.rmsNorm, "rmsNorm"), (.layerNorm, "layerNorm"),
    (.add, "add "), (.relu, "relu "), (.gelu, "gelu"), (.siluMul, "siluMul"), (.reluMul, "reluMul"),
    (.storeKV, "storeKV 2 heads of 64"), (.rotaryStoreKV, "rotaryStoreKV 8 x 9/3 heads of 64"),
    (.linear8, "linear rows 3"), (.linear16, "linear rows 13, K 30"),
    (.linear32, "linear rows 64, K 30"), (.linear64, "linear rows 64, K 30"),
    (.reduce, "linear rows 9, K 1090"),
    (.selectiveUp8, "selectiveUp, 5 of 9"), (.selectiveUp16, "selectiveUp, 65 of 130"),
    (.selectiveUp32, "selectiveUp, 17 of 96"), (.selectiveUp64, "selectiveUp, 17 of 96"),
    (.selectiveUpGated8, "selectiveUp gated, 5 of 9"), (.selectiveUpGated16, "selectiveUp gated, 65 of 130"),
    (.selectiveUpGated32, "selectiveUp gated, 17 of 96"),
    (.selectiveUpGated64, "selectiveUp gated, 17 of 96"),
    (.selectiveFinish, "selectiveUp, 13 of 40"), (.selectiveDown8, "selectiveDown, 5 of 9"),
    (.selectiveDown16, "selectiveDown, 65 of 130"), (.selectiveDown32, "selectiveDown, 17 of 96"),
    (.selectiveDown64, "selectiveDown, 17 of 96"), (.unionSums, "topKUnion 3"), (.unionPeaks, "unionAbove 3"),
    (.selectTopK, "selectTopK 13"),
    (.selectAbove, "selectAbove 13"), (.headNorms, "headNorms"), (.headDeviations, "headDeviations"),
    (.routeHeads, "routeHeads 9"), (.argmax, "argmax of numbers"),
  ]

  static let idle = otherKernels.map { Case(fault: "idle thread", kernel: $0.kernel, checks: $0.checks) }

  @Test(arguments: special + idle) func isNoticed(_ planted: Case) throws {
    let result = try verdict(planted.fault, in: planted.kernel, checks: planted.checks)
    #expect(result.ran.contains(planted.kernel), "the checks do not run \(planted.kernel.rawValue)")
    #expect(result.verdict != nil, "no check notices it")
  }

  /// The checks above find nothing in the kernels as they ship.
  @Test func kernelsAsTheyShipPass() throws {
    for checks in Set((Self.special + Self.idle).map(\.checks)) {
      #expect(try verdict(nil, checks: checks).verdict == nil)
    }
  }

  /// Drawing tokens at random is no op of the suite.
  @Test func tokensWouldBeWrong() throws {
    func tokens(_ fault: String?) throws -> [Int32] {
      let backend = try CUDABackend(device: EmulatedDevice(mutation: fault, mutated: .sample))
      let pool = TensorPool(backend)
      // The most likely token is the second thread's.
      let logits = try pool.tensor(HostTensor((0..<2000).map { Float($0 == 1 ? 9 : -$0) / 9 }))
      let tokens = try pool.output(columns: 1, dtype: .i32)
      let draw = TokenDraw(temperature: 0.01, topP: 1, minP: 0, topK: 0, uniform: 0.5)
      let bytes = withUnsafeBytes(of: draw) { Array($0) }
      backend.draw(tokens, logits: logits, draws: try pool.tensor(HostTensor(bytes)))
      return backend.failure == nil ? pool.read(tokens, as: Int32.self).values : []
    }
    #expect(try tokens(nil) == [1])
    #expect(try tokens("idle thread") != [1])
  }

  /// Every kernel has a planted fault that a test looks for: those of attention itself and of training are elsewhere. The conversion for the
  /// vendor's library does not run here.
  @Test func noKernelIsLeftOut() {
    let covered = Set((Self.special + Self.idle).map(\.kernel))
    for kernel in Kernel.allCases where !kernel.isForTraining && !kernel.dependsOnHeadDim {
      #expect(covered.contains(kernel) || [.sample, .convert].contains(kernel), "\(kernel)")
    }
  }
}
