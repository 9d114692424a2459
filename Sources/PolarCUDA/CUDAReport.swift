internal import CPolarCUDA

/// What this machine offers for NVIDIA GPUs: libraries, devices, and what is missing.
public struct CUDAReport: Sendable {
  /// Each library: where it was found or what was tried.
  public let libraries: [CUDALibraryStatus]
  /// The GPUs that the driver shows.
  public let devices: [CUDADeviceInfo]
  /// Why there is no GPU although the driver is there; nil when there is one.
  public let failure: String?
  /// Architectures in the archive of compiled kernels beside the executable; empty when there is none.
  public let archive: [String]

  /// Looks at the machine. Opens the libraries, but makes no context on a GPU.
  public init() {
    libraries = CUDALibrary.allCases.map { $0.load() }
    archive = KernelArchive.installed()?.architectures ?? []
    guard CUDALibrary.driver.load().isLoaded else {
      devices = []
      failure = nil
      return
    }
    do throws(CUDAError) {
      devices = try CUDADevice.all()
      failure = devices.isEmpty ? "the driver shows no device" : nil
    } catch {
      devices = []
      failure = error.description
    }
  }

  /// Whether a GPU can be used: there is one, and kernels can be compiled or are there already.
  public var isUsable: Bool {
    !devices.isEmpty && (CUDALibrary.nvrtc.load().isLoaded || !archive.isEmpty)
  }

  /// The report as lines of text: what was found; for what was not, where it was looked for and how to get it.
  public var lines: [String] {
    var lines: [String] = []
    for library in libraries {
      if let path = library.path {
        lines.append("found \(library.library.title) \(library.version ?? "") at \(path)")
      } else {
        lines.append("no \(library.library.name)")
        let absent = library.tried.filter { $0.hasSuffix(CUDALibraryStatus.absent) }
        lines += library.tried.filter { !absent.contains($0) }.map { "  tried \($0)" }
        let folders = absent.map { $0.dropLast(CUDALibraryStatus.absent.count) }
        lines.append("  not in \(folders.joined(separator: ", "))")
        lines.append("  to get it: \(library.library.advice)")
      }
    }
    for device in devices {
      lines.append(
        "device \(device.ordinal): \(device.name), \(device.architecture), \(device.multiprocessors) "
          + "multiprocessors, \(device.memoryBytes >> 30) GiB")
    }
    if let failure { lines.append("no device: \(failure)") }
    if !archive.isEmpty { lines.append("compiled kernels for \(archive.joined(separator: ", "))") }
    return lines
  }
}
