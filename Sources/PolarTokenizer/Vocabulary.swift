import PolarCore

/// The tokens of a tokenizer, by id and by spelling. Spellings are compared byte for byte (Swift's `String` would
/// take canonically equivalent ones for equal).
struct Vocabulary: Sendable {
  /// Ids are below this, so that a file cannot ask for a table of 2^31 entries.
  static let idLimit = 1 << 24

  /// Where a token's spelling and bytes stand; `count` -1 is a hole.
  private struct Entry {
    var start: Int32 = 0
    var count: Int32 = -1
  }

  private var spellings: [UInt8] = []
  private var entries: [Entry] = []
  private var decoded: [UInt8] = []
  private var decodedEntries: [Entry] = []
  /// An open-addressing table of ids, -1 for a free slot; its size is a power of two.
  private var slots: [Int32] = [Int32](repeating: -1, count: 64)
  /// How many tokens there are.
  private(set) var count = 0

  /// The highest id plus one.
  var upperBound: Int { entries.count }

  /// Room for `count` tokens with spellings of `bytes` in all.
  init(capacity count: Int, bytes: Int) {
    entries.reserveCapacity(count)
    decodedEntries.reserveCapacity(count)
    spellings.reserveCapacity(bytes)
    decoded.reserveCapacity(bytes)
    var size = 64
    while size < count * 2 { size *= 2 }
    slots = [Int32](repeating: -1, count: size)
  }

  /// A JSON number as a token id, or nil.
  static func tokenID(_ node: JSONDocument.Node) -> Int32? {
    guard case .number(let value, _) = node, value >= 0, value < Double(idLimit), value == value.rounded()
    else {
      return nil
    }
    return Int32(value)
  }

  /// Adds a token; returns what is wrong when the id or the spelling is taken already.
  /// - Parameter text: the bytes that the token stands for; without it the spelling is read in the byte alphabet.
  mutating func insert(_ spelling: [UInt8], id: Int32, text: [UInt8]? = nil) -> String? {
    let index = Int(id)
    if index >= entries.count {
      let missing = index + 1 - entries.count
      entries.append(contentsOf: repeatElement(Entry(), count: missing))
      decodedEntries.append(contentsOf: repeatElement(Entry(), count: missing))
    }
    guard entries[index].count < 0 else { return "the token id \(id) appears twice" }
    if (count + 1) * 2 > slots.count { grow() }
    let slot = find(spelling[...])
    guard slots[slot] < 0 else {
      return "the token '\(String(decoding: spelling, as: UTF8.self))' appears twice"
    }
    slots[slot] = id
    entries[index] = Entry(start: Int32(spellings.count), count: Int32(spelling.count))
    spellings.append(contentsOf: spelling)
    let start = decoded.count
    if let text {
      decoded.append(contentsOf: text)
    } else {
      ByteAlphabet.appendBytes(of: spelling, to: &decoded)
    }
    decodedEntries[index] = Entry(start: Int32(start), count: Int32(decoded.count - start))
    count += 1
    return nil
  }

  /// The id of a spelling (UTF-8).
  func id(of spelling: ArraySlice<UInt8>) -> Int32? {
    let id = slots[find(spelling)]
    return id < 0 ? nil : id
  }

  /// The bytes that a token stands for; empty for holes and ids out of range.
  func bytes(of id: Int32) -> ArraySlice<UInt8> {
    guard id >= 0, Int(id) < decodedEntries.count, decodedEntries[Int(id)].count > 0 else { return [] }
    let entry = decodedEntries[Int(id)]
    return decoded[Int(entry.start)..<Int(entry.start + entry.count)]
  }

  /// The spelling of a token; empty for holes and ids out of range.
  func spelling(of id: Int32) -> ArraySlice<UInt8> {
    guard id >= 0, Int(id) < entries.count, entries[Int(id)].count > 0 else { return [] }
    let entry = entries[Int(id)]
    return spellings[Int(entry.start)..<Int(entry.start + entry.count)]
  }

  /// The slot that holds a spelling, or the free one where it would go.
  private func find(_ spelling: ArraySlice<UInt8>) -> Int {
    let mask = slots.count - 1
    var slot = hash(spelling) & mask
    while slots[slot] >= 0 {
      let entry = entries[Int(slots[slot])]
      if Int(entry.count) == spelling.count,
        spellings[Int(entry.start)..<Int(entry.start + entry.count)] == spelling
      {
        return slot
      }
      slot = (slot + 1) & mask
    }
    return slot
  }

  /// A seeded hash: a file cannot aim at collisions. Results do not depend on it.
  private func hash(_ spelling: ArraySlice<UInt8>) -> Int {
    var hasher = Hasher()
    spelling.withUnsafeBytes { hasher.combine(bytes: $0) }
    return hasher.finalize()
  }

  private mutating func grow() {
    slots = [Int32](repeating: -1, count: slots.count * 2)
    for (id, entry) in entries.enumerated() where entry.count >= 0 {
      slots[find(spellings[Int(entry.start)..<Int(entry.start + entry.count)])] = Int32(id)
    }
  }
}
