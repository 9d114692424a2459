internal import CPolarCUDA
public import PolarCore

/// An error of the CUDA driver, of NVRTC or of cuBLASLt.
public struct CUDAError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The library that reported it.
  public let library: CUDALibrary
  /// The library's own number.
  public let code: Int32
  /// The function that failed, such as `cuLaunchKernel`.
  public let call: String
  /// What it was called for, such as op, kernel and launch geometry; empty where the call says it all.
  public let detail: String

  init(_ library: CUDALibrary, _ code: Int32, _ call: String, _ detail: String = "") {
    self.library = library
    self.code = code
    self.call = call
    self.detail = detail
  }

  /// One line: the call, what for, and the library's words for the error.
  public var description: String {
    "\(call)\(detail.isEmpty ? "" : " (\(detail))"): \(text)"
  }

  private var text: String {
    if code == Int32(POLAR_CUDA_NOT_LOADED) { return "\(library.title) is not loaded" }
    switch library {
    case .driver: return driverText
    case .nvrtc:
      return pc_nvrtcGetErrorString(code).map { String(cString: $0) } ?? "NVRTC error \(code)"
    case .cublasLt:
      return pc_cublasLtGetStatusString(code).map { String(cString: $0) } ?? "cuBLASLt error \(code)"
    }
  }

  private var driverText: String {
    var name: UnsafePointer<CChar>?
    var text: UnsafePointer<CChar>?
    guard pc_cuGetErrorName(code, &name) == 0, let name, pc_cuGetErrorString(code, &text) == 0, let text
    else { return "CUDA error \(code)" }
    return "\(String(cString: name)), \(String(cString: text))"
  }

  /// The error as the rest of Polar reports it.
  public func asPolarError(device: String) -> PolarError {
    .device(name: device, reason: description)
  }
}

/// Throws unless a driver call succeeded.
@inline(__always)
func check(
  _ result: Int32, _ call: StaticString, _ detail: @autoclosure () -> String = ""
) throws(CUDAError) {
  if result != 0 { throw CUDAError(.driver, result, "\(call)", detail()) }
}
