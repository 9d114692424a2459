import PolarCore

/// SentencePiece's `precompiled_charsmap`: replacements of strings, longest match first.
///
/// The blob is a 32-bit length, a double-array trie of so many bytes (32-bit units as the Darts-clone library lays them
/// out), and the replacements, each ended by a zero byte; the trie's values are offsets into them. Little-endian.
struct CharacterMap: Sendable {
  private let units: [UInt32]
  private let replacements: [UInt8]

  /// - Throws: `malformed` for a blob whose lengths do not fit.
  init(_ blob: ArraySlice<UInt8>, path: String) throws(PolarError) {
    func word(_ place: Int) -> UInt32 {
      let at = blob.startIndex + place
      return (0..<4).reduce(0) { $0 | UInt32(blob[at + $1]) << (8 * $1) }
    }
    guard blob.count >= 4 else {
      throw .malformed(path: path, reason: "the character map is shorter than its own length field")
    }
    let size = Int(word(0))
    guard size % 4 == 0, size >= 4, size < blob.count - 4 else {
      throw .malformed(
        path: path, reason: "the character map of \(blob.count) bytes gives its trie \(size) bytes")
    }
    guard blob.last == 0 else {
      throw .malformed(path: path, reason: "the last replacement of the character map does not end")
    }
    units = (0..<size / 4).map { word(4 + $0 * 4) }
    replacements = Array(blob.dropFirst(4 + size))
  }

  private static func offset(_ unit: UInt32) -> Int { Int((unit >> 10) << ((unit & (1 << 9)) >> 6)) }

  /// Calls `body` with the end and the replacement's offset of each key that begins at `start`, the shortest first,
  /// until it returns false.
  private func forEachKey(_ text: [UInt8], _ range: Range<Int>, _ body: (Int, Int) -> Bool) {
    var node = Self.offset(units[0])
    for index in range {
      node ^= Int(text[index])
      guard node < units.count else { return }
      let unit = units[node]
      guard unit & 0x8000_00FF == UInt32(text[index]) else { return }
      node ^= Self.offset(unit)
      guard node < units.count else { return }
      if unit >> 8 & 1 == 1 {
        let value = Int(units[node] & 0x7FFF_FFFF)
        guard value < replacements.count, body(index + 1, value) else { return }
      }
    }
  }

  /// The longest key at `start`: its length and what replaces it.
  func longest(_ text: [UInt8], at start: Int) -> (count: Int, replacement: ArraySlice<UInt8>)? {
    var found: (end: Int, offset: Int)?
    forEachKey(text, start..<text.count) { end, offset in
      found = (end, offset)
      return true
    }
    return found.map { ($0.end - start, replacement(at: $0.offset)) }
  }

  private func replacement(at offset: Int) -> ArraySlice<UInt8> {
    replacements[offset...].prefix { $0 != 0 }
  }

  /// Text with replacements as Hugging Face `tokenizers` makes them: for each grapheme cluster of less than six bytes
  /// as a whole, else for each scalar, the shortest key that begins there replaces all of it.
  func applyToClusters(_ text: [UInt8]) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(text.count)
    func replace(_ range: Range<Int>) -> Bool {
      var isReplaced = false
      forEachKey(text, range) { _, offset in
        output.append(contentsOf: replacement(at: offset))
        isReplaced = true
        return false
      }
      return isReplaced
    }
    var start = 0
    for character in String(decoding: text, as: UTF8.self) {
      let end = start + character.utf8.count
      if end - start < 6, replace(start..<end) {
        start = end
        continue
      }
      while start < end {
        let next = start + UTF8Text.length(lead: text[start])
        if !replace(start..<next) { output.append(contentsOf: text[start..<next]) }
        start = next
      }
    }
    return output
  }
}
