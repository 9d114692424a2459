/// Pair encoding of one word at a time: the pair of lowest rank, leftmost first, is merged until none is
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

  /// What the symbols are before any merge.
  enum Alphabet: Sendable {
    /// Bytes: the id of each, -1 for those that the vocabulary lacks. Spellings are in the byte alphabet.
    case spelledBytes([Int32])
    /// Bytes, with spellings that are the bytes themselves.
    case bytes([Int32])
    /// Scalars.
    case characters(CharacterAlphabet)
  }

  let vocabulary: Vocabulary
  let alphabet: Alphabet
  let merges: MergeTable
  /// Stands for symbols that have no token; without it they are left out.
  var unknownToken: Int32?
  /// Neighbouring unknown symbols become one unknown token.
  var fusesUnknown = false
  /// Words that are tokens are taken whole.
  var ignoresMerges = false
  /// Scalars without a token that tokens are merged from: symbols with the ids from the vocabulary's upper bound on.
  /// What is left of them after the merges is unknown.
  var mergeableScalars: [Unicode.Scalar] = []
  /// A scalar before which a word may be cut where another one stands before it, because no token has it there.
  /// The pieces are small, and most of them have been seen before.
  var wordMark: [UInt8]?

  /// Appends the ids of `text[range]`.
  func encode(
    _ text: [UInt8], _ range: Range<Int>, into output: inout [Int32], scratch: inout Scratch
  ) {
    guard let wordMark else { return encodeWord(text, range, into: &output, scratch: &scratch) }
    var start = range.lowerBound
    var index = start
    var isAfterMark = true
    while index < range.upperBound {
      let isMark =
        text[index] == wordMark[0] && index + wordMark.count <= range.upperBound
        && text[index..<index + wordMark.count].elementsEqual(wordMark)
      if isMark, !isAfterMark {
        encodeWord(text, start..<index, into: &output, scratch: &scratch)
        start = index
      }
      isAfterMark = isMark
      index += UTF8Text.length(lead: text[index])
    }
    if start < range.upperBound {
      encodeWord(text, start..<range.upperBound, into: &output, scratch: &scratch)
    }
  }

  private func encodeWord(
    _ text: [UInt8], _ range: Range<Int>, into output: inout [Int32], scratch: inout Scratch
  ) {
    if range.count == 1, case .spelledBytes(let ids) = alphabet, ids[Int(text[range.lowerBound])] >= 0 {
      output.append(ids[Int(text[range.lowerBound])])
      return
    }
    if range.count <= WordCache.wordLimit {
      let hash = WordCache.hash(text, range)
      if scratch.cache.append(text, range, hash: hash, to: &output) { return }
      let start = output.count
      merge(text, range, into: &output, scratch: &scratch)
      resolveUnknown(&output, from: start)
      scratch.cache.store(text, range, hash: hash, ids: output[start...])
      return
    }
    let start = output.count
    encodeLong(text, range, into: &output, scratch: &scratch)
    resolveUnknown(&output, from: start)
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

  /// Sets `initial` to the symbols of a word.
  private func fillInitial(_ text: [UInt8], _ range: Range<Int>, _ initial: inout [Int32]) {
    initial.removeAll(keepingCapacity: true)
    initial.reserveCapacity(range.count)
    // An unknown token that waits for its neighbours.
    var isPending = false
    func takeUnknown() {
      guard let unknownToken else { return }
      if isPending, !fusesUnknown { initial.append(unknownToken) }
      isPending = true
    }
    func take(_ id: Int32) {
      if isPending, let unknownToken { initial.append(unknownToken) }
      isPending = false
      initial.append(id)
    }
    switch alphabet {
    case .spelledBytes(let ids), .bytes(let ids):
      for index in range {
        let id = ids[Int(text[index])]
        if id >= 0 { take(id) } else { takeUnknown() }
      }
    case .characters(let characters):
      var index = range.lowerBound
      while index < range.upperBound {
        let (scalar, count) = UTF8Text.scalar(in: text, at: index)
        let id = characters.token(scalar)
        if id >= 0 {
          take(id)
        } else if !characters.appendBytes(text, index..<index + count, to: &initial) {
          takeUnknown()
        }
        index += count
      }
    }
    if isPending, let unknownToken { initial.append(unknownToken) }
  }

  /// Replaces what is left of scalars without a token by byte tokens or the unknown token.
  private func resolveUnknown(_ output: inout [Int32], from start: Int) {
    guard !mergeableScalars.isEmpty, case .characters(let characters) = alphabet else { return }
    let bound = Int32(vocabulary.upperBound)
    guard output[start...].contains(where: { $0 >= bound }) else { return }
    let ids = Array(output[start...])
    output.removeSubrange(start...)
    for id in ids {
      if id >= bound {
        let bytes = Array(String(mergeableScalars[Int(id - bound)]).utf8)
        if characters.appendBytes(bytes, 0..<bytes.count, to: &output) { continue }
      }
      guard id >= bound || id == unknownToken else {
        output.append(id)
        continue
      }
      guard let unknownToken, !(fusesUnknown && output.count > start && output.last == unknownToken) else {
        continue
      }
      output.append(unknownToken)
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
    guard case .spelledBytes = alphabet else { return vocabulary.id(of: text[range]) }
    var spelling: [UInt8] = []
    for byte in text[range] { spelling.append(contentsOf: ByteAlphabet.spellings[Int(byte)]) }
    return vocabulary.id(of: spelling[...])
  }
}
