import PolarCore

/// Reads Hugging Face's `tokenizer.json`, the part of it that byte-level BPE families use. What it does not know
/// it refuses by name.
enum TokenizerJSON {
  static func read(_ bytes: [UInt8], path: String) throws(PolarError) -> Tokenizer.Parts {
    let root = JSONView(try JSONDocument(bytes, path: path), path: path)
    let model = try root.required("model")
    try checkModel(model)
    var builder = try VocabularyBuilder(try model.required("vocab"))
    let merges = try mergeTable(try model.required("merges"), builder)
    let added = try addedTokens(root, &builder)
    var parts = Tokenizer.Parts(
      vocabulary: builder.vocabulary, merges: merges,
      preTokenizer: PreTokenizer(stages: try preTokenizer(root)))
    parts.added = added
    parts.normalizer = try root.member("normalizer").map(normalizer) ?? .none
    parts.fusesUnknown = try model.bool("fuse_unk", default: false)
    parts.ignoresMerges = try model.bool("ignore_merges", default: false)
    if let unknown = try model.member("unk_token") {
      guard let id = builder.vocabulary.id(of: try unknown.utf8()) else {
        throw unknown.malformed("not in the vocabulary")
      }
      parts.unknownToken = id
    }
    if let processor = try root.member("post_processor") { try postProcess(processor, &parts) }
    try checkDecoder(try root.required("decoder"))
    parts.bosToken = parts.prefix.first
    let special = Set(added.filter(\.isSpecial).map(\.id))
    parts.eosTokens = VocabularyBuilder.endMarks.compactMap {
      builder.vocabulary.id(of: Array($0.utf8)[...])
    }.filter(special.contains)
    return parts
  }

  // MARK: Model

