public import PolarCore

#if canImport(Glibc)
  internal import Glibc
#elseif canImport(Musl)
  internal import Musl
#else
  internal import Darwin
#endif

/// A file mapped read-only into memory, unmapped and closed on deinit. Every read is checked against its
/// size.
///
/// Pages of a file that another process shortens while it is mapped raise a signal when they are touched, so
/// ``checkUnchanged()`` is called before large reads: it narrows that window, it cannot close it.
public final class MappedFile: Sendable {
  /// The path that the file was opened with, for messages.
  public let path: String
  /// Bytes in the file when it was opened.
  public let byteCount: Int
  /// The first byte. The mapping is never written to and lives as long as this object, so sharing is safe.
  private nonisolated(unsafe) let base: UnsafeRawPointer?
  private let descriptor: Int32
  private let modified: Int

  /// Maps the regular file at `path`.
  /// - Throws: ``PolarError/file(path:reason:)`` when it is missing, not a regular file, or cannot be mapped.
  public init(path: String) throws(PolarError) {
    // Without O_NONBLOCK the open of a pipe waits for a writer.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .file(path: path, reason: systemMessage(errno)) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      let code = errno
      close(descriptor)
      throw .file(path: path, reason: systemMessage(code))
    }
    guard status.st_mode & S_IFMT == S_IFREG, let size = Int(exactly: status.st_size) else {
      close(descriptor)
      throw .file(path: path, reason: "not a regular file")
    }
    var base: UnsafeRawPointer?
    if size > 0 {
      let address = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0)
      guard let address, address != MAP_FAILED else {
        let code = errno
        close(descriptor)
        throw .file(path: path, reason: "cannot be mapped: \(systemMessage(code))")
      }
      base = UnsafeRawPointer(address)
    }
    self.path = path
    self.byteCount = size
    self.base = base
    self.descriptor = descriptor
    self.modified = Self.modificationTime(status)
  }

  deinit {
    if let base { munmap(UnsafeMutableRawPointer(mutating: base), byteCount) }
    close(descriptor)
  }

  /// Throws when the file's size or modification time is no longer what it was at opening.
  public func checkUnchanged() throws(PolarError) {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      throw .file(path: path, reason: systemMessage(errno))
    }
    guard Int(status.st_size) == byteCount, Self.modificationTime(status) == modified else {
      throw .file(path: path, reason: "changed while it was being read")
    }
  }

  /// Calls `body` with bytes `range` of the file; the pointer must not outlive the call.
  /// - Throws: ``PolarError/malformed(path:reason:)`` when the range is not inside the file.
  public func withBytes<R>(
    _ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws(PolarError) -> R
  ) throws(PolarError) -> R {
    guard range.lowerBound >= 0, range.upperBound <= byteCount else {
      throw .malformed(
        path: path,
        reason: "bytes \(range.lowerBound) to \(range.upperBound) lie outside its \(byteCount) bytes")
    }
    return try withExtendedLifetime(self) { () throws(PolarError) -> R in
      try body(UnsafeRawBufferPointer(start: base.map { $0 + range.lowerBound }, count: range.count))
    }
  }

  /// Takes the whole pages inside `range` out of this process's memory; they come back from the file when they are read
  /// again.
  func drop(_ range: Range<Int>) {
    #if !canImport(Darwin)
      let page = Int(sysconf(Int32(_SC_PAGESIZE)))
      let first = (range.lowerBound + page - 1) / page * page
      let last = min(range.upperBound, byteCount) / page * page
      guard let base, first < last, first >= 0 else { return }
      madvise(UnsafeMutableRawPointer(mutating: base + first), last - first, MADV_DONTNEED)
    #endif
  }

  /// Reads a little-endian integer at byte `offset`, which need not be aligned.
  /// - Throws: ``PolarError/malformed(path:reason:)`` when it does not lie inside the file.
  public func integer<T: FixedWidthInteger & BitwiseCopyable>(
    at offset: Int, as type: T.Type = T.self
  ) throws(PolarError) -> T {
    let size = MemoryLayout<T>.size
    guard let base, offset >= 0, byteCount >= size, offset <= byteCount - size else {
      throw .malformed(
        path: path, reason: "ends at byte \(byteCount), before a \(size)-byte value at \(offset)")
    }
    return T(littleEndian: (base + offset).loadUnaligned(as: T.self))
  }

  /// The UTF-8 text of bytes `range`.
  /// - Throws: ``PolarError/malformed(path:reason:)`` when the range or the encoding is not valid.
  public func string(_ range: Range<Int>) throws(PolarError) -> String {
    let text = try withBytes(range) { bytes in String(validating: bytes, as: UTF8.self) }
    guard let text else {
      throw .malformed(path: path, reason: "text at byte \(range.lowerBound) is not UTF-8")
    }
    return text
  }

  private static func modificationTime(_ status: stat) -> Int {
    #if canImport(Darwin)
      let time = status.st_mtimespec
    #else
      let time = status.st_mtim
    #endif
    return Int(time.tv_sec) &* 1_000_000_000 &+ Int(time.tv_nsec)
  }
}

/// Whether two pieces of memory hold the same bytes.
func sameBytes(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> Bool {
  guard first.count == second.count, let left = first.baseAddress, let right = second.baseAddress else {
    return first.count == second.count
  }
  return memcmp(left, right, first.count) == 0
}

/// The system's text of an error number.
func systemMessage(_ code: Int32) -> String {
  guard let text = strerror(code) else { return "error \(code)" }
  return String(cString: text)
}
