import Foundation

/// What is done to text before it is cut: nothing, or Unicode normalisation form C.
enum Normalizer: Sendable {
  case none
  case composed

  /// The normalised form of well-formed UTF-8 text.
  ///
  /// Hugging Face's tables are those of Unicode 9: to them a scalar of a later version neither composes nor moves,
  /// and nothing moves past it. What stands between such scalars is normalised by itself.
  func apply(_ text: [UInt8]) -> [UInt8] {
    // Below U+0300 (lead byte 0xCC) every scalar is its own composed form and no two of them compose.
    guard self == .composed, text.contains(where: { $0 >= 0xCC }) else { return text }
    var output: [UInt8] = []
    output.reserveCapacity(text.count)
    var pending = ""
    for scalar in String(decoding: text, as: UTF8.self).unicodeScalars {
      if scalar.value >= 0x300, Self.standsAlone(scalar) {
        output.append(contentsOf: pending.precomposedStringWithCanonicalMapping.utf8)
        pending = ""
        output.append(contentsOf: String(scalar).utf8)
      } else if 0xF73...0xF81 ~= scalar.value, let parts = Self.decompositions[scalar] {
        pending.unicodeScalars.append(contentsOf: parts)
      } else if let syllable = Self.syllable(pending.unicodeScalars.last, scalar) {
        pending.unicodeScalars.removeLast()
        pending.unicodeScalars.append(syllable)
      } else {
        pending.unicodeScalars.append(scalar)
      }
    }
    output.append(contentsOf: pending.precomposedStringWithCanonicalMapping.utf8)
    return output
  }

  /// Whether a scalar stays as it is and keeps its neighbours apart. Besides those of later versions these are
  /// the jamo beside the ranges that compose, which Foundation takes for members of them.
  private static func standsAlone(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x1113, 0x1176, 0x11A7, 0x11C3: true
    default: scalar.properties.age.map { $0.major > 9 } ?? false
    }
  }

  /// The Hangul syllable of a syllable without a final consonant and the jamo of one (The Unicode Standard,
  /// section 3.12), which Foundation leaves apart.
  private static func syllable(_ open: Unicode.Scalar?, _ final: Unicode.Scalar) -> Unicode.Scalar? {
    guard 0x11A8...0x11C2 ~= final.value, let open, 0xAC00...0xD7A3 ~= open.value,
      (open.value - 0xAC00) % 28 == 0
    else { return nil }
    return Unicode.Scalar(open.value + final.value - 0x11A7)
  }

  /// The Tibetan vowel signs that come apart into marks which then move; Foundation leaves them where they are.
  private static let decompositions: [Unicode.Scalar: [Unicode.Scalar]] = [
    "\u{F73}": ["\u{F71}", "\u{F72}"], "\u{F75}": ["\u{F71}", "\u{F74}"],
    "\u{F81}": ["\u{F71}", "\u{F80}"],
  ]
}
