internal import CPolarCUDA
internal import Foundation
import Synchronization

/// A library that Polar opens at run time to use an NVIDIA GPU.
public enum CUDALibrary: Int32, Sendable, CaseIterable {
  /// The driver: `libcuda.so.1`, installed with the GPU's driver.
  case driver = 0
  /// The run-time compiler, which turns the kernels' source into machine code.
  case nvrtc = 1
  /// NVIDIA's matrix multiplication, for large batches; Polar has its own for when it is missing.
  case cublasLt = 2

  /// The name in messages.
  public var title: String {
    switch self {
    case .driver: "the CUDA driver"
    case .nvrtc: "NVRTC"
    case .cublasLt: "cuBLASLt"
    }
  }

  /// The plain name.
  public var name: String {
    switch self {
    case .driver: "CUDA driver"
    case .nvrtc: "NVRTC"
    case .cublasLt: "cuBLASLt"
    }
  }

  /// How to get it.
  public var advice: String {
    switch self {
    case .driver:
      "install NVIDIA's driver for the GPU (libcuda.so.1 is part of it; in a container, run it with GPU access)"
    case .nvrtc:
      "pip install nvidia-cuda-nvrtc (or install the CUDA toolkit, or put its folder into POLAR_CUDA_PATH); "
        + "with an archive of `polar kernels build` it is not needed"
    case .cublasLt:
      "optional: pip install nvidia-cublas (or install the CUDA toolkit, or put its folder into POLAR_CUDA_PATH)"
    }
  }

  /// File names by CUDA's major version, preferred ones first.
  func fileNames(majors: [Int]) -> [String] {
    switch self {
    case .driver: ["libcuda.so.1"]
    case .nvrtc: majors.map { "libnvrtc.so.\($0)" }
    case .cublasLt: majors.map { "libcublasLt.so.\($0)" }
    }
  }

  /// Loads the library once per process and says what came of it. Later calls give the first answer again.
  public func load() -> CUDALibraryStatus {
    Self.statuses.withLock { statuses in
      if let status = statuses[self] { return status }
      // A compiler newer than the driver makes code that the driver refuses.
      let driverMajor = self == .driver ? nil : Self.driverVersion().map { $0 / 1000 }
      let majors = [13, 12].filter { $0 <= max(12, driverMajor ?? 13) }
      let status = CUDALibrarySearch(self, majors: majors).run()
      statuses[self] = status
      return status
    }
  }

  private static let statuses = Mutex<[CUDALibrary: CUDALibraryStatus]>([:])

  /// The CUDA version that the driver supports, such as 13000; nil while the driver is not loaded.
  static func driverVersion() -> Int? {
    var version: Int32 = 0
    return pc_cuDriverGetVersion(&version) == 0 ? Int(version) : nil
  }
}

/// What came of looking for a library.
public struct CUDALibraryStatus: Sendable, Equatable {
  /// Which library.
  public let library: CUDALibrary
  /// The file, or the name by which the system's search found it; nil when there is none.
  public let path: String?
  /// Its version, as the library tells it.
  public let version: String?
  /// Where it was looked for, in order, and what was wrong there.
  public let tried: [String]

  static let absent = ": not there"

  /// Whether it can be used.
  public var isLoaded: Bool { path != nil }
}

/// The places where a CUDA library may lie, and the attempt to open it at each.
struct CUDALibrarySearch {
  let library: CUDALibrary
  let majors: [Int]
  let environment: [String: String]

  init(
    _ library: CUDALibrary, majors: [Int],
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) {
    self.library = library
    self.majors = majors
    self.environment = environment
  }

  /// Folders in the order they are looked in. The system's own search comes after the explicit folder.
  var folders: [String] {
    var folders: [String] = []
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
      if let home = environment[variable], !home.isEmpty { folders.append(home + "/lib64") }
    }
    folders += ["/usr/local/cuda/lib64", "/usr/lib/wsl/lib"]
    if let conda = environment["CONDA_PREFIX"], !conda.isEmpty { folders.append(conda + "/lib") }
    return folders + pipFolders
  }

  /// `nvidia/.../lib` in the site-packages of virtual environments and of the system's Python.
  private var pipFolders: [String] {
    var roots: [String] = []
    if let root = environment["VIRTUAL_ENV"], !root.isEmpty { roots.append(root + "/lib") }
    if let home = environment["HOME"], !home.isEmpty { roots.append(home + "/.local/lib") }
    roots += ["/usr/local/lib", "/usr/lib"]
    let packages: [String] =
      switch library {
      case .driver: []
      case .nvrtc: ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"]
      case .cublasLt: ["nvidia/cu13/lib", "nvidia/cublas/lib"]
      }
    var folders: [String] = []
    for root in roots {
      let versions = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
      for version in versions.sorted() where version.hasPrefix("python3") {
        for site in ["site-packages", "dist-packages"] {
          let site = "\(root)/\(version)/\(site)"
          guard FileManager.default.fileExists(atPath: site) else { continue }
          folders += packages.map { "\(site)/\($0)" }
        }
      }
    }
    return folders
  }

  func run() -> CUDALibraryStatus {
    var tried: [String] = []
    let names = library.fileNames(majors: majors)
    func attempt(_ path: String) -> CUDALibraryStatus? {
      if library == .nvrtc { Self.preloadBuiltins(beside: path) }
      var reason = [CChar](repeating: 0, count: 512)
      let kind = polar_cuda_library(UInt32(library.rawValue))
      if polar_cuda_load(kind, path, &reason, reason.count) == 0 {
        return CUDALibraryStatus(library: library, path: path, version: version(), tried: tried)
      }
      let text = String(decoding: reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      tried.append(text.hasPrefix(path) ? text : "\(path): \(text)")
      return nil
    }
    func look(in folder: String) -> CUDALibraryStatus? {
      let files = names.map { folder + "/" + $0 }.filter { FileManager.default.fileExists(atPath: $0) }
      if files.isEmpty { tried.append(folder + CUDALibraryStatus.absent) }
      for file in files {
        if let status = attempt(file) { return status }
      }
      return nil
    }
    if let folder = environment["POLAR_CUDA_PATH"], !folder.isEmpty {
      for folder in [folder, folder + "/lib64"] {
        if let status = look(in: folder) { return status }
      }
    }
    for name in names {
      if let status = attempt(name) { return status }
    }
    for folder in folders {
      if let status = look(in: folder) { return status }
    }
    return CUDALibraryStatus(library: library, path: nil, version: nil, tried: tried)
  }

  /// NVRTC opens its builtins by their bare name, which the system's search finds only in its own folders: once they
  /// are in the process, that name is known.
  private static func preloadBuiltins(beside path: String) {
    guard let slash = path.lastIndex(of: "/") else { return }
    let folder = String(path[..<slash])
    let files = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    let major = path.split(separator: ".").last ?? ""
    for file in files where file.hasPrefix("libnvrtc-builtins.so.\(major)") {
      _ = polar_cuda_preload(folder + "/" + file)
    }
  }

  private func version() -> String? {
    switch library {
    case .driver: return CUDALibrary.driverVersion().map { "\($0 / 1000).\($0 % 1000 / 10)" }
    case .nvrtc:
      var (major, minor): (Int32, Int32) = (0, 0)
      return pc_nvrtcVersion(&major, &minor) == 0 ? "\(major).\(minor)" : nil
    case .cublasLt:
      let version = pc_cublasLtGetVersion()
      return version == 0 ? nil : "\(version / 10000).\(version / 100 % 100).\(version % 100)"
    }
  }
}
