/// The ids of words seen lately: one place per hash value, a new word takes the old one's. Its memory is bounded;
/// when its storage is full it starts anew.
struct WordCache: Sendable {
  /// Longer words, in bytes, are not kept.
  static let wordLimit = 48

  private static let slotBits: UInt64 = 14
  private static let storageLimit = 1 << 19

  private struct Slot: Sendable {
    var hash: UInt64 = 0
    var wordStart: UInt32 = 0
    var idsStart: UInt32 = 0
    var idsCount: UInt16 = 0
    /// 0 marks a free slot.
    var wordCount: UInt8 = 0
  }

  private var slots = [Slot](repeating: Slot(), count: 1 << slotBits)
  private var words: [UInt8] = []
  private var ids: [Int32] = []

  /// FNV-1a of a word, its bits spread once more.
  @inline(__always)
  static func hash(_ text: [UInt8], _ range: Range<Int>) -> UInt64 {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for index in range { hash = (hash ^ UInt64(text[index])) &* 0x100_0000_01B3 }
    return hash &* 0x9E37_79B9_7F4A_7C15
  }

  /// Appends the ids of a word to `output` and returns true, or returns false where it is not known.
  @inline(__always)
  func append(_ text: [UInt8], _ range: Range<Int>, hash: UInt64, to output: inout [Int32]) -> Bool {
    let slot = slots[Int(hash >> (64 - Self.slotBits))]
    guard slot.hash == hash, Int(slot.wordCount) == range.count else { return false }
    var place = Int(slot.wordStart)
    for index in range {
      guard words[place] == text[index] else { return false }
      place += 1
    }
    for index in Int(slot.idsStart)..<Int(slot.idsStart) + Int(slot.idsCount) { output.append(ids[index]) }
    return true
  }

  /// Keeps a word of 1 to `wordLimit` bytes.
  mutating func store(_ text: [UInt8], _ range: Range<Int>, hash: UInt64, ids newIDs: ArraySlice<Int32>) {
    if words.count + ids.count * 4 > Self.storageLimit {
      for index in slots.indices { slots[index].wordCount = 0 }
      words.removeAll(keepingCapacity: true)
      ids.removeAll(keepingCapacity: true)
    }
    slots[Int(hash >> (64 - Self.slotBits))] = Slot(
      hash: hash, wordStart: UInt32(words.count), idsStart: UInt32(ids.count),
      idsCount: UInt16(newIDs.count), wordCount: UInt8(range.count))
    words.append(contentsOf: text[range])
    ids.append(contentsOf: newIDs)
  }
}
