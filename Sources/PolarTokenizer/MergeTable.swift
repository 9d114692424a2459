/// The merges of a byte-pair encoding: for a pair of ids its rank and the id that replaces it.
struct MergeTable: Sendable {
  /// Free slots hold this; no pair of non-negative ids does.
  private static let free = UInt64.max

  /// A pair's ids, left in the high half; its rank in the high half and replacing id in the low half.
  private struct Slot: Sendable {
    var key = MergeTable.free
    var value: UInt64 = 0
  }

  /// Open addressing, a power of two of slots.
  private var slots: [Slot]
  private let shift: UInt64
  /// Odd and random: multiply-shift hashing that a file cannot aim at. Results do not depend on it.
  private let multiplier = UInt64.random(in: .min ... .max) | 1

  /// Room for `count` merges; no more than that may be set.
  init(capacity count: Int) {
    var bits: UInt64 = 4
    while 1 << bits < count * 2 { bits += 1 }
    shift = 64 - bits
    slots = [Slot](repeating: Slot(), count: 1 << bits)
  }

  @inline(__always)
  private func slot(_ key: UInt64) -> Int {
    var slot = Int(truncatingIfNeeded: (key &* multiplier) >> shift)
    while slots[slot].key != key, slots[slot].key != Self.free { slot = (slot + 1) & (slots.count - 1) }
    return slot
  }

  @inline(__always)
  private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
    UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
  }

  /// Sets a merge; a later one of the same pair takes the place of the earlier.
  mutating func set(_ left: Int32, _ right: Int32, rank: Int, id: Int32) {
    let key = Self.key(left, right)
    let slot = slot(key)
    slots[slot] = Slot(key: key, value: UInt64(rank) << 32 | UInt64(UInt32(bitPattern: id)))
  }

  /// The merge of a pair: rank in the high half, replacing id in the low half; nil where there is none.
  @inline(__always)
  func merge(_ left: Int32, _ right: Int32) -> UInt64? {
    let key = Self.key(left, right)
    let slot = slot(key)
    return slots[slot].key == key ? slots[slot].value : nil
  }
}
