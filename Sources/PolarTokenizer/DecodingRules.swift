/// How the texts of tokens become one text.
struct DecodingRules: Sendable {
  /// What happens to spaces at the start of a text.
  enum Leading: Sendable {
    /// They stay.
    case kept
    /// Up to so many are left out.
    case stripped(Int)
    /// All marks of the first token are left out.
    case firstToken(mark: [UInt8])
    /// The mark that begins the first piece with a text is left out, and with `all` those of the pieces after it, as long
    /// as there is no text. The unknown token's text stays.
    case sentencePiece(all: Bool, unknown: Int32)
  }

  /// How many U+FFFD stand for bytes that are not UTF-8.
  enum Repair: Sendable {
    /// One for each maximal subpart.
    case maximalSubparts
    /// One for each byte.
    case eachByte
    /// One for each byte of a run of byte tokens that is not UTF-8 as a whole, as the ByteFallback decoder has it.
    case wholeRuns
  }

  var leading = Leading.kept
  var repair = Repair.maximalSubparts
  /// Bytes before and after a token that is left out are not one scalar.
  var endsScalarsAtSkipped = false
  /// Tokens that stand for one byte each.
  var byteTokens: Set<Int32> = []
}

/// Puts the texts of tokens together as they come; bytes that may still become a scalar are held back.
struct TextAssembler: Sendable {
  private let rules: DecodingRules
  /// Bytes of an unfinished scalar, or of an unfinished run.
  private var pending: [UInt8] = []
  /// Spaces that may still be left out.
  private var strippable = 0
  private var isFirstToken = true
  /// For SentencePiece's rule: whether a mark would begin the text, and whether one was left out.
  private var isAtStart = true
  private var hasLeftMarkOut = false
  private var hasText = false

  /// - Parameter holdsRuns: hold runs of byte tokens back until they end, where the rules look at whole runs.
  init(_ rules: DecodingRules, holdsRuns: Bool) {
    var rules = rules
    if case .wholeRuns = rules.repair, !holdsRuns { rules.repair = .eachByte }
    self.rules = rules
    if case .stripped(let count) = rules.leading { strippable = count }
  }

  /// Appends what a token makes certain.
  mutating func append(_ id: Int32, _ vocabulary: Vocabulary, to output: inout [UInt8]) {
    let isByte = !rules.byteTokens.isEmpty && rules.byteTokens.contains(id)
    if case .wholeRuns = rules.repair {
      if isByte {
        pending.append(contentsOf: vocabulary.bytes(of: id))
        isFirstToken = false
        return
      }
      endRun(&output)
    }
    pending.append(contentsOf: text(of: id, isByte: isByte, vocabulary)[...])
    isFirstToken = false
    emitWhole(&output)
  }

  /// Takes note of a token that is left out.
  mutating func skip(_ output: inout [UInt8]) {
    guard rules.endsScalarsAtSkipped else { return }
    finish(&output)
    if hasLeftMarkOut || hasText { isAtStart = false }
    hasLeftMarkOut = false
  }

  /// Appends what is left.
  mutating func finish(_ output: inout [UInt8]) {
    if case .wholeRuns = rules.repair { return endRun(&output) }
    for _ in 0..<(rules.repair == .eachByte ? pending.count : min(1, pending.count)) {
      emit(UTF8Text.replacement[...], &output)
    }
    pending = []
  }

  private mutating func text(of id: Int32, isByte: Bool, _ vocabulary: Vocabulary) -> ArraySlice<UInt8> {
    let bytes = vocabulary.bytes(of: id)
    switch rules.leading {
    case .kept, .stripped: return bytes
    case .firstToken(let mark):
      guard isFirstToken, !isByte else { return bytes }
      return Self.without(mark, vocabulary.spelling(of: id))
    case .sentencePiece(let all, let unknown):
      defer { if !bytes.isEmpty { hasText = hasText || isByte } }
      guard !isByte else { return bytes }
      if hasLeftMarkOut || hasText { isAtStart = false }
      hasLeftMarkOut = false
      var text = bytes
      if isAtStart, id != unknown, vocabulary.spelling(of: id).starts(with: SentencePieceNormalizer.mark) {
        text = bytes.dropFirst()
        hasLeftMarkOut = !all
      }
      hasText = hasText || !text.isEmpty
      return text
    }
  }

  private static func without(_ mark: [UInt8], _ spelling: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    var text: ArraySlice<UInt8> = []
    var index = spelling.startIndex
    while index < spelling.endIndex {
      if spelling[index...].starts(with: mark) {
        index += mark.count
      } else {
        text.append(spelling[index])
        index += 1
      }
    }
    return text
  }

  /// Emits the pending bytes up to a scalar that is not whole yet.
  private mutating func emitWhole(_ output: inout [UInt8]) {
    var index = 0
    loop: while index < pending.count {
      switch UTF8Text.piece(in: pending, at: index, end: pending.count) {
      case .scalar(let count):
        emit(pending[index..<index + count], &output)
        index += count
      case .broken(let count):
        for _ in 0..<(rules.repair == .eachByte ? count : 1) { emit(UTF8Text.replacement[...], &output) }
        index += count
      case .cut: break loop
      }
    }
    pending.removeSubrange(..<index)
  }

  private mutating func endRun(_ output: inout [UInt8]) {
    guard !pending.isEmpty else { return }
    let run = pending
    pending = []
    if UTF8Text.firstFault(in: run) == nil {
      for byte in run { emit([byte], &output) }
    } else {
      for _ in run { emit(UTF8Text.replacement[...], &output) }
    }
  }

  private mutating func emit(_ scalar: ArraySlice<UInt8>, _ output: inout [UInt8]) {
    if strippable > 0 {
      if scalar.first == 0x20 {
        strippable -= 1
        return
      }
      strippable = 0
    }
    output.append(contentsOf: scalar)
  }
}
