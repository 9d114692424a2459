import Foundation

/// What is done to text before it is cut: nothing, or Unicode normalisation form C.
enum Normalizer: Sendable {
  case none
  case composed

  /// The normalised form of well-formed UTF-8 text.
  func apply(_ text: [UInt8]) -> [UInt8] {
    // Below U+0300 (lead byte 0xCC) every scalar is its own composed form and no two of them compose.
    guard self == .composed, text.contains(where: { $0 >= 0xCC }) else { return text }
    let string = String(decoding: text, as: UTF8.self)
    return Array(string.precomposedStringWithCanonicalMapping.utf8)
  }
}
