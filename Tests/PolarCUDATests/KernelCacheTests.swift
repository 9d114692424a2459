import Foundation
import PolarCore
import PolarTestSupport
import Testing

@testable import PolarCUDA

@Suite struct KernelCacheTests {
  private let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)

  @Test func imagesComeBack() throws {
    defer { try? FileManager.default.removeItem(at: folder) }
    let file = folder.appendingPathComponent("deep/a.cubin")
    #expect(KernelCache.read(file) == nil)
    #expect(KernelCache.write([1, 2, 3], to: file))
    #expect(KernelCache.read(file) == [1, 2, 3])
  }

  /// Cut short, changed, or something else altogether: never used.
  @Test func damagedFilesAreNotUsed() throws {
    defer { try? FileManager.default.removeItem(at: folder) }
    let file = folder.appendingPathComponent("a.cubin")
    KernelCache.write(Array(0...99), to: file)
    let whole = try Data(contentsOf: file)
    for cut in [0, 1, 8, 40, whole.count - 1] {
      try whole.prefix(cut).write(to: file)
      #expect(KernelCache.read(file) == nil, "cut to \(cut) bytes")
    }
    for index in [0, 20, whole.count - 1] {
      var changed = whole
      changed[index] ^= 1
      try changed.write(to: file)
      #expect(KernelCache.read(file) == nil, "byte \(index) changed")
    }
  }

  @Test func aFolderThatCannotBeWrittenIsNoError() {
    #expect(!KernelCache.write([1], to: URL(fileURLWithPath: "/proc/nothing/a.cubin")))
  }

  @Test func theKeyDependsOnSourceNameAndArchitecture() {
    let unit = KernelUnit(source: KernelSource(name: "a.cu", text: "x"), defines: [])
    let keys = [
      KernelCache.key(of: unit, architecture: "sm_80"), KernelCache.key(of: unit, architecture: "sm_90a"),
      KernelCache.key(
        of: KernelUnit(source: KernelSource(name: "a.cu", text: "y"), defines: []), architecture: "sm_80"),
      KernelCache.key(
        of: KernelUnit(source: KernelSource(name: "b.cu", text: "x"), defines: []), architecture: "sm_80"),
      KernelCache.key(of: KernelUnit(source: unit.source, defines: ["A=1"]), architecture: "sm_80"),
    ]
    #expect(Set(keys).count == keys.count)
    #expect(keys.allSatisfy { $0.count == 64 })
  }

  @Test func damagedArchivesAreRefused() throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appendingPathComponent("a.kernels").path
    let table = #"[{"unit":"a","architecture":"sm_80","key":"k","offset":0,"size":9,"digest":"d"}]"#
    let huge = Data("POLARKA1".utf8) + Data(repeating: 0xff, count: 8)
    let outside =
      Data("POLARKA1".utf8) + Data([UInt8(table.utf8.count), 0, 0, 0, 0, 0, 0, 0]) + Data(table.utf8)
    for data in [Data(), Data("POLARKA1".utf8), Data("something else, long enough".utf8), huge, outside] {
      try data.write(to: URL(fileURLWithPath: path))
      #expect(throws: PolarError.self) { try KernelArchive(path: path) }
    }
    // Whole, but its one image is not what the digest says.
    try (outside + Data(repeating: 0, count: 9)).write(to: URL(fileURLWithPath: path))
    let archive = try KernelArchive(path: path)
    #expect(archive.architectures == ["sm_80"])
    #expect(archive.image("k") == nil)
    #expect(archive.image("other") == nil)
    #expect(throws: PolarError.file(path: "/nowhere/a", reason: "cannot be read")) {
      try KernelArchive(path: "/nowhere/a")
    }
  }
}

/// What needs the compiler, which needs no GPU.
@Suite struct CompilerTests {
  @Test func archivesAreBuiltAndUsedBeforeTheCompiler() throws {
    guard CUDALibrary.nvrtc.load().isLoaded else {
      print("not checked: NVRTC is not on this machine (\(CUDALibrary.nvrtc.advice))")
      return
    }
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appendingPathComponent("polar.kernels").path
    let unit = try #require(KernelUnit("attention", headDim: 64))
    var built: [String] = []
    try KernelArchive.build([unit], architectures: ["sm_90a"], path: path) { unit, architecture, bytes in
      built.append("\(unit) \(architecture)")
      #expect(bytes > 1000)
    }
    #expect(built == ["\(unit.name) sm_90a"])
    let archive = try KernelArchive(path: path)
    let image = try #require(archive.image(KernelCache.key(of: unit, architecture: "sm_90a")))
    #expect(try KernelCache(folder: nil, archive: archive).image(of: unit, architecture: "sm_90a") == image)
    // Not in the archive: compiled, and kept on disk.
    let cache = KernelCache(folder: folder, archive: archive)
    let dense = try #require(KernelUnit("dense", headDim: nil))
    let compiled = try cache.image(of: dense, architecture: "sm_80")
    let files = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter {
      $0.hasSuffix(".cubin")
    }
    #expect(files.count == 1)
    #expect(KernelCache.read(folder.appendingPathComponent(files[0])) == compiled)
  }

  @Test func aKernelWithAnErrorIsRefusedWithTheCompilersWords() throws {
    guard CUDALibrary.nvrtc.load().isLoaded else {
      print("not checked: NVRTC is not on this machine (\(CUDALibrary.nvrtc.advice))")
      return
    }
    let unit = KernelUnit(source: KernelSource(name: "bad.cu", text: "int f( {"), defines: [])
    do throws(CUDAError) {
      _ = try NVRTC.compile(unit, architecture: "sm_80")
      Issue.record("it compiles")
    } catch {
      #expect(error.description.contains("bad.cu"))
      #expect(error.description.contains("error"))
    }
  }

  /// Machine code runs on later GPUs of its generation.
  @Test func archivesServeLaterGPUsOfAGeneration() {
    #expect(KernelCache.runnable(on: "sm_80") == ["sm_80"])
    #expect(KernelCache.runnable(on: "sm_90a") == ["sm_90a", "sm_90"])
    #expect(KernelCache.runnable(on: "sm_103") == ["sm_103", "sm_102", "sm_101", "sm_100"])
    #expect(KernelCache.runnable(on: "sm_89").suffix(2) == ["sm_81", "sm_80"])
  }

  @Test func everyKernelHasASource() {
    for kernel in Kernel.allCases {
      let unit = KernelUnit(kernel.file, headDim: kernel.dependsOnHeadDim ? 64 : nil)
      #expect(unit?.source.text.contains("\(kernel.rawValue)(") == true, "\(kernel.rawValue)")
    }
  }
}
