/// GPT-2's printable alphabet for bytes: the printable Latin-1 bytes stand for themselves, the other 68 are
/// U+0100 and up, in order. Vocabulary files spell tokens in it.
enum ByteAlphabet {
  /// The scalar value that stands for each byte.
  static let scalars: [UInt32] = {
    var next: UInt32 = 0x100
    return (0..<256).map { byte -> UInt32 in
      switch byte {
      case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: return UInt32(byte)
      default:
        defer { next += 1 }
        return next
      }
    }
  }()

  /// The UTF-8 spelling (one or two bytes) of each byte.
  static let spellings: [[UInt8]] = scalars.map { value in
    value < 0x80 ? [UInt8(value)] : [UInt8(0xC0 | value >> 6), UInt8(0x80 | value & 0x3F)]
  }

  /// The byte of each scalar value of the alphabet, -1 where there is none.
  private static let bytes: [Int16] = {
    var table = [Int16](repeating: -1, count: 0x144)
    for (byte, value) in scalars.enumerated() { table[Int(value)] = Int16(byte) }
    return table
  }()

  /// Appends the bytes that a token's spelling (well-formed UTF-8) stands for; a spelling with a scalar from
  /// outside the alphabet stands for itself, as in Hugging Face's ByteLevel decoder.
  static func appendBytes(of spelling: [UInt8], to output: inout [UInt8]) {
    let start = output.count
    var index = 0
    while index < spelling.count {
      let (value, count) = UTF8Text.scalar(in: spelling, at: index)
      guard value < 0x144, bytes[Int(value)] >= 0 else {
        output.removeSubrange(start...)
        output.append(contentsOf: spelling)
        return
      }
      output.append(UInt8(bytes[Int(value)]))
      index += count
    }
  }
}
