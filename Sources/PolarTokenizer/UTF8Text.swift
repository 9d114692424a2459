/// Well-formedness of UTF-8, decided the way Python's and Rust's replacing decoders decide it: each maximal
/// subpart of an ill-formed sequence becomes one U+FFFD (The Unicode Standard, chapter 3, table 3-7).
enum UTF8Text {
  /// What stands at one place of a byte string.
  enum Piece: Equatable {
    /// A whole scalar of so many bytes.
    case scalar(Int)
    /// So many bytes that no continuation could complete.
    case broken(Int)
    /// So many bytes, up to the end, that further bytes could still complete.
    case cut(Int)
  }

  /// The UTF-8 form of U+FFFD.
  static let replacement: [UInt8] = [0xEF, 0xBF, 0xBD]

  /// The piece that begins at `index`; `index < end <= bytes.count`.
  @inline(__always)
  static func piece(in bytes: [UInt8], at index: Int, end: Int) -> Piece {
    let lead = bytes[index]
    if lead < 0x80 { return .scalar(1) }
    var low: UInt8 = 0x80
    var high: UInt8 = 0xBF
    let following: Int
    switch lead {
    case 0xC2...0xDF: following = 1
    case 0xE0: (following, low) = (2, 0xA0)
    case 0xED: (following, high) = (2, 0x9F)
    case 0xE1...0xEF: following = 2
    case 0xF0: (following, low) = (3, 0x90)
    case 0xF1...0xF3: following = 3
    case 0xF4: (following, high) = (3, 0x8F)
    default: return .broken(1)
    }
    for offset in 1...following {
      guard index + offset < end else { return .cut(offset) }
      let byte = bytes[index + offset]
      guard byte >= low, byte <= high else { return .broken(offset) }
      (low, high) = (0x80, 0xBF)
    }
    return .scalar(following + 1)
  }

  /// The place of the first ill-formed sequence, or nil where all is well.
  static func firstFault(in bytes: [UInt8]) -> Int? {
    var index = 0
    while index < bytes.count {
      guard case .scalar(let count) = piece(in: bytes, at: index, end: bytes.count) else { return index }
      index += count
    }
    return nil
  }

  /// `bytes` with each ill-formed sequence replaced by U+FFFD.
  static func repaired(_ bytes: [UInt8]) -> [UInt8] {
    guard let fault = firstFault(in: bytes) else { return bytes }
    var output = Array(bytes[..<fault])
    output.reserveCapacity(bytes.count + 16)
    var index = fault
    while index < bytes.count {
      switch piece(in: bytes, at: index, end: bytes.count) {
      case .scalar(let count):
        output.append(contentsOf: bytes[index..<index + count])
        index += count
      case .broken(let count), .cut(let count):
        output.append(contentsOf: replacement)
        index += count
      }
    }
    return output
  }

  /// The length of the scalar that begins with a byte of well-formed text.
  @inline(__always)
  static func length(lead: UInt8) -> Int {
    lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
  }

  /// The scalar value that begins at `index` of well-formed text, and its length in bytes.
  @inline(__always)
  static func scalar(in text: [UInt8], at index: Int) -> (value: UInt32, count: Int) {
    let lead = UInt32(text[index])
    if lead < 0x80 { return (lead, 1) }
    let second = UInt32(text[index + 1] & 0x3F)
    if lead < 0xE0 { return ((lead & 0x1F) << 6 | second, 2) }
    let third = UInt32(text[index + 2] & 0x3F)
    if lead < 0xF0 { return ((lead & 0x0F) << 12 | second << 6 | third, 3) }
    return ((lead & 0x07) << 18 | second << 12 | third << 6 | UInt32(text[index + 3] & 0x3F), 4)
  }

  /// The start of the scalar that ends just before `index` of well-formed text; `index > 0`.
  static func scalarStart(in text: [UInt8], before index: Int) -> Int {
    var start = index - 1
    while start > 0, text[start] & 0xC0 == 0x80 { start -= 1 }
    return start
  }
}
