import PolarCore

/// Reads Hugging Face's `tokenizer.json`, the part of it that the known families use. What it does not know it refuses by
/// name.
enum TokenizerJSON {
  static func read(_ bytes: [UInt8], path: String) throws(PolarError) -> Tokenizer.Parts {
    let root = JSONView(try JSONDocument(bytes, path: path), path: path)
    let model = try root.required("model")
    let decoder = try decoder(try root.required("decoder"))
    let stages = try preTokenizer(root)
    guard stages.areSpelled == decoder.isSpelled else {
      throw root.unsupported("a ByteLevel pre-tokenizer or decoder without the other")
    }
    var (builder, encoder) = try read(model, decoder)
    let added = try addedTokens(root, &builder, decoder)
    var parts = Tokenizer.Parts(
      vocabulary: builder.vocabulary, model: encoder, preTokenizer: PreTokenizer(stages: stages.list))
    parts.added = added
    if let normalizer = try root.member("normalizer") { parts.normalizer.steps = try steps(normalizer) }
    if let processor = try root.member("post_processor") { try postProcess(processor, &parts) }
    parts.decoding = decoder.rules
    if decoder.hasByteTokens {
      for id in 0..<Int32(builder.vocabulary.upperBound)
      where CharacterAlphabet.byte(builder.vocabulary.spelling(of: id)) != nil {
        parts.decoding.byteTokens.insert(id)
      }
    }
    parts.bosToken = parts.prefix.first
    let special = Set(added.filter(\.isSpecial).map(\.id))
    parts.eosTokens = VocabularyBuilder.endMarks.compactMap {
      builder.vocabulary.id(of: Array($0.utf8)[...])
    }.filter(special.contains)
    return parts
  }

  // MARK: Model

  private static func read(
    _ model: JSONView, _ decoder: Decoder
  ) throws(PolarError) -> (VocabularyBuilder, Tokenizer.Model) {
    let type = try model.member("type")?.string() ?? "BPE"
    switch type {
    case "BPE": return try bytePairs(model, decoder)
    case "Unigram":
      if decoder.isSpelled { throw model.unsupported("a byte-level model of type Unigram") }
      return try unigram(model, decoder)
    default: throw model.unsupported("a model of type \(type)")
    }
  }

