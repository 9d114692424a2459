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
