import Foundation

/// What is done to text before it is cut into words.
struct Normalizer: Sendable {
  /// One step.
  enum Step: Sendable {
    /// Unicode normalisation form C.
    case composed
    /// Something put before a text that is not empty.
    case prepended([UInt8])
    /// Each occurrence of a string becomes another.
    case replaced([UInt8], with: [UInt8])
    /// Runs of two or more spaces become one string.
    case spaceRuns(with: [UInt8])
    /// White space at the ends is taken off.
    case trimmed(left: Bool, right: Bool)
    /// SentencePiece's own rules.
    case sentencePiece(SentencePieceNormalizer)
    /// SentencePiece's table as Hugging Face `tokenizers` applies it.
    case table(CharacterMap)
  }

  var steps: [Step] = []

  /// Unicode normalisation form C alone.
  static let composed = Normalizer(steps: [.composed])

  /// Whether text stays as it is.
  var isIdentity: Bool { steps.isEmpty }

  /// The normalised form of well-formed UTF-8 text.
  func apply(_ text: [UInt8]) -> [UInt8] {
    var text = text
    for step in steps {
      switch step {
      case .composed: text = Self.compose(text)
      case .prepended(let prefix): if !text.isEmpty { text = prefix + text }
      case .replaced(let old, let new): text = Self.replace(old, with: new, in: text)
      case .spaceRuns(let new): text = Self.replaceSpaceRuns(with: new, in: text)
      case .trimmed(let left, let right): text = Self.trim(text, left: left, right: right)
      case .sentencePiece(let normalizer): text = normalizer.apply(text)
      case .table(let map): text = map.applyToClusters(text)
      }
    }
    return text
  }

  private static func replace(_ old: [UInt8], with new: [UInt8], in text: [UInt8]) -> [UInt8] {
    guard let first = old.first, text.contains(first) else { return text }
    var output: [UInt8] = []
    output.reserveCapacity(text.count + text.count / 4)
    var index = 0
    while index < text.count {
      if text[index] == first, index + old.count <= text.count,
        text[index..<index + old.count].elementsEqual(old)
      {
        output.append(contentsOf: new)
        index += old.count
      } else {
        output.append(text[index])
        index += 1
      }
    }
    return output
  }

  private static func replaceSpaceRuns(with new: [UInt8], in text: [UInt8]) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(text.count)
    var index = 0
    while index < text.count {
      var end = index
      while end < text.count, text[end] == 0x20 { end += 1 }
      if end >= index + 2 {
        output.append(contentsOf: new)
        index = end
      } else {
        output.append(text[index])
        index += 1
      }
    }
    return output
  }

  private static func trim(_ text: [UInt8], left: Bool, right: Bool) -> [UInt8] {
    let classifier = ScalarClassifier()
    var (start, end) = (0, text.count)
    while left, start < end, case let (kind, count) = classifier.classify(text, at: start), kind.isWhitespace
    {
      start += count
    }
    while right, end > start {
      let last = UTF8Text.scalarStart(in: text, before: end)
      guard classifier.classify(text, at: last).class.isWhitespace else { break }
      end = last
    }
    return Array(text[start..<end])
  }

  // MARK: Composition

  /// Normalisation form C of well-formed UTF-8 text.
  ///
  /// Hugging Face's tables are those of Unicode 9: to them a scalar of a later version neither composes nor moves,
  /// and nothing moves past it. What stands between such scalars is normalised by itself.
  private static func compose(_ text: [UInt8]) -> [UInt8] {
    // Below U+0300 (lead byte 0xCC) every scalar is its own composed form and no two of them compose.
    guard text.contains(where: { $0 >= 0xCC }) else { return text }
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
