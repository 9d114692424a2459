import Foundation
import PolarCore
import PolarTestSupport
import Testing

@testable import PolarCUDA

@Suite struct LibraryTests {
  @Test func foldersAreSearchedInOrder() {
    let search = CUDALibrarySearch(
      .nvrtc, majors: [13, 12],
      environment: ["CUDA_HOME": "/opt/cuda", "CONDA_PREFIX": "/opt/conda", "HOME": "/nowhere"])
    let first = ["/opt/cuda/lib64", "/usr/local/cuda/lib64", "/usr/lib/wsl/lib", "/opt/conda/lib"]
    #expect(search.folders.prefix(4) == first[...])
    #expect(CUDALibrary.nvrtc.fileNames(majors: [13, 12]) == ["libnvrtc.so.13", "libnvrtc.so.12"])
  }

  @Test func pipPackagesOfAVirtualEnvironmentAreFound() throws {
    let root = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    let site = root.appendingPathComponent("lib/python3.12/site-packages/nvidia/cu13/lib")
    try FileManager.default.createDirectory(at: site, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: root) }
    let search = CUDALibrarySearch(.cublasLt, majors: [13], environment: ["VIRTUAL_ENV": root.path])
    #expect(search.folders.contains(site.path))
  }

  /// A file that is no library, and a folder without one: both are named with the reason.
  @Test func whatWasTriedIsSaid() throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let fake = folder.appendingPathComponent("libcublasLt.so.99")
    try Data("not a library".utf8).write(to: fake)
    let environment = ["POLAR_CUDA_PATH": folder.path]
    let status = CUDALibrarySearch(.cublasLt, majors: [99], environment: environment).run()
    #expect(status.path == nil)
    #expect(status.tried.first?.hasPrefix(fake.path) == true)
    #expect(status.tried.contains("\(folder.path)/lib64: not there"))
    #expect(status.tried.contains("/usr/local/cuda/lib64: not there"))
  }

  @Test func errorsNameCallPurposeAndLibrary() {
    let error = CUDAError(.nvrtc, 6, "nvrtcCompileProgram", "dense.cu")
    // The library's words where it is there, else the number.
    let words = CUDALibrary.nvrtc.load().isLoaded ? "NVRTC_ERROR_COMPILATION" : "NVRTC error 6"
    #expect("\(error)" == "nvrtcCompileProgram (dense.cu): \(words)")
    #expect(
      error.asPolarError(device: "cuda:0")
        == .device(name: "cuda:0", reason: "nvrtcCompileProgram (dense.cu): \(words)"))
    #expect("\(CUDAError(.cublasLt, -100, "cublasLtCreate"))" == "cublasLtCreate: cuBLASLt is not loaded")
  }

  @Test func theReportSaysHowToGetWhatIsMissing() {
    let report = CUDAReport()
    #expect(report.libraries.map(\.library) == CUDALibrary.allCases)
    for library in report.libraries where !library.isLoaded {
      #expect(!library.tried.isEmpty)
      #expect(report.lines.contains("  to get it: \(library.library.advice)"))
    }
    if report.devices.isEmpty { #expect(!report.isUsable) }
  }
}
