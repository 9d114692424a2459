/// Cuts text into the words within which byte pairs are merged: stages that each cut every piece of the stage
/// before. The patterns of the known model families are scanners written by hand, one pass, no backtracking.
struct PreTokenizer: Sendable {
  /// How a stage finds its pieces.
  enum Scanner: Sendable, Equatable {
    /// One piece: the whole.
    case whole
    /// GPT-2's pattern.
    case gpt2
    /// The pattern of Llama 3 (`maxDigits` 3) and Qwen2 (1).
    case caseless(maxDigits: Int)
    /// Each numeric scalar is a match; what stands between is not.
    case digits
    /// Up to three numeric scalars are a match.
    case digitTriples
    /// Runs of numeric scalars are matches.
    case digitRuns
    /// Each occurrence of a string is a match.
    case literal([UInt8])
    /// Each scalar of white space is a match.
    case whitespace
    /// A piece begins at each occurrence of a string.
    case before([UInt8])
  }

  /// Where a mark is put before a text that does not begin with one.
  enum Prepend: Sendable, Equatable {
    case always
    /// Only before the first piece of the whole text.
    case first
    case never
  }

  /// Spaces made visible.
  struct Marks: Sendable, Equatable {
    /// What stands for a space.
    var mark: [UInt8]
    var prepend: Prepend
  }

  /// One cut.
  struct Stage: Sendable, Equatable {
    var scanner: Scanner
    /// Matches are thrown away rather than kept as pieces of their own.
    var removesMatches = false
    /// Matches and what stands between them change roles.
    var isInverted = false
    /// A piece that does not begin with a space gets one before it is cut.
    var addsPrefixSpace = false
    /// Spaces are replaced before the piece is cut.
    var marks: Marks?
  }

  /// The patterns that tokenizer files spell out, with the scanners that stand for them.
  static let patterns: [String: Scanner] = [
    #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#: .gpt2,
    #"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#: .gpt2,
    #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"#
      + #" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#: .caseless(maxDigits: 1),
    #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"#
      + #" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#: .caseless(maxDigits: 3),
    #"\p{N}"#: .digits,
    #"\p{N}{1,3}"#: .digitTriples,
    #"\p{N}+"#: .digitRuns,
  ]

  let stages: [Stage]
  private let classifier = ScalarClassifier()

  init(stages: [Stage]) {
    self.stages = stages
  }

  /// Calls `body` for each word of a range of well-formed UTF-8 text, in order. The array given to `body` is
  /// another one than `text` where a stage adds a space or replaces it.
  /// - Parameter isFirst: the range is the beginning of the whole text.
  func forEachWord(
    in text: [UInt8], _ range: Range<Int>, isFirst: Bool, _ body: (_ text: [UInt8], Range<Int>) -> Void
  ) {
    apply(0, text, range, isFirst, body)
  }

  private func apply(
    _ index: Int, _ text: [UInt8], _ range: Range<Int>, _ isFirst: Bool, _ body: ([UInt8], Range<Int>) -> Void
  ) {
    guard !range.isEmpty else { return }
    guard index < stages.count else { return body(text, range) }
    if let marks = stages[index].marks {
      let marked = Self.marked(text[range], marks, isFirst: isFirst)
      cut(index, marked, 0..<marked.count, isFirst, body)
    } else if stages[index].addsPrefixSpace, text[range.lowerBound] != 0x20 {
      let prefixed = [0x20] + text[range]
      cut(index, prefixed, 0..<prefixed.count, isFirst, body)
    } else {
      cut(index, text, range, isFirst, body)
    }
  }

