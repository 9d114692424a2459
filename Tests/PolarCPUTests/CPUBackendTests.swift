import Foundation
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

  /// The backend's threads use no processor time once they are parked.
  @Test func idleThreadsUseNoProcessorTime() async throws {
    let backend = try CPUBackend(threads: 4)
    // On a busy machine the caller may do all the work before another thread gets a processor.
    for _ in 0..<1000 where backend.workerSeconds == 0 {
      #expect(backend.measuredReadBandwidth(byteCount: 1 << 22, repeats: 1) > 0)
    }
    let worked = backend.workerSeconds
    #expect(worked > 0)
    // They spin for 50 us before they park, but may wait for a processor to do so.
    var before = worked
    for _ in 0..<100 {
      try await Task.sleep(for: .milliseconds(20))
      let now = backend.workerSeconds
      if now == before { break }
      before = now
    }
    try await Task.sleep(for: .milliseconds(200))
    #expect(backend.workerSeconds == before)
  }

  /// Limits of control groups, version 1 and 2, are those of the group and of all above it.
  @Test(
    arguments: [
      ("0::/a/b\n", ["a/cpu.max": "250000 100000\n", "a/b/cpu.max": "max 100000\n"], 3),
      ("0::/a/b\n", ["a/cpu.max": "400000 100000\n", "a/b/cpu.max": "50000 100000\n"], 1),
      ("0::/a/b\n", ["cpu.max": "200000 100000\n", "a/b/cpu.max": "800000 100000\n"], 2),
      ("0::/\n", ["cpu.max": "200000 100000\n"], 2),
      ("0::/not/there\n", ["cpu.max": "200000 100000\n"], 2),
      ("0::/a\n", ["a/cpu.max": "max 100000\n"], nil),
      ("0::/a\n", ["a/cpu.max": ""], nil),
      ("0::/a\n", ["a/cpu.max": "lots of it\n"], nil),
      ("0::/a\n", ["a/cpu.max": "100000 0\n"], nil),
      ("0::/a\n", ["a/cpu.max": "-5 100000\n"], nil),
      ("0::/a\n", [:], nil),
      (
        "5:memory:/a\n4:cpu,cpuacct:/a\n",
        ["cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"], 2
      ),
      ("4:cpu:/a\n", ["cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"], nil),
      (
        "4:cpuset:/a\n", ["cpuset/a/cpu.cfs_quota_us": "100000\n", "cpuset/a/cpu.cfs_period_us": "100000\n"],
        nil
      ),
      ("no group\n\n:\n::\n", [:], nil),
    ] as [(String, [String: String], Int?)])
  func controlGroupLimits(membership: String, files: [String: String], limit: Int?) throws {
    let root = FileManager.default.temporaryDirectory.appendingPathComponent("polar-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: root) }
    try FileManager.default.createDirectory(at: root, withIntermediateDirectories: true)
    let groups = root.appendingPathComponent("cgroup")
    for (path, content) in files {
      let file = root.appendingPathComponent("fs/" + path)
      try FileManager.default.createDirectory(
        at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try content.write(to: file, atomically: true, encoding: .utf8)
    }
    try membership.write(to: groups, atomically: true, encoding: .utf8)
    let mount = root.appendingPathComponent("fs").path
    #expect(CPUBackend.controlGroupLimit(membership: groups.path, mount: mount) == limit)
  }

  @Test func noControlGroupsAreNoLimit() {
    #expect(CPUBackend.controlGroupLimit(membership: "/nowhere/cgroup", mount: "/nowhere") == nil)
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
