import PolarCore
import PolarReference
import Testing

@Suite struct ConformanceTests {
  @Test(arguments: [1, 2] as [UInt64])
  func referencePassesAgainstItself(seed: UInt64) {
    let results = ConformanceSuite(seed: seed).run(ReferenceBackend())
    for result in results { #expect(result.passed, "\(result.name): \(result.detail)") }
    #expect(Set(results.map(\.name)).count == results.count, "two checks have one name")
    #expect(results.count > 300)
  }

  @Test func progressSeesEveryResultInOrder() {
    var seen: [ConformanceSuite.Result] = []
    let results = ConformanceSuite().run(ReferenceBackend()) { seen.append($0) }
    #expect(seen == results)
  }
}

extension ConformanceTests {
  @Test(arguments: Fault.allCases)
  func aFaultIsNoticed(fault: Fault) {
    let results = ConformanceSuite().run(FaultyBackend(fault), matching: fault.rawValue)
    #expect(!results.isEmpty)
    #expect(results.contains { !$0.passed }, "no check notices it")
  }

  @Test func aFaultInOneOpLeavesOthersAlone() {
    let results = ConformanceSuite().run(FaultyBackend(.leakyRelu), matching: " x 64")
    #expect(results.contains { !$0.passed })
    for result in results where !result.passed { #expect(result.name.hasPrefix("relu"), "\(result)") }
  }
}
