/// The class of a Unicode scalar as the pre-tokenisers' patterns see it.
enum ScalarClass: UInt8, Sendable {
  /// Not white space, not `\p{L}`, not `\p{N}`.
  case other
  /// `\p{L}`
  case letter
  /// `\p{N}`
  case number
  /// `\s` (Unicode White_Space) other than line feed and carriage return.
  case space
  /// Line feed or carriage return.
  case newline

  /// The class of one scalar, from its Unicode properties in version 16, that of the regular expressions of
  /// Hugging Face `tokenizers` 0.23: later scalars count as unassigned.
  init(_ scalar: Unicode.Scalar) {
    if scalar == "\n" || scalar == "\r" {
      self = .newline
      return
    }
    let properties = scalar.properties
    if let age = properties.age, age.major > 16 {
      self = .other
      return
    }
    switch properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter:
      self = .letter
    case .decimalNumber, .letterNumber, .otherNumber:
      self = .number
    default:
      self = properties.isWhitespace ? .space : .other
    }
  }

  /// Whether the class is part of `\s`.
  @inline(__always)
  var isWhitespace: Bool { rawValue >= ScalarClass.space.rawValue }

  /// The classes of U+0000 to U+FFFF (surrogates, which no text holds, are `other`).
  static let basicPlane: [ScalarClass] = (0..<0x10000).map { value in
    Unicode.Scalar(UInt32(value)).map { ScalarClass($0) } ?? .other
  }
}

/// Looks up classes in well-formed UTF-8 text.
struct ScalarClassifier: Sendable {
  private let basicPlane = ScalarClass.basicPlane

  /// The class of the scalar that begins at `index`, and the scalar's length in bytes.
  @inline(__always)
  func classify(_ text: [UInt8], at index: Int) -> (class: ScalarClass, count: Int) {
    let (value, count) = UTF8Text.scalar(in: text, at: index)
    if value < 0x10000 { return (basicPlane[Int(value)], count) }
    return (Unicode.Scalar(value).map { ScalarClass($0) } ?? .other, count)
  }

  /// Whether the scalar that begins at `index` matches `\w` of Unicode regular expressions (UTS 18, annex C).
  func isWord(_ text: [UInt8], at index: Int) -> Bool {
    guard let scalar = Unicode.Scalar(UTF8Text.scalar(in: text, at: index).value) else { return false }
    let properties = scalar.properties
    switch properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
    default: return properties.isAlphabetic || properties.isJoinControl
    }
  }
}