  private static func bytePairs(
    _ model: JSONView, _ decoder: Decoder
  ) throws(PolarError) -> (VocabularyBuilder, Tokenizer.Model) {
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
      if let affix = try model.member(key), case let text = try affix.string(), !text.isEmpty {
        throw model.unsupported("\(key) '\(text)'")
      }
    }
    if let dropout = try model.member("dropout") {
      guard case .number(0, _) = dropout.node else { throw dropout.unsupported("dropout") }
    }
    let hasByteFallback = try model.bool("byte_fallback", default: false)
    if hasByteFallback, decoder.isSpelled { throw model.unsupported("byte_fallback of a byte-level model") }
    let builder = try VocabularyBuilder(try model.required("vocab"), text: decoder.text)
    let (merges, isCutAtMarks) = try mergeTable(try model.required("merges"), builder)
    let vocabulary = builder.vocabulary
    let alphabet: BytePairEncoder.Alphabet
    var wordMark: [UInt8]?
    if decoder.isSpelled {
      alphabet = .spelledBytes(ByteAlphabet.spellings.map { vocabulary.id(of: $0[...]) ?? -1 })
    } else {
      let byteTokens = hasByteFallback ? CharacterAlphabet.byteTokens(in: vocabulary) : []
      alphabet = .characters(CharacterAlphabet(vocabulary, byteTokens: byteTokens))
      let mark = SentencePieceNormalizer.mark
      if isCutAtMarks, vocabulary.id(of: mark[...]) != nil { wordMark = mark }
    }
    return (
      builder,
      .bytePairs(
        BytePairEncoder(
          vocabulary: vocabulary, alphabet: alphabet, merges: merges,
          unknownToken: try unknownToken(model, vocabulary),
          fusesUnknown: try model.bool("fuse_unk", default: false),
          ignoresMerges: try model.bool("ignore_merges", default: false), wordMark: wordMark))
    )
  }

  private static func unknownToken(_ model: JSONView, _ vocabulary: Vocabulary) throws(PolarError) -> Int32? {
    guard let unknown = try model.member("unk_token") else { return nil }
    guard let id = vocabulary.id(of: try unknown.utf8()) else {
      throw unknown.malformed("not in the vocabulary")
    }
    return id
  }

  /// The merges, and whether no token that they make has a mark after something else.
  private static func mergeTable(
    _ view: JSONView, _ builder: VocabularyBuilder
  ) throws(PolarError) -> (MergeTable, isCutAtMarks: Bool) {
    guard case .array(let nodes) = view.node else { throw view.malformed("an array expected") }
    let document = view.document
    let mark = SentencePieceNormalizer.mark
    var isCutAtMarks = true
    let table = try builder.merges(count: nodes.count) { rank in
      let pair: (ArraySlice<UInt8>, ArraySlice<UInt8>)?
      switch nodes[rank] {
      case .string(let text): pair = VocabularyBuilder.halves(document.bytes(text))
      case .array(let halves):
        guard halves.count == 2, case .string(let left) = halves[0], case .string(let right) = halves[1]
        else { return nil }
        pair = (document.bytes(left), document.bytes(right))
      default: return nil
      }
      // What is merged of halves that have no inner mark has one only where they meet.
      if let (left, right) = pair, right.starts(with: mark), !left.suffix(3).elementsEqual(mark) {
        isCutAtMarks = false
      }
      return pair
    }
    return (table, isCutAtMarks)
  }

  private static func unigram(
    _ model: JSONView, _ decoder: Decoder
  ) throws(PolarError) -> (VocabularyBuilder, Tokenizer.Model) {
    let rows = try model.required("vocab").elements()
    var pieces: [(bytes: [UInt8], value: Int32)] = []
    var scores: [Double] = []
    for row in rows {
      let pair = try row.elements()
      guard pair.count == 2, case .number(let score, _) = pair[1].node else {
        throw row.malformed("a token and its score expected")
      }
      pieces.append((Array(try pair[0].utf8()), Int32(truncatingIfNeeded: scores.count)))
      scores.append(score)
    }
    let builder = try VocabularyBuilder(pieces.map(\.bytes), path: model.path) { decoder.text($1) }
    guard let unknown = try model.member("unk_id"), case let id = try unknown.tokenID(),
      Int(id) < pieces.count
    else { throw model.unsupported("a Unigram model without an unk_id in its vocabulary") }
    let hasByteFallback = try model.bool("byte_fallback", default: false)
    return (
      builder,
      .unigram(
        UnigramEncoder(
          pieces: pieces, scores: scores, unknownScore: (scores.min() ?? 0) - 10, unknownToken: id,
          precision: .double,
          byteTokens: hasByteFallback ? CharacterAlphabet.byteTokens(in: builder.vocabulary) : []))
    )
  }

  // MARK: Added tokens

  private static func addedTokens(
    _ root: JSONView, _ builder: inout VocabularyBuilder, _ decoder: Decoder
  ) throws(PolarError) -> [AddedToken] {
    guard let list = try root.member("added_tokens") else { return [] }
    var tokens: [AddedToken] = []
    for view in try list.elements() {
      let id = try view.required("id").tokenID()
      let token = try addedToken(view, id: id)
      if let known = builder.vocabulary.id(of: token.content[...]) {
        guard known == id else { throw view.malformed("the vocabulary gives this token the id \(known)") }
      } else {
        try builder.insert(token.content, id: id, text: decoder.text(token.content) ?? token.content)
      }
      tokens.append(token)
    }
    return tokens
  }

  /// A token with its attributes.
  static func addedToken(_ view: JSONView, id: Int32) throws(PolarError) -> AddedToken {
    let content = Array(try view.required("content").utf8())
    guard !content.isEmpty else { throw view.malformed("the content is empty") }
    return AddedToken(
      id: id, content: content, isSpecial: try view.bool("special", default: false),
      stripsLeft: try view.bool("lstrip", default: false),
      stripsRight: try view.bool("rstrip", default: false),
      isSingleWord: try view.bool("single_word", default: false),
      isNormalized: try view.bool("normalized", default: false))
  }
}
