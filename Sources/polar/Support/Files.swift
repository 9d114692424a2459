import Foundation
import PolarCore

/// The bytes of a whole file or pipe.
/// - Throws: ``PolarError/file(path:reason:)``.
func readFile(_ path: String) throws(PolarError) -> Data {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw .file(path: path, reason: String(cString: strerror(errno))) }
  do {
    return try FileHandle(fileDescriptor: descriptor, closeOnDealloc: true).readToEnd() ?? Data()
  } catch {
    throw .file(path: path, reason: "cannot be read")
  }
}

/// A whole text file.
/// - Throws: ``PolarError/file(path:reason:)``, and ``PolarError/malformed(path:reason:)`` when it is not UTF-8.
func readText(_ path: String) throws(PolarError) -> String {
  guard let text = String(data: try readFile(path), encoding: .utf8) else {
    throw .malformed(path: path, reason: "is not UTF-8 text")
  }
  return text
}

/// Refuses a file that cannot be written, now rather than after minutes of work. Leaves nothing behind.
/// - Throws: ``PolarError/file(path:reason:)``.
func checkWritable(_ path: String) throws(PolarError) {
  func fault(_ reason: String) -> PolarError { .file(path: path, reason: "cannot be written: \(reason)") }
  guard !path.isEmpty, !path.hasSuffix("/") else { throw fault("it is not the name of a file") }
  var status = stat()
  if stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR { throw fault("it is a folder") }
  // Files are written beside their destination and renamed, so what counts is the folder.
  let probe = "\(path).\(getpid()).partial"
  let descriptor = open(probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
  guard descriptor >= 0 else { throw fault(String(cString: strerror(errno))) }
  close(descriptor)
  unlink(probe)
}