  private static func marked(_ text: ArraySlice<UInt8>, _ marks: Marks, isFirst: Bool) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(text.count + text.count / 2 + marks.mark.count)
    let isPrefixed = marks.prepend == .always || marks.prepend == .first && isFirst
    if isPrefixed, text.first != 0x20, !text.starts(with: marks.mark) {
      output.append(contentsOf: marks.mark)
    }
    for byte in text {
      if byte == 0x20 { output.append(contentsOf: marks.mark) } else { output.append(byte) }
    }
    return output
  }

  private func cut(
    _ index: Int, _ text: [UInt8], _ range: Range<Int>, _ isFirst: Bool, _ body: ([UInt8], Range<Int>) -> Void
  ) {
    let stage = stages[index]
    let isLast = index + 1 == stages.count
    var start = range.lowerBound
    while start < range.upperBound {
      let (end, isMatch) = piece(stage.scanner, text, start, range.upperBound)
      if !(stage.removesMatches && isMatch != stage.isInverted) {
        if isLast {
          body(text, start..<end)
        } else {
          apply(index + 1, text, start..<end, isFirst && start == range.lowerBound, body)
        }
      }
      start = end
    }
  }

  /// The end of the piece that begins at `start`, and whether it is a match of the pattern.
  @inline(__always)
  private func piece(
    _ scanner: Scanner, _ text: [UInt8], _ start: Int, _ end: Int
  ) -> (end: Int, isMatch: Bool) {
    switch scanner {
    case .whole: (end, true)
    case .gpt2: (gpt2(text, start, end), true)
    case .caseless(let maxDigits): (caseless(text, start, end, maxDigits), true)
    case .digits: digits(text, start, end, atMost: 1)
    case .digitTriples: digits(text, start, end, atMost: 3)
    case .digitRuns: digits(text, start, end, atMost: .max)
    case .literal(let string): literal(string, text, start, end)
    case .whitespace: whitespaceScalar(text, start, end)
    case .before(let string): (next(string, text, start + 1, end), true)
    }
  }

  // MARK: Patterns

  /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
  private func gpt2(_ text: [UInt8], _ start: Int, _ end: Int) -> Int {
    if let contraction = contraction(text, start, end, caseless: false) { return contraction }
    // An optional space before a run of one class that is not white space.
    let first = text[start] == 0x20 && start + 1 < end ? start + 1 : start
    let (kind, _) = classifier.classify(text, at: first)
    if kind.isWhitespace { return whitespace(text, start, end) }
    return run(of: kind, text, first, end)
  }

  /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,m}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
  private func caseless(_ text: [UInt8], _ start: Int, _ end: Int, _ maxDigits: Int) -> Int {
    if let contraction = contraction(text, start, end, caseless: true) { return contraction }
    let (kind, count) = classifier.classify(text, at: start)
    if kind == .letter { return run(of: .letter, text, start, end) }
    if kind == .number { return digits(text, start, end, atMost: maxDigits).end }
    let second = start + count
    if kind != .newline, second < end {
      let following = classifier.classify(text, at: second).class
      if following == .letter { return run(of: .letter, text, second, end) }
      if text[start] == 0x20, following == .other { return punctuation(text, second, end) }
    }
    return kind == .other ? punctuation(text, start, end) : whitespace(text, start, end, afterNewlines: true)
  }

  /// `[^\s\p{L}\p{N}]+[\r\n]*`
  private func punctuation(_ text: [UInt8], _ start: Int, _ end: Int) -> Int {
    var index = run(of: .other, text, start, end)
    while index < end, text[index] == 0x0A || text[index] == 0x0D { index += 1 }
    return index
  }

  /// The end of the run of one class from `start`.
  @inline(__always)
  private func run(of kind: ScalarClass, _ text: [UInt8], _ start: Int, _ end: Int) -> Int {
    var index = start
    while index < end, case let (next, count) = classifier.classify(text, at: index), next == kind {
      index += count
    }
    return index
  }

  /// `\s+(?!\S)|\s+`, and before them `\s*[\r\n]+` with `afterNewlines`: a run of white space up to its last
  /// newline; else all of it at the end of the text, and all but its last scalar (if that leaves any) before
  /// something else.
  private func whitespace(_ text: [UInt8], _ start: Int, _ end: Int, afterNewlines: Bool = false) -> Int {
    var index = start
    var last = start
    var newlineEnd = start
    while index < end, case let (kind, count) = classifier.classify(text, at: index), kind.isWhitespace {
      last = index
      index += count
      if kind == .newline { newlineEnd = index }
    }
    if afterNewlines, newlineEnd > start { return newlineEnd }
    return index == end || last == start ? index : last
  }

  /// `'s|'t|'re|'ve|'m|'ll|'d`
  @inline(__always)
  private func contraction(_ text: [UInt8], _ start: Int, _ end: Int, caseless: Bool) -> Int? {
    guard text[start] == UInt8(ascii: "'"), start + 1 < end else { return nil }
    let fold: UInt8 = caseless ? 0x20 : 0
    switch text[start + 1] | fold {
    case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return start + 2
    case UInt8(ascii: "r"), UInt8(ascii: "v"):
      return start + 2 < end && text[start + 2] | fold == UInt8(ascii: "e") ? start + 3 : nil
    case UInt8(ascii: "l"):
      return start + 2 < end && text[start + 2] | fold == UInt8(ascii: "l") ? start + 3 : nil
    case 0xE5 where caseless && text[start + 1] == 0xC5:
      // U+017F, the long s, is an s without case.
      return start + 2 < end && text[start + 2] == 0xBF ? start + 3 : nil
    default: return nil
    }
  }

  /// Up to `limit` numeric scalars (a match), or what stands before the next one.
  private func digits(
    _ text: [UInt8], _ start: Int, _ end: Int, atMost limit: Int
  ) -> (end: Int, isMatch: Bool) {
    let isMatch = classifier.classify(text, at: start).class == .number
    var index = start
    var number = 0
    while index < end, case let (kind, count) = classifier.classify(text, at: index),
      (kind == .number) == isMatch, !isMatch || number < limit
    {
      index += count
      number += 1
    }
    return (index, isMatch)
  }

  /// One scalar of white space (a match), or what stands before the next one.
  private func whitespaceScalar(_ text: [UInt8], _ start: Int, _ end: Int) -> (end: Int, isMatch: Bool) {
    let (kind, count) = classifier.classify(text, at: start)
    if kind.isWhitespace { return (start + count, true) }
    var index = start + count
    while index < end, case let (kind, count) = classifier.classify(text, at: index), !kind.isWhitespace {
      index += count
    }
    return (index, false)
  }

  /// The string (a match), or what stands before its next occurrence.
  private func literal(
    _ string: [UInt8], _ text: [UInt8], _ start: Int, _ end: Int
  ) -> (end: Int, isMatch: Bool) {
    let index = next(string, text, start, end)
    return index == start ? (start + string.count, true) : (index, false)
  }

  /// The next place from `start` at which a string stands, or `end`.
  private func next(_ string: [UInt8], _ text: [UInt8], _ start: Int, _ end: Int) -> Int {
    var index = start
    while index + string.count <= end {
      if text[index] == string[0], text[index..<index + string.count].elementsEqual(string) { return index }
      index += 1
    }
    return end
  }
}
