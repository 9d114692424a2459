/// What SentencePiece does to text before it is cut: replacements by a table, white space made single and visible, and a
/// space put before the text.
struct SentencePieceNormalizer: Sendable {
  /// U+2581, which stands for a space in pieces.
  static let mark: [UInt8] = [0xE2, 0x96, 0x81]

  /// `precompiled_charsmap`
  var map: CharacterMap?
  /// `add_dummy_prefix`
  var addsPrefix = true
  /// `remove_extra_whitespaces`
  var removesExtraSpaces = false
  /// `escape_whitespaces`
  var marksSpaces = true
  /// Pieces that are left as they are.
  var kept = AddedTokenMatcher([])

  /// The normalised form of text; each byte that is not UTF-8 becomes U+FFFD, which the table does not see.
  func apply(_ text: [UInt8]) -> [UInt8] {
    let space: [UInt8] = marksSpaces ? Self.mark : [0x20]
    var output: [UInt8] = []
    output.reserveCapacity(text.count + text.count / 2 + 8)
    var index = 0
    var isAfterSpace = removesExtraSpaces
    if removesExtraSpaces {
      while index < text.count, case let (count, piece) = next(text, index), piece.elementsEqual([0x20]) {
        index += count
      }
    }
    guard index < text.count else { return [] }
    if addsPrefix { output.append(contentsOf: space) }
    while index < text.count {
      var (count, piece) = next(text, index)
      index += count
      if isAfterSpace { piece = piece.drop { $0 == 0x20 } }
      for byte in piece {
        if byte == 0x20 { output.append(contentsOf: space) } else { output.append(byte) }
      }
      if !piece.isEmpty { isAfterSpace = piece.last == 0x20 }
      if !removesExtraSpaces { isAfterSpace = false }
    }
    if removesExtraSpaces {
      while output.count >= space.count, output.suffix(space.count).elementsEqual(space) {
        output.removeLast(space.count)
      }
    }
    return output
  }

  /// The text at a place that one rule applies to: its length, and what becomes of it.
  private func next(_ text: [UInt8], _ index: Int) -> (count: Int, piece: ArraySlice<UInt8>) {
    if let count = kept.longestContent(in: text, at: index) { return (count, text[index..<index + count]) }
    if let match = map?.longest(text, at: index) { return (match.count, match.replacement) }
    guard case .scalar(let count) = UTF8Text.piece(in: text, at: index, end: text.count) else {
      return (1, UTF8Text.replacement[...])
    }
    return (count, text[index..<index + count])
  }
}
