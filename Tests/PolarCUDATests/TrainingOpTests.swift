import EmulatedCUDA
import PolarCUDA
import PolarCalibration
import Testing

/// Ops of training, and whether their checks would notice a broken kernel.
@Suite struct TrainingOpTests {
  private func differences(
    seed: UInt64, element: CUDAElement = .bf16, mutation: String? = nil
  ) throws -> [String] {
    let device = EmulatedDevice(seed: seed, element: element, mutation: mutation)
    return try TrainingConformance.faults(of: try CUDABackend(device: device), seed: seed)
  }

  @Test(arguments: schedules) func opsDoWhatTheHostDoes(seed: UInt64) throws {
    let found = try differences(seed: seed)
    #expect(found.isEmpty, "\(found)")
  }

  @Test func f16DoesToo() throws {
    let found = try differences(seed: 1, element: .f16)
    #expect(found.isEmpty, "\(found)")
  }

  static let faults = plantedFaults(in: "polar_turns")

  @Test func everyKindOfFaultIsThere() {
    #expect(
      Self.faults == [
        "bits packed from the other end", "label of the neighbour", "last columns left out",
        "row list ignored", "samples rounded down", "sum of one warp", "training without block syncs",
        "weights of labels swapped",
      ])
  }

  @Test(arguments: faults) func isCaught(fault: String) throws {
    let caught = try schedules.contains { try !differences(seed: $0, mutation: fault).isEmpty }
    #expect(caught, "the checks do not notice: \(fault)")
  }
}
