import PolarCPU
import PolarCore
import PolarReference
import Testing

@Suite struct CPUConformanceTests {
  @Test(arguments: CPUISA.allCases, [1, 2])
  func passes(isa: CPUISA, threads: Int) throws {
    guard isa.isSupported else {
      print("not checked: this processor does not run \(isa.name)")
      return
    }
    let backend = try CPUBackend(threads: threads, isa: isa)
    #expect(backend.name == "cpu-\(isa.name)")
    let results = ConformanceSuite(seed: UInt64(threads)).run(backend)
    for result in results { #expect(result.passed, "\(result.name): \(result.detail)") }
    #expect(results.count > 300)
  }

  @Test(arguments: CPUISA.allCases)
  func passesWithInt8Cache(isa: CPUISA) throws {
    guard isa.isSupported else {
      print("not checked: this processor does not run \(isa.name)")
      return
    }
    let backend = try CPUBackend(threads: 2, isa: isa, kvDType: .i8)
    for part in ["attention", "storeKV"] {
      let results = ConformanceSuite().run(backend, matching: part)
      for result in results { #expect(result.passed, "\(result.name): \(result.detail)") }
      #expect(!results.isEmpty)
    }
  }
}
