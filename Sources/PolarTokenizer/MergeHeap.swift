/// A min-heap of possible merges (rank in the high half, position of the left symbol in the low) in storage that
/// its user gives and that must have room for all entries held at once. Four children a node: half the levels
/// of a binary heap.
struct MergeHeap {
  private let storage: UnsafeMutableBufferPointer<UInt64>
  private var count = 0

  init(storage: UnsafeMutableBufferPointer<UInt64>) {
    self.storage = storage
  }

  /// Puts an entry at the end; `order` must follow.
  @inline(__always)
  mutating func append(_ entry: UInt64) {
    storage[count] = entry
    count += 1
  }

  /// Makes a heap of what was appended.
  func order() {
    guard count > 1 else { return }
    for index in stride(from: (count - 2) / 4, through: 0, by: -1) { sink(index, storage[index]) }
  }

  /// Adds an entry.
  @inline(__always)
  mutating func insert(_ entry: UInt64) {
    var index = count
    count += 1
    while index > 0, case let parent = (index - 1) / 4, storage[parent] > entry {
      storage[index] = storage[parent]
      index = parent
    }
    storage[index] = entry
  }

  /// Takes the least entry out.
  @inline(__always)
  mutating func popFirst() -> UInt64? {
    guard count > 0 else { return nil }
    let first = storage[0]
    count -= 1
    if count > 0 { sink(0, storage[count]) }
    return first
  }

  /// Puts an entry at a hole or below it.
  @inline(__always)
  private func sink(_ hole: Int, _ entry: UInt64) {
    var index = hole
    while case let first = index * 4 + 1, first < count {
      var least = first
      for child in first + 1..<max(first + 1, min(first + 4, count)) where storage[child] < storage[least] {
        least = child
      }
      guard storage[least] < entry else { break }
      storage[index] = storage[least]
      index = least
    }
    storage[index] = entry
  }
}
