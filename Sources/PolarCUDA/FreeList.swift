/// Which parts of a block of memory are free: first fit, neighbours merged. Pure bookkeeping.
struct FreeList: Sendable {
  /// Free ranges in order, never touching.
  private(set) var free: [Range<Int>]
  let byteCount: Int
  private let alignment: Int

  init(byteCount: Int, alignment: Int) {
    self.byteCount = byteCount
    self.alignment = alignment
    free = [0..<byteCount]
  }

  /// Whether nothing is taken.
  var isEmpty: Bool { free == [0..<byteCount] }

  private func aligned(_ bytes: Int) -> Int {
    max(alignment, (bytes + alignment - 1) / alignment * alignment)
  }

  /// The offset of `bytes` bytes, or nil when no part is large enough.
  mutating func take(_ bytes: Int) -> Int? {
    let size = aligned(bytes)
    guard let index = free.firstIndex(where: { $0.count >= size }) else { return nil }
    let offset = free[index].lowerBound
    if free[index].count == size {
      free.remove(at: index)
    } else {
      free[index] = offset + size..<free[index].upperBound
    }
    return offset
  }

  /// Gives back `bytes` bytes at `offset`, as they were taken.
  mutating func give(_ offset: Int, _ bytes: Int) {
    var range = offset..<offset + aligned(bytes)
    let index = free.firstIndex { $0.lowerBound > offset } ?? free.count
    if index < free.count, free[index].lowerBound == range.upperBound {
      range = range.lowerBound..<free[index].upperBound
      free.remove(at: index)
    }
    if index > 0, free[index - 1].upperBound == range.lowerBound {
      free[index - 1] = free[index - 1].lowerBound..<range.upperBound
    } else {
      free.insert(range, at: index)
    }
  }
}
