internal import PolarCore

#if canImport(Glibc)
  internal import Glibc
#elseif canImport(Musl)
  internal import Musl
#else
  internal import Darwin
#endif

/// An open file that is written from front to end.
struct FileOutput {
  /// The file's destination, for messages.
  let path: String
  let descriptor: Int32

  /// Writes the bytes of all values.
  func write<T: BitwiseCopyable>(_ values: [T]) throws(PolarError) {
    let failure = values.withUnsafeBytes { bytes -> Int32? in
      var done = 0
      while done < bytes.count {
        let written = systemWrite(descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done)
        if written < 0 {
          guard errno == EINTR else { return errno }
        } else {
          done += written
        }
      }
      return nil
    }
    if let failure { throw .file(path: path, reason: "cannot be written: \(systemMessage(failure))") }
  }

  /// Writes a new file through `body` and moves it to `path` in one step. On any error `path` stays as it
  /// was and the new file is removed.
  static func replace(_ path: String, _ body: (FileOutput) throws(PolarError) -> Void) throws(PolarError) {
    // In the same folder, since a rename does not cross file systems.
    let temporary = "\(path).\(getpid())-\(UInt32.random(in: 0 ... .max)).partial"
    let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else {
      throw .file(path: path, reason: "cannot be created: \(systemMessage(errno))")
    }
    do throws(PolarError) {
      try body(FileOutput(path: path, descriptor: descriptor))
      // A full disk may show only when data is flushed.
      guard fsync(descriptor) == 0 else {
        throw .file(path: path, reason: "cannot be written: \(systemMessage(errno))")
      }
    } catch {
      close(descriptor)
      unlink(temporary)
      throw error
    }
    guard close(descriptor) == 0, rename(temporary, path) == 0 else {
      let code = errno
      unlink(temporary)
      throw .file(path: path, reason: "cannot be replaced: \(systemMessage(code))")
    }
    flushFolder(of: path)
  }

  /// Makes the rename durable. The file is complete either way, so a failure here is no error.
  private static func flushFolder(of path: String) {
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    let descriptor = open(folder, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    fsync(descriptor)
    close(descriptor)
  }
}

/// The system call; named apart from ``FileOutput/write(_:)``.
private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
  write(descriptor, bytes, count)
}
