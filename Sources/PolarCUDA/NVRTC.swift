internal import CPolarCUDA
import Synchronization

/// The run-time compiler: CUDA C++ to machine code of one architecture. It needs no GPU.
enum NVRTC {
  /// What every kernel is compiled with, besides its architecture.
  static let options = ["--std=c++17", "-default-device", "-lineinfo"]

  private static let lock = Mutex(())

  /// `13.0`, or nil where the compiler is missing.
  static var version: String? { CUDALibrary.nvrtc.load().version }

  /// Compiles `unit`, which may include the other sources by their names, to a cubin.
  /// - Throws: ``CUDAError`` with the compiler's log.
  static func compile(
    _ unit: KernelUnit, architecture: String
  ) throws(CUDAError) -> [UInt8] {
    guard CUDALibrary.nvrtc.load().isLoaded else {
      throw CUDAError(.nvrtc, Int32(POLAR_CUDA_NOT_LOADED), "compiling \(unit.name)")
    }
    let options = options + unit.defines.map { "-D" + $0 } + ["-arch=\(architecture)"]
    let headers = KernelSource.headers
    // One compilation at a time: the compiler is only partly safe for threads in older versions.
    return try lock.withLock { _ throws(CUDAError) in
      try withCStrings(headers.map(\.text)) { texts throws(CUDAError) in
        try withCStrings(headers.map(\.name)) { names throws(CUDAError) in
          try withCStrings(options) { options throws(CUDAError) in
            try compile(unit, texts, names, options, headers.count)
          }
        }
      }
    }
  }

  private static func compile(
    _ unit: KernelUnit, _ texts: [UnsafePointer<CChar>?], _ names: [UnsafePointer<CChar>?],
    _ options: [UnsafePointer<CChar>?], _ headerCount: Int
  ) throws(CUDAError) -> [UInt8] {
    var program: nvrtcProgram?
    var result = pc_nvrtcCreateProgram(
      &program, unit.source.text, unit.source.name, Int32(headerCount), texts, names)
    guard result == 0 else { throw CUDAError(.nvrtc, result, "nvrtcCreateProgram", unit.name) }
    defer { _ = pc_nvrtcDestroyProgram(&program) }
    result = pc_nvrtcCompileProgram(program, Int32(options.count), options)
    guard result == 0 else {
      throw CUDAError(.nvrtc, result, "nvrtcCompileProgram", "\(unit.name):\n\(log(of: program))\n")
    }
    var size = 0
    result = pc_nvrtcGetCUBINSize(program, &size)
    guard result == 0, size > 0 else { throw CUDAError(.nvrtc, result, "nvrtcGetCUBINSize", unit.name) }
    var image = [UInt8](repeating: 0, count: size)
    result = image.withUnsafeMutableBytes {
      pc_nvrtcGetCUBIN(program, $0.baseAddress?.assumingMemoryBound(to: CChar.self))
    }
    guard result == 0 else { throw CUDAError(.nvrtc, result, "nvrtcGetCUBIN", unit.name) }
    return image
  }

  /// The compiler's messages. They may hold NUL bytes, so the size counts and not the terminator.
  private static func log(of program: nvrtcProgram?) -> String {
    var size = 0
    guard pc_nvrtcGetProgramLogSize(program, &size) == 0, size > 0 else { return "" }
    var bytes = [UInt8](repeating: 0, count: size)
    let result = bytes.withUnsafeMutableBytes {
      pc_nvrtcGetProgramLog(program, $0.baseAddress?.assumingMemoryBound(to: CChar.self))
    }
    return result == 0 ? String(decoding: bytes.filter { $0 != 0 }, as: UTF8.self) : ""
  }

  /// Calls `body` with C strings of `strings`.
  private static func withCStrings<Result>(
    _ strings: [String], _ body: ([UnsafePointer<CChar>?]) throws(CUDAError) -> Result
  ) throws(CUDAError) -> Result {
    let copies = strings.map { string in
      let text = string.utf8CString
      let copy = UnsafeMutableBufferPointer<CChar>.allocate(capacity: text.count)
      _ = copy.initialize(fromContentsOf: text)
      return copy
    }
    defer { for copy in copies { copy.deallocate() } }
    return try body(copies.map { UnsafePointer($0.baseAddress) })
  }
}

/// One file of kernel source, as it is in the executable.
struct KernelSource: Sendable, Equatable {
  let name: String
  let text: String

  /// All sources.
  static let all: [KernelSource] = (0..<polar_cuda_source_count()).map {
    KernelSource(
      name: String(cString: polar_cuda_source_name($0)), text: String(cString: polar_cuda_source_text($0)))
  }

  /// Sources that others include.
  static let headers = all.filter { !$0.name.hasSuffix(".cu") }
}

/// A source that is compiled on its own, with the macros that make one module of it.
struct KernelUnit: Sendable, Equatable {
  let source: KernelSource
  /// Macro definitions, such as `POLAR_HEAD_DIM=128`.
  let defines: [String]

  init(source: KernelSource, defines: [String]) {
    self.source = source
    self.defines = defines
  }

  /// The unit of a source file (without its ending); attention is compiled for one head dimension at a time.
  init?(_ file: String, headDim: Int?, element: CUDAElement = .bf16) {
    guard let source = KernelSource.all.first(where: { $0.name == file + ".cu" }) else { return nil }
    self.init(
      source: source,
      defines: [element.define] + (headDim.map { ["POLAR_HEAD_DIM=\($0)"] } ?? []))
  }

  /// Source and macros.
  var name: String { ([source.name] + defines).joined(separator: " ") }

  /// Head dimensions that archives hold attention for.
  static let archivedHeadDims: [Int?] = [64, 80, 96, 128, 256]

  /// All units of an archive.
  static var archived: [KernelUnit] {
    CUDAElement.allCases.flatMap { element in
      KernelSource.all.filter { $0.name.hasSuffix(".cu") }.flatMap { source -> [KernelUnit] in
        let file = String(source.name.dropLast(3))
        let dims = file == "attention" ? archivedHeadDims : [nil]
        return dims.compactMap { KernelUnit(file, headDim: $0, element: element) }
      }
    }
  }
}
