/// The tokens that single scalars begin as, before any merge.
struct CharacterAlphabet: Sendable {
  /// The token of each scalar of the basic plane, -1 for none.
  private var plane = [Int32](repeating: -1, count: 0x10000)
  private var others: [UInt32: Int32] = [:]
  /// The tokens `<0x00>` to `<0xFF>` that spell a scalar without a token; empty without byte fallback, -1 where
  /// the vocabulary lacks one.
  let byteTokens: [Int32]

  /// Takes the single scalars of the vocabulary.
  /// - Parameter byteTokens: 256 ids, or none for no byte fallback.
  init(_ vocabulary: Vocabulary, byteTokens: [Int32]) {
    self.byteTokens = byteTokens
    for id in 0..<Int32(vocabulary.upperBound) {
      let spelling = vocabulary.spelling(of: id)
      guard let lead = spelling.first, spelling.count <= 4, spelling.count == UTF8Text.length(lead: lead)
      else {
        continue
      }
      set(UTF8Text.scalar(in: Array(spelling), at: 0).value, id)
    }
  }

  /// The token of a scalar, -1 for none.
  @inline(__always)
  func token(_ scalar: UInt32) -> Int32 {
    scalar < 0x10000 ? plane[Int(scalar)] : others[scalar] ?? -1
  }

  /// Gives a scalar its token.
  mutating func set(_ scalar: UInt32, _ token: Int32) {
    if scalar < 0x10000 { plane[Int(scalar)] = token } else { others[scalar] = token }
  }

  /// Appends the byte tokens of a scalar that stands at `range` and returns true; or returns false where one of them
  /// is missing.
  func appendBytes(_ text: [UInt8], _ range: Range<Int>, to output: inout [Int32]) -> Bool {
    guard !byteTokens.isEmpty, range.allSatisfy({ byteTokens[Int(text[$0])] >= 0 }) else { return false }
    for index in range { output.append(byteTokens[Int(text[index])]) }
    return true
  }

  /// The ids of `<0x00>` to `<0xFF>` in a vocabulary, -1 for those it lacks.
  static func byteTokens(in vocabulary: Vocabulary) -> [Int32] {
    (0..<256).map { vocabulary.id(of: byteSpelling(UInt8($0))[...]) ?? -1 }
  }

  /// `<0x0A>` for 10.
  static func byteSpelling(_ byte: UInt8) -> [UInt8] {
    let digits = Array("0123456789ABCDEF".utf8)
    return Array("<0x".utf8) + [digits[Int(byte >> 4)], digits[Int(byte & 15)], UInt8(ascii: ">")]
  }

  /// The byte that a spelling like `<0x0A>` stands for.
  static func byte(_ spelling: some BidirectionalCollection<UInt8>) -> UInt8? {
    guard spelling.count == 6, spelling.starts(with: "<0x".utf8) else { return nil }
    let digits = spelling.dropFirst(3)
    guard digits.last == UInt8(ascii: ">") else { return nil }
    var value: UInt8 = 0
    for digit in digits.prefix(2) {
      switch digit {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | (digit - UInt8(ascii: "0"))
      case UInt8(ascii: "A")...UInt8(ascii: "F"): value = value << 4 | (digit - UInt8(ascii: "A") + 10)
      case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | (digit - UInt8(ascii: "a") + 10)
      default: return nil
      }
    }
    return value
  }
}
