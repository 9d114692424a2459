import Crypto
public import PolarCore

extension ModelFile {
  /// A digest that tells this model's weights from any other's, as 64 hexadecimal digits: SHA-256 over the name, element
  /// type and shape of every tensor, in order of name, and the first and last 4 KiB of its data.
  ///
  /// It reads a few megabytes at most, so that it costs nothing at load even for a file of hundreds of gigabytes; a
  /// fine-tuned copy of a model changes every tensor it trains, and so changes the digest.
  /// - Throws: ``PolarError/malformed(path:reason:)`` when the file shrank since it was opened.
  public func fingerprint() throws(PolarError) -> String {
    var hash = SHA256()
    let edge = 4096
    for info in tensors {
      hash.update(data: Array("\(info.name) \(info.dtype) \(info.shape)\n".utf8))
      guard let stored = stored[info.name] else { continue }
      let range = stored.range
      try stored.file.withBytes(range) { data throws(PolarError) in
        hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: data.prefix(edge)))
        hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: data.dropFirst(edge).suffix(edge)))
      }
    }
    return hash.finalize().map { byte in
      let digits = String(byte, radix: 16)
      return digits.count == 1 ? "0" + digits : digits
    }.joined()
  }
}
