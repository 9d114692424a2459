import EmulatedCUDA
import PolarCUDA
import PolarCore
import PolarReference
import Testing

/// The launch code of the CUDA backend and the kernels, all but the driver: every op against the reference.
@Suite struct CUDAConformanceTests {
  @Test(arguments: [(1, .bf16), (2, .bf16), (3, .f16)] as [(UInt64, CUDAElement)])
  func emulatedBackendPasses(seed: UInt64, element: CUDAElement) throws {
    let device = EmulatedDevice(multiprocessors: seed == 1 ? 3 : 132, seed: seed, element: element)
    let backend = try CUDABackend(device: device)
    let results = ConformanceSuite(seed: seed).run(backend)
    for result in results { #expect(result.passed, "\(result.name): \(result.detail)") }
    #expect(results.count > 300)
    #expect(backend.failure == nil)
    #expect(device.launches > results.count)
  }

  @Test func shapesThatNoKernelIsMadeForAreRefusedAtLoad() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    #expect(throws: PolarError.self) {
      try backend.prepare(AttentionShape(heads: 4, kvHeads: 4, headDim: 258))
    }
    #expect(throws: PolarError.self) {
      try backend.prepare(AttentionShape(heads: 4, kvHeads: 4, headDim: 63))
    }
    #expect(throws: PolarError.self) {
      try backend.prepare(AttentionShape(heads: 17, kvHeads: 1, headDim: 64))
    }
    try backend.prepare(AttentionShape(heads: 16, kvHeads: 1, headDim: 64))
  }
}
