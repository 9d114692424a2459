import PolarCore

extension SentencePieceModel {
  /// Longer pieces, in bytes, are refused: the work to find all ways to merge one grows with its square.
  static let pieceLimit = 512

  /// What the model means.
  /// - Parameters:
  ///   - addsBegin: put the begin token before a text; where nil, if there is one.
  ///   - addsEnd: put the end token after a text.
  func parts(addsBegin: Bool? = nil, addsEnd: Bool = false) throws(PolarError) -> Tokenizer.Parts {
    var builder = try VocabularyBuilder(pieces.map(\.spelling), path: path) { text(of: $0, $1) }
    try checkPieces()
    guard let unknown = pieces.firstIndex(where: { $0.kind == .unknown }).map(Int32.init),
      pieces.count(where: { $0.kind == .unknown }) == 1
    else { throw .malformed(path: path, reason: "the model must have exactly one unknown piece") }
    let byteTokens = try byteTokens(builder.vocabulary)
    let model: Tokenizer.Model
    switch algorithm {
    case .bytePairs: model = .bytePairs(try pairEncoder(&builder, unknown: unknown, byteTokens: byteTokens))
    case .unigram: model = .unigram(unigramEncoder(unknown: unknown, byteTokens: byteTokens))
    }
    var parts = Tokenizer.Parts(
      vocabulary: builder.vocabulary, model: model, preTokenizer: PreTokenizer(stages: []))
    let userDefined = pieces.enumerated().filter { $0.element.kind == .userDefined }.map {
      AddedToken(id: Int32($0.offset), content: $0.element.spelling)
    }
    var normalizer = normalizer
    normalizer.kept = AddedTokenMatcher(userDefined)
    parts.normalizer.steps = [.sentencePiece(normalizer)]
    parts.normalizesAnyBytes = true
    if algorithm == .bytePairs { parts.symbols = userDefined }
    parts.added = pieces.enumerated().filter { $0.element.kind == .control }.map {
      AddedToken(id: Int32($0.offset), content: $0.element.spelling, isSpecial: true)
    }
    parts.decoding.byteTokens = Set(byteTokens.filter { $0 >= 0 })
    parts.decoding.repair = .eachByte
    parts.decoding.endsScalarsAtSkipped = true
    if normalizer.addsPrefix || normalizer.removesExtraSpaces {
      parts.decoding.leading = .sentencePiece(
        all: normalizer.removesExtraSpaces, unknown: unknown)
    }
    func control(_ spelling: [UInt8]) -> Int32? {
      guard let id = builder.vocabulary.id(of: spelling[...]), pieces[Int(id)].kind == .control else {
        return nil
      }
      return id
    }
    parts.bosToken = control(beginPiece)
    if let begin = parts.bosToken, addsBegin ?? true { parts.prefix = [begin] }
    if let end = control(endPiece) {
      parts.eosTokens = [end]
      if addsEnd { parts.suffix = [end] }
    }
    return parts
  }

  private func checkPieces() throws(PolarError) {
    for (id, piece) in pieces.enumerated() {
      if piece.spelling.isEmpty { throw .malformed(path: path, reason: "piece \(id) is empty") }
      if piece.score.isNaN {
        throw .malformed(path: path, reason: "the score of piece \(id) is not a number")
      }
      if piece.spelling.count > Self.pieceLimit {
        throw .unsupported(
          path: path, what: "piece \(id) of \(piece.spelling.count) bytes (at most \(Self.pieceLimit))")
      }
      if UTF8Text.firstFault(in: piece.spelling) != nil {
        throw .malformed(path: path, reason: "piece \(id) is not UTF-8")
      }
      if piece.kind == .byte, CharacterAlphabet.byte(piece.spelling) == nil {
        let name = String(decoding: piece.spelling, as: UTF8.self)
        throw .malformed(
          path: path, reason: "piece \(id), '\(name)', is marked as a byte but is not written as one")
      }
    }
  }

  /// What a piece is shown as.
  private func text(of id: Int, _ spelling: [UInt8]) -> [UInt8] {
    switch pieces[id].kind {
    case .byte: CharacterAlphabet.byte(spelling).map { [$0] } ?? spelling
    case .unknown: unknownText
    case .control: spelling
    default: SentencePieceNormalizer.text(spelling)
    }
  }

  private func byteTokens(_ vocabulary: Vocabulary) throws(PolarError) -> [Int32] {
    guard hasByteFallback else { return [] }
    let tokens = CharacterAlphabet.byteTokens(in: vocabulary)
    if let missing = tokens.firstIndex(of: -1) {
      let name = String(decoding: CharacterAlphabet.byteSpelling(UInt8(missing)), as: UTF8.self)
      throw .malformed(path: path, reason: "the model falls back to bytes but has no piece '\(name)'")
    }
    return tokens
  }

