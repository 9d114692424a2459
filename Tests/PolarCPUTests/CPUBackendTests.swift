import PolarCPU
import PolarCore
import Testing

@Suite struct CPUBackendTests {
  @Test func refusesWhatItCannotRun() {
    #expect(throws: PolarError.configuration(field: "threads", reason: "0 is not in 1...1024")) {
      try CPUBackend(threads: 0)
    }
    for isa in CPUISA.allCases where !isa.isSupported {
      #expect(throws: PolarError.self) { try CPUBackend(isa: isa) }
    }
    #expect(CPUISA.best.isSupported)
    #expect(CPUISA.generic.isSupported)
  }

  @Test(arguments: [1, 64, 1000, 3 << 20]) func memoryIsAlignedAndZeroed(byteCount: Int) throws {
    let backend = try CPUBackend(threads: 1)
    let memory = try backend.allocate(byteCount: byteCount)
    #expect(memory.byteCount == byteCount)
    #expect(memory.base.bits % 64 == 0)
    var bytes = [UInt8](repeating: 1, count: byteCount)
    bytes.withUnsafeMutableBytes { backend.download(memory.base, into: $0) }
    #expect(bytes.allSatisfy { $0 == 0 })
  }

  @Test func memoryThatIsNotThereIsAnError() throws {
    let backend = try CPUBackend(threads: 1)
    #expect(throws: PolarError.outOfMemory(what: "CPU memory", bytes: .max)) {
      try backend.allocate(byteCount: .max)
    }
    #expect(throws: PolarError.outOfMemory(what: "CPU memory", bytes: -1)) {
      try backend.allocate(byteCount: -1)
    }
  }

  @Test func reportsMachine() throws {
    let backend = try CPUBackend(threads: 2)
    #expect(backend.threads == 2)
    #expect(backend.kvDType == .bf16)
    #expect(backend.measuredReadBandwidth(byteCount: 1 << 20, repeats: 1) > 0)
    #expect(backend.measuredReadBandwidth(byteCount: 0, repeats: 1) == 0)
  }

  /// Many threads on few cores, and callers on several threads at once, give the results of one thread.
  @Test func oversubscribedThreadsAndConcurrentCallersAgree() async throws {
    let (inputs, outputs, rows) = (64, 100, 5)
    let values = (0..<outputs * inputs).map { Float($0 % 17) - 8 }
    let x = (0..<rows * inputs).map { Float($0 % 13) - 6 }
    @Sendable func run(_ backend: CPUBackend) throws -> [Float] {
      let weight = try backend.allocate(
        byteCount: backend.packedByteCount(outputs: outputs, inputs: inputs))
      let packed = PackedMatrix(weight.base, outputs: outputs, inputs: inputs)
      values.withUnsafeBufferPointer { backend.packRows(packed, firstRow: 0, values: $0) }
      let input = try backend.allocate(byteCount: x.count * 4)
      x.withUnsafeBytes { backend.upload($0, to: input.base) }
      let output = try backend.allocate(byteCount: rows * outputs * 4)
      let out = Tensor(output.base, rows: rows, columns: outputs)
      for _ in 0..<20 {
        backend.linear(out, Tensor(input.base, rows: rows, columns: inputs), weight: packed, bias: nil)
      }
      var result = [Float](repeating: 0, count: rows * outputs)
      result.withUnsafeMutableBytes { backend.download(output.base, into: $0) }
      return result
    }
    let expected = try run(CPUBackend(threads: 1))
    let shared = try CPUBackend(threads: 9)
    try await withThrowingTaskGroup(of: [Float].self) { group in
      for _ in 0..<4 { group.addTask { try run(shared) } }
      for try await result in group { #expect(result == expected) }
    }
  }
}
