import Testing

/// Ops of training, and whether their checks would notice a broken kernel.
@Suite struct TrainingOpTests {
  @Test(arguments: schedules) func opsDoWhatTheHostDoes(seed: UInt64) throws {
    let faults = try TrainingChecks.faults(seed: seed)
    #expect(faults.isEmpty, "\(faults)")
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
    let caught = try schedules.contains { try !TrainingChecks.faults(seed: $0, mutation: fault).isEmpty }
    #expect(caught, "the checks do not notice: \(fault)")
  }
}
