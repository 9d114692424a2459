import EmulatedCUDA
import Polar
import PolarCUDA
import Testing

@Suite struct SelfTestTests {
  /// The self-test of a GPU, shorter, on the emulated one: all modes of the demo's model, with a context of which a local
  /// fallback leaves something out.
  @Test func passesOnTheEmulatedDevice() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let results = try DeviceSelfTest(backend).run(
      steps: 3, textTokens: 3, longestPrompt: 88, largeProducts: false)
    #expect(results.count == 12)
    for result in results { #expect(result.passed, "\(result.name): \(result.detail)") }
    #expect(Set(results.map(\.name)).count == results.count)
  }

  /// With weights, K and V in f16.
  @Test func halfPrecisionPassesToo() throws {
    let backend = try CUDABackend(device: EmulatedDevice(element: .f16))
    let results = try DeviceSelfTest(backend).run(
      steps: 2, textTokens: 2, longestPrompt: 6, largeProducts: false)
    for result in results {
      #expect(result.passed, "\(result.name): \(result.detail)")
    }
  }

  /// A broken selective kernel shows.
  @Test func aFaultIsNoticed() throws {
    let backend = try CUDABackend(device: EmulatedDevice(mutation: "next neuron's weights"))
    let results = try DeviceSelfTest(backend).run(
      steps: 2, textTokens: 1, longestPrompt: 6, largeProducts: false)
    let failed = results.filter { !$0.passed }.map(\.name)
    #expect(failed.contains { $0.hasPrefix("mlp-sparse") }, "\(failed)")
    #expect(!failed.contains { $0.hasPrefix("dense") }, "\(failed)")
  }
}
