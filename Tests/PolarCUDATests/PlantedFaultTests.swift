import CPolarEmulator
import PolarCore
import PolarReference
import Testing

/// The faults that are planted in a kernel.
func plantedFaults(in kernel: String) -> [String] {
  var names: [String] = []
  while let name = polar_emulator_mutation(kernel, Int32(names.count)) { names.append(String(cString: name)) }
  return names.sorted()
}

/// The checks of this target would notice a broken kernel: each planted fault must make them fail.
@Suite struct PlantedFaultTests {
  /// Each of them is planted in several kernels; this one is in all of them.
  static let faults = plantedFaults(in: "polar_attention_decode")

  @Test func everyKindOfFaultIsThere() {
    #expect(
      Self.faults == [
        "block sync in a branch", "head list ignored", "local pages off by one", "missing block sync",
        "missing warp sync", "partial slot off by one", "ring wraps early", "swizzle mismatch",
        "tail mask dropped", "wait-group off by one", "window off by one", "wrong KV head",
      ])
  }

  /// What the attention tests would say of kernels with the fault: nil when they would pass.
  private func verdict(_ mutation: String?) throws -> String? {
    // Long contexts without a window, and a window so short that each of its keys matters.
    for (seed, window) in schedules.flatMap({ seed in [nil, 20].map { (seed, $0) } }) {
      var scene = AttentionKernelTests.decodeScene(seed: seed)
      scene.window = window
      let values = scene.values()
      let kernels = EmulatedKernels(seed: seed, mutation: mutation)
      let fallback = AttentionScene.Fallback.local(sinkPages: 1, recentPages: 2)
      do {
        let got = try scene.decode(values, mask: values.mask, fallback: fallback, kernels)
        let error = worstError(
          got, try scene.expected(values, mask: values.mask, fallback: fallback))
        if error > Tolerance.attentionRounded { return "error \(error)" }
      } catch let failure as EmulatorFailure {
        return failure.description
      }
    }
    return nil
  }

  @Test func kernelsAsTheyShipPass() throws { #expect(try verdict(nil) == nil) }

  @Test(arguments: faults) func isCaught(fault: String) throws {
    let verdict = try verdict(fault)
    #expect(verdict != nil, "the checks do not notice: \(fault)")
    if fault == "block sync in a branch" {
      #expect(verdict?.contains("deadlock: thread") == true, "\(verdict ?? "")")
    }
  }
}
