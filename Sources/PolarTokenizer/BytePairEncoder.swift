/// Byte-pair encoding of one word at a time: the pair of lowest rank, leftmost first, is merged until none is
/// left (Sennrich et al. 2016, section 3.2), in O(n log n) for a word of n bytes.
struct BytePairEncoder: Sendable {
  /// Longer words are encoded in parts of this many bytes, which bounds the memory to about 0.5 GB.
  static let wordLimit = 1 << 24

  /// Working memory that is kept between words.
  struct Scratch: Sendable {
    /// The symbols of the word by position; -1 where one was merged away.
    fileprivate var ids: [Int32] = []
    /// The position of the symbol before and after, -1 at the ends.
    fileprivate var previous: [Int32] = []
    fileprivate var next: [Int32] = []
    /// A binary min-heap of possible merges: rank in the high half, position of the left symbol in the low.
    fileprivate var heap: [UInt64] = []
    fileprivate var cache = WordCache()
  }

  /// The id of each single byte, -1 where the vocabulary has none.
  let byteTokens: [Int32]
  let merges: MergeTable
  /// Stands for bytes that have no token; without it they are left out.
  let unknownToken: Int32?
  /// Neighbouring unknown bytes become one unknown token.
  let fusesUnknown: Bool
  /// Words that are tokens are taken whole.
  let ignoresMerges: Bool
  let vocabulary: Vocabulary

  /// Appends the ids of the word that is `text[range]`.
  func encode(
    _ text: [UInt8], _ range: Range<Int>, into output: inout [Int32], scratch: inout Scratch
  ) {
    if range.count == 1, byteTokens[Int(text[range.lowerBound])] >= 0 {
      output.append(byteTokens[Int(text[range.lowerBound])])
      return
    }
    if range.count <= WordCache.wordLimit {
      let hash = WordCache.hash(text, range)
      if scratch.cache.append(text, range, hash: hash, to: &output) { return }
      let start = output.count
      merge(text, range, into: &output, scratch: &scratch)
      scratch.cache.store(text, range, hash: hash, ids: output[start...])
      return
    }
    var start = range.lowerBound
    while start < range.upperBound {
      let end = min(start + Self.wordLimit, range.upperBound)
      merge(text, start..<end, into: &output, scratch: &scratch)
      start = end
    }
    // A long word's memory is not kept.
    if range.count > 1 << 16 {
      (scratch.ids, scratch.previous, scratch.next, scratch.heap) = ([], [], [], [])
    }
  }

  private func merge(
    _ text: [UInt8], _ range: Range<Int>, into output: inout [Int32], scratch: inout Scratch
  ) {
    if ignoresMerges, let id = wholeWord(text, range) {
      output.append(id)
      return
    }
    fillSymbols(text, range, &scratch)
    let count = scratch.ids.count
    scratch.heap.removeAll(keepingCapacity: true)
    for position in 0..<max(0, count - 1) {
      if let merge = merges.merge(scratch.ids[position], scratch.ids[position + 1]) {
        scratch.heap.append(Self.entry(merge, position))
      }
    }
    Heap.order(&scratch.heap)
    while let top = Heap.popFirst(&scratch.heap) { apply(top, &scratch) }
    for id in scratch.ids where id >= 0 { output.append(id) }
  }

  /// Sets the word's symbols to its bytes' tokens.
  private func fillSymbols(_ text: [UInt8], _ range: Range<Int>, _ scratch: inout Scratch) {
    scratch.ids.removeAll(keepingCapacity: true)
    scratch.ids.reserveCapacity(range.count)
    var previousIsUnknown = false
    for index in range {
      let id = byteTokens[Int(text[index])]
      if id >= 0 {
        scratch.ids.append(id)
      } else if let unknownToken, !(fusesUnknown && previousIsUnknown) {
        scratch.ids.append(unknownToken)
      }
      previousIsUnknown = id < 0
    }
    let count = Int32(scratch.ids.count)
    scratch.previous.removeAll(keepingCapacity: true)
    scratch.next.removeAll(keepingCapacity: true)
    scratch.previous.append(contentsOf: -1..<max(count - 1, -1))
    scratch.next.append(contentsOf: 1..<max(count + 1, 1))
    if count > 0 { scratch.next[Int(count) - 1] = -1 }
  }

  /// The heap's entry for a merge at a position.
  @inline(__always)
  private static func entry(_ merge: UInt64, _ position: Int) -> UInt64 {
    (merge & 0xFFFF_FFFF_0000_0000) | UInt64(position)
  }

  /// Does one merge of the heap, if its symbols are still there.
  @inline(__always)
  private func apply(_ top: UInt64, _ scratch: inout Scratch) {
    let left = Int(top & 0xFFFF_FFFF)
    guard scratch.ids[left] >= 0, case let right = Int(scratch.next[left]), right >= 0,
      let merge = merges.merge(scratch.ids[left], scratch.ids[right]), merge >> 32 == top >> 32
    else { return }
    let id = Int32(truncatingIfNeeded: merge)
    scratch.ids[left] = id
    scratch.ids[right] = -1
    let after = Int(scratch.next[right])
    scratch.next[left] = Int32(after)
    if after >= 0 {
      scratch.previous[after] = Int32(left)
      if let merge = merges.merge(id, scratch.ids[after]) {
        Heap.insert(Self.entry(merge, left), &scratch.heap)
      }
    }
    let before = Int(scratch.previous[left])
    if before >= 0, let merge = merges.merge(scratch.ids[before], id) {
      Heap.insert(Self.entry(merge, before), &scratch.heap)
    }
  }

  /// The token that is the whole word, if there is one.
  private func wholeWord(_ text: [UInt8], _ range: Range<Int>) -> Int32? {
    guard range.count <= 1 << 12 else { return nil }
    var spelling: [UInt8] = []
    for byte in text[range] { spelling.append(contentsOf: ByteAlphabet.spellings[Int(byte)]) }
    return vocabulary.id(of: spelling[...])
  }
}

/// A binary min-heap in an array.
private enum Heap {
  /// Makes a heap of any array.
  static func order(_ heap: inout [UInt64]) {
    var index = heap.count / 2
    while index > 0 {
      index -= 1
      sink(index, heap[index], &heap)
    }
  }

  @inline(__always)
  static func insert(_ value: UInt64, _ heap: inout [UInt64]) {
    heap.append(value)
    var index = heap.count - 1
    while index > 0, case let parent = (index - 1) / 2, heap[parent] > value {
      heap[index] = heap[parent]
      index = parent
    }
    heap[index] = value
  }

  @inline(__always)
  static func popFirst(_ heap: inout [UInt64]) -> UInt64? {
    guard let last = heap.popLast() else { return nil }
    guard let first = heap.first else { return last }
    sink(0, last, &heap)
    return first
  }

  /// Puts `value` at `hole` or below it.
  @inline(__always)
  private static func sink(_ hole: Int, _ value: UInt64, _ heap: inout [UInt64]) {
    var index = hole
    while true {
      var child = index * 2 + 1
      guard child < heap.count else { break }
      if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
      guard heap[child] < value else { break }
      heap[index] = heap[child]
      index = child
    }
    heap[index] = value
  }
}
