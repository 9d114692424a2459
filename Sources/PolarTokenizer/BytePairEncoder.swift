/// Byte-pair encoding of one word at a time: the pair of lowest rank, leftmost first, is merged until none is
/// left (Sennrich et al. 2016, section 3.2), in O(n log n) for n symbols.
///
/// Long words are encoded part by part in memory that stays in the processor's cache, and exactly. A sequence of
/// tokens is the encoding of its text if and only if each two neighbours are the encoding of theirs: as long as
/// no merge crosses a border between tokens, the merges within two neighbours come in the same order whatever
/// surrounds them, so the first merge to cross a border would also come with these two alone. So a part is encoded
/// together with the last tokens before it, and if the first of these comes out as it was, all before it stand.
struct BytePairEncoder: Sendable {
  /// A part of a long word, in symbols.
  static let partLength = 1 << 14
  /// How many tokens before a part are encoded again with it, at first; doubled until the first stands.
  static let lookback = 16

  /// Working memory that is kept between words.
  struct Scratch: Sendable {
    /// The tokens of the word's bytes.
    fileprivate var initial: [Int32] = []
    /// The symbols of what is being merged, by position.
    fileprivate var symbols: [Symbol] = []
    /// The heap's storage, twice as long as `symbols`: a word of n symbols has n - 1 pairs, and each of its at
    /// most n - 1 merges takes one entry and adds two at most.
    fileprivate var entries: [UInt64] = []
    fileprivate var cache = WordCache()
  }

  /// A symbol of a word, at the position of its first byte.
  fileprivate struct Symbol: Sendable {
    /// Its token; -1 once it is part of the symbol before it.
    var id: Int32
    /// The position of the symbol before, -1 at the start.
    var previous: Int32
    /// The position of the symbol after, -1 at the end.
    var next: Int32
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
    encodeLong(text, range, into: &output, scratch: &scratch)
  }

  private func merge(
    _ text: [UInt8], _ range: Range<Int>, into output: inout [Int32], scratch: inout Scratch
  ) {
    if ignoresMerges, let id = wholeWord(text, range) {
      output.append(id)
      return
    }
    fillInitial(text, range, &scratch.initial)
    mergeSymbols(0..<scratch.initial.count, &scratch)
    for symbol in scratch.symbols where symbol.id >= 0 { output.append(symbol.id) }
  }

  private func encodeLong(
    _ text: [UInt8], _ range: Range<Int>, into output: inout [Int32], scratch: inout Scratch
  ) {
    if range.count <= Self.partLength { return merge(text, range, into: &output, scratch: &scratch) }
    fillInitial(text, range, &scratch.initial)
    // For each token of this word in `output`, how many symbols it was made of.
    var lengths: [Int32] = []
    var start = 0
    while start < scratch.initial.count {
      let end = min(start + Self.partLength, scratch.initial.count)
      var again = min(Self.lookback, lengths.count)
      while true {
        let symbolsAgain = lengths.suffix(again).reduce(0) { $0 + Int($1) }
        mergeSymbols(start - symbolsAgain..<end, &scratch)
        if again == lengths.count || scratch.symbols[0].id == output[output.count - again] { break }
        again = min(again * 2, lengths.count)
      }
      output.removeLast(again)
      lengths.removeLast(again)
      var position = 0
      while position >= 0, position < scratch.symbols.count {
        let symbol = scratch.symbols[position]
        let next = symbol.next < 0 ? scratch.symbols.count : Int(symbol.next)
        output.append(symbol.id)
        lengths.append(Int32(next - position))
        position = next
      }
      start = end
    }
    // A long word's memory is not kept.
    (scratch.initial, scratch.symbols, scratch.entries) = ([], [], [])
  }

  /// Sets `initial` to the tokens of a word's bytes.
  private func fillInitial(_ text: [UInt8], _ range: Range<Int>, _ initial: inout [Int32]) {
    initial.removeAll(keepingCapacity: true)
    initial.reserveCapacity(range.count)
    var previousIsUnknown = false
    for index in range {
      let id = byteTokens[Int(text[index])]
      if id >= 0 {
        initial.append(id)
      } else if let unknownToken, !(fusesUnknown && previousIsUnknown) {
        initial.append(unknownToken)
      }
      previousIsUnknown = id < 0
    }
  }

  /// Merges a range of `scratch.initial`; leaves the result in `scratch.symbols`.
  private func mergeSymbols(_ range: Range<Int>, _ scratch: inout Scratch) {
    let count = range.count
    scratch.symbols.removeAll(keepingCapacity: true)
    scratch.symbols.reserveCapacity(count)
    for position in 0..<count {
      scratch.symbols.append(
        Symbol(
          id: scratch.initial[range.lowerBound + position], previous: Int32(position - 1),
          next: position + 1 < count ? Int32(position + 1) : -1))
    }
    if scratch.entries.count < count * 2 { scratch.entries = [UInt64](repeating: 0, count: count * 2) }
    scratch.symbols.withUnsafeMutableBufferPointer { symbols in
      scratch.entries.withUnsafeMutableBufferPointer { entries in
        var heap = MergeHeap(storage: entries)
        for position in 0..<max(0, count - 1) {
          if let merge = merges.merge(symbols[position].id, symbols[position + 1].id) {
            heap.append(Self.entry(merge, position))
          }
        }
        heap.order()
        while let top = heap.popFirst() { apply(top, symbols, &heap) }
      }
    }
  }

  /// The heap's entry for a merge at a position.
  @inline(__always)
  private static func entry(_ merge: UInt64, _ position: Int) -> UInt64 {
    (merge & 0xFFFF_FFFF_0000_0000) | UInt64(position)
  }

  /// Does one merge of the heap, if its symbols are still there.
  @inline(__always)
  private func apply(_ top: UInt64, _ symbols: UnsafeMutableBufferPointer<Symbol>, _ heap: inout MergeHeap) {
    let left = Int(top & 0xFFFF_FFFF)
    let symbol = symbols[left]
    guard symbol.id >= 0, case let right = Int(symbol.next), right >= 0,
      let merge = merges.merge(symbol.id, symbols[right].id), merge >> 32 == top >> 32
    else { return }
    let id = Int32(truncatingIfNeeded: merge)
    let after = Int(symbols[right].next)
    symbols[right].id = -1
    symbols[left].id = id
    symbols[left].next = Int32(after)
    if after >= 0 {
      symbols[after].previous = Int32(left)
      if let merge = merges.merge(id, symbols[after].id) { heap.insert(Self.entry(merge, left)) }
    }
    let before = Int(symbol.previous)
    if before >= 0, let merge = merges.merge(symbols[before].id, id) {
      heap.insert(Self.entry(merge, before))
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