  private static func checkModel(_ model: JSONView) throws(PolarError) {
    if let type = try model.member("type"), case let name = try type.string(), name != "BPE" {
      throw model.unsupported("a model of type \(name)")
    }
    if try model.bool("byte_fallback", default: false) { throw model.unsupported("byte_fallback") }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
      if let affix = try model.member(key), case let text = try affix.string(), !text.isEmpty {
        throw model.unsupported("\(key) '\(text)'")
      }
    }
    if let dropout = try model.member("dropout") {
      guard case .number(0) = dropout.node else { throw dropout.unsupported("dropout") }
    }
  }

  private static func mergeTable(
    _ view: JSONView, _ builder: VocabularyBuilder
  ) throws(PolarError) -> MergeTable {
    guard case .array(let nodes) = view.node else { throw view.malformed("an array expected") }
    let document = view.document
    return try builder.merges(count: nodes.count) { rank in
      switch nodes[rank] {
      case .string(let text): return VocabularyBuilder.halves(document.bytes(text))
      case .array(let halves):
        guard halves.count == 2, case .string(let left) = halves[0], case .string(let right) = halves[1]
        else { return nil }
        return (document.bytes(left), document.bytes(right))
      default: return nil
      }
    }
  }

  private static func addedTokens(
    _ root: JSONView, _ builder: inout VocabularyBuilder
  ) throws(PolarError) -> [AddedToken] {
    guard let list = try root.member("added_tokens") else { return [] }
    var tokens: [AddedToken] = []
    for view in try list.elements() {
      let content = Array(try view.required("content").utf8())
      let id = try view.required("id").tokenID()
      guard !content.isEmpty else { throw view.malformed("the content is empty") }
      if let known = builder.vocabulary.id(of: content[...]) {
        guard known == id else { throw view.malformed("the vocabulary gives this token the id \(known)") }
      } else {
        try builder.insert(content, id: id, isVerbatim: true)
      }
      tokens.append(
        AddedToken(
          id: id, content: content, isSpecial: try view.bool("special", default: false),
          stripsLeft: try view.bool("lstrip", default: false),
          stripsRight: try view.bool("rstrip", default: false),
          isSingleWord: try view.bool("single_word", default: false),
          isNormalized: try view.bool("normalized", default: false)))
    }
    return tokens
  }

  // MARK: Normalizer and pre-tokenizer

  private static func normalizer(_ view: JSONView) throws(PolarError) -> Normalizer {
    switch try view.required("type").string() {
    case "NFC": return .composed
    case "Sequence":
      var result = Normalizer.none
      for part in try view.required("normalizers").elements() where try normalizer(part) == .composed {
        result = .composed
      }
      return result
    case let type: throw view.unsupported("a normalizer of type \(type)")
    }
  }

  private static func preTokenizer(_ root: JSONView) throws(PolarError) -> [PreTokenizer.Stage] {
    guard let view = try root.member("pre_tokenizer") else {
      throw root.unsupported("no pre_tokenizer (only byte-level tokenizers are read)")
    }
    let views =
      try view.required("type").string() == "Sequence"
      ? try view.required("pretokenizers").elements() : [view]
    var stages: [PreTokenizer.Stage] = []
    for (index, view) in views.enumerated() {
      let type = try view.required("type").string()
      guard (type == "ByteLevel") == (index + 1 == views.count) else {
        throw view.unsupported("a pre-tokenizer of type \(type) at this place (ByteLevel must be the last)")
      }
      stages.append(try stage(view, type))
    }
    guard !stages.isEmpty else { throw view.unsupported("an empty sequence of pre-tokenizers") }
    return stages
  }

  private static func stage(_ view: JSONView, _ type: String) throws(PolarError) -> PreTokenizer.Stage {
    switch type {
    case "ByteLevel":
      return .init(
        scanner: try view.bool("use_regex", default: true) ? .gpt2 : .whole,
        addsPrefixSpace: try view.bool("add_prefix_space", default: true))
    case "Digits":
      return .init(scanner: try view.bool("individual_digits", default: false) ? .digits : .digitRuns)
    case "Split":
      let behavior = try view.required("behavior").string()
      guard behavior == "Isolated" || behavior == "Removed" else {
        throw view.unsupported("the behavior \(behavior)")
      }
      return .init(
        scanner: try scanner(try view.required("pattern")), removesMatches: behavior == "Removed",
        isInverted: try view.bool("invert", default: false))
    default: throw view.unsupported("a pre-tokenizer of type \(type)")
    }
  }

  private static func scanner(_ view: JSONView) throws(PolarError) -> PreTokenizer.Scanner {
    if let text = try view.member("String") {
      let literal = Array(try text.utf8())
      guard !literal.isEmpty else { throw text.unsupported("an empty pattern") }
      return .literal(literal)
    }
    let pattern = try view.required("Regex")
    let text = try pattern.string()
    guard let scanner = PreTokenizer.patterns[text] else {
      throw pattern.unsupported("the pattern \(text)")
    }
    return scanner
  }

  // MARK: Post-processor and decoder

  private static func postProcess(_ view: JSONView, _ parts: inout Tokenizer.Parts) throws(PolarError) {
    switch try view.required("type").string() {
    case "ByteLevel": break
    case "Sequence":
      for part in try view.required("processors").elements() { try postProcess(part, &parts) }
    case "TemplateProcessing":
      var before: [Int32] = []
      var after: [Int32] = []
      var hasText = false
      for piece in try view.required("single").elements() {
        if let token = try piece.member("SpecialToken") {
          let ids = try templateIDs(try token.required("id"), view, parts.vocabulary)
          if hasText { after += ids } else { before += ids }
        } else {
          let text = try piece.required("Sequence")
          guard try text.required("id").string() == "A", !hasText else {
            throw piece.unsupported("a template for one text with more than that text")
          }
          hasText = true
        }
      }
      guard hasText else { throw view.unsupported("a template without the text") }
      parts.prefix = before + parts.prefix
      parts.suffix += after
    case let type: throw view.unsupported("a post-processor of type \(type)")
    }
  }

  private static func templateIDs(
    _ name: JSONView, _ template: JSONView, _ vocabulary: Vocabulary
  ) throws(PolarError) -> [Int32] {
    let key = try name.string()
    guard let entry = try template.member("special_tokens")?.member(key) else {
      throw name.malformed("special_tokens has no '\(key)'")
    }
    var ids: [Int32] = []
    for view in try entry.required("ids").elements() {
      let id = try view.tokenID()
      guard Int(id) < vocabulary.upperBound else { throw view.malformed("no token has the id \(id)") }
      ids.append(id)
    }
    return ids
  }

  private static func checkDecoder(_ view: JSONView) throws(PolarError) {
    switch try view.required("type").string() {
    case "ByteLevel": break
    case "Sequence":
      let parts = try view.required("decoders").elements()
      guard parts.count == 1 else { throw view.unsupported("a sequence of \(parts.count) decoders") }
      try checkDecoder(parts[0])
    case let type: throw view.unsupported("a decoder of type \(type)")
    }
  }
}