  // MARK: Byte pairs

  /// Each two symbols that together are a piece merge, the piece of the highest score first.
  private func pairEncoder(
    _ builder: inout VocabularyBuilder, unknown: Int32, byteTokens: [Int32]
  ) throws(PolarError) -> BytePairEncoder {
    if let unused = pieces.firstIndex(where: { $0.kind == .unused }) {
      throw .unsupported(path: path, what: "piece \(unused) of the type 'unused' in a BPE model")
    }
    let vocabulary = builder.vocabulary
    // Equal scores have equal rank: then the place decides.
    let scores = Set(pieces.map(\.score)).sorted(by: >)
    let ranks = Dictionary(uniqueKeysWithValues: scores.enumerated().map { ($0.element, $0.offset) })
    var alphabet = CharacterAlphabet(vocabulary, byteTokens: byteTokens)
    var scalars: [Unicode.Scalar] = []
    /// The symbol that a part of a piece is, if it can be one.
    func symbol(_ part: ArraySlice<UInt8>) -> Int32? {
      if let id = vocabulary.id(of: part), pieces[Int(id)].kind == .normal { return id }
      let (value, count) = UTF8Text.scalar(in: Array(part.prefix(4)), at: 0)
      guard count == part.count, let scalar = Unicode.Scalar(value) else { return nil }
      let known = alphabet.token(value)
      if known >= 0 { return known }
      let id = Int32(vocabulary.upperBound + scalars.count)
      scalars.append(scalar)
      alphabet.set(value, id)
      return id
    }
    var merges: [(left: Int32, right: Int32, rank: Int, id: Int32)] = []
    var isCutAtMarks = true
    for (id, piece) in pieces.enumerated() where piece.kind == .normal {
      let spelling = piece.spelling
      var split = UTF8Text.length(lead: spelling[0])
      var isAfterMark = spelling.starts(with: SentencePieceNormalizer.mark)
      while split < spelling.count {
        let isMark = spelling[split...].starts(with: SentencePieceNormalizer.mark)
        if isMark, !isAfterMark { isCutAtMarks = false }
        isAfterMark = isMark
        if let left = symbol(spelling[..<split]), let right = symbol(spelling[split...]) {
          merges.append((left, right, ranks[piece.score] ?? 0, Int32(id)))
        }
        split += UTF8Text.length(lead: spelling[split])
      }
    }
    var table = MergeTable(capacity: merges.count)
    for merge in merges { table.set(merge.left, merge.right, rank: merge.rank, id: merge.id) }
    return BytePairEncoder(
      vocabulary: vocabulary, alphabet: .characters(alphabet), merges: table, unknownToken: unknown,
      fusesUnknown: true, mergeableScalars: scalars,
      wordMark: isCutAtMarks && vocabulary.id(of: SentencePieceNormalizer.mark[...]) != nil
        ? SentencePieceNormalizer.mark : nil)
  }

  // MARK: Unigram

  private func unigramEncoder(unknown: Int32, byteTokens: [Int32]) -> UnigramEncoder {
    let normal = pieces.filter { $0.kind == .normal }.map(\.score)
    // SentencePiece starts the search for the highest score at the least positive number.
    let highest = normal.reduce(Float.leastNormalMagnitude, max)
    let lowest = normal.min() ?? .greatestFiniteMagnitude
    let scores = pieces.map { piece in
      piece.kind == .userDefined
        // Always better than what it could be cut into.
        ? Double(Float(piece.spelling.count) * highest) - 0.1 : Double(piece.score)
    }
    let taken = pieces.enumerated().filter { [.normal, .userDefined].contains($0.element.kind) }
    return UnigramEncoder(
      pieces: taken.map { ($0.element.spelling, Int32($0.offset)) }, scores: scores,
      unknownScore: Double(lowest - 10), unknownToken: unknown, precision: .single, byteTokens: byteTokens)
  }
}

extension SentencePieceNormalizer {
  /// A spelling with spaces for the marks.
  static func text(_ spelling: [UInt8]) -> [UInt8] {
    guard spelling.contains(mark[0]) else { return spelling }
    var text: [UInt8] = []
    var index = 0
    while index < spelling.count {
      if spelling[index...].starts(with: mark) {
        text.append(0x20)
        index += mark.count
      } else {
        text.append(spelling[index])
        index += 1
      }
    }
    return text
  }
}
