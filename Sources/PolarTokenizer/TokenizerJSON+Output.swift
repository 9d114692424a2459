import PolarCore

/// Post-processors and decoders.
extension TokenizerJSON {
  static func postProcess(_ view: JSONView, _ parts: inout Tokenizer.Parts) throws(PolarError) {
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

  /// What a decoder makes of each token, and of all together.
  struct Decoder {
    /// Spellings are in the byte alphabet.
    var isSpelled = false
    var replacements: [(old: [UInt8], new: [UInt8])] = []
    /// Tokens like `<0x0A>` stand for bytes.
    var hasByteTokens = false
    var isFused = false
    var rules = DecodingRules()

    /// The bytes that a spelling stands for; nil for the byte alphabet.
    func text(_ spelling: [UInt8]) -> [UInt8]? {
      if isSpelled { return nil }
      if hasByteTokens, let byte = CharacterAlphabet.byte(spelling) { return [byte] }
      return Normalizer(steps: replacements.map { .replaced($0.old, with: $0.new) }).apply(spelling)
    }
  }

  static func decoder(_ view: JSONView) throws(PolarError) -> Decoder {
    var decoder = Decoder()
    try add(view, to: &decoder)
    if decoder.isSpelled, decoder.hasByteTokens || decoder.isFused || !decoder.replacements.isEmpty {
      throw view.unsupported("a ByteLevel decoder among others")
    }
    return decoder
  }

  private static func add(_ view: JSONView, to decoder: inout Decoder) throws(PolarError) {
    switch try view.required("type").string() {
    case "ByteLevel": decoder.isSpelled = true
    case "Sequence":
      for part in try view.required("decoders").elements() { try add(part, to: &decoder) }
    case "Replace":
      guard !decoder.isFused, let text = try view.required("pattern").member("String"),
        !(try text.utf8().isEmpty)
      else { throw view.unsupported("a Replace decoder after Fuse or with a regular expression") }
      decoder.replacements.append((Array(try text.utf8()), Array(try view.required("content").utf8())))
    case "ByteFallback":
      decoder.hasByteTokens = true
      decoder.rules.repair = .wholeRuns
    case "Fuse": decoder.isFused = true
    case "Strip":
      let start = try count(view, "start")
      guard decoder.isFused, try count(view, "stop") == 0, try view.required("content").string() == " " else {
        throw view.unsupported("a Strip decoder before Fuse, at the end, or of something else than spaces")
      }
      decoder.rules.leading = .stripped(start)
    case "Metaspace":
      guard !decoder.isFused else { throw view.unsupported("a Metaspace decoder after Fuse") }
      let mark = Array(try view.required("replacement").utf8())
      guard !mark.isEmpty else { throw view.malformed("the replacement is empty") }
      decoder.replacements.append((mark, [0x20]))
      let scheme = try view.member("prepend_scheme")?.string()
      let addsSpace = try view.bool("add_prefix_space", default: true)
      if scheme.map({ $0 != "never" }) ?? addsSpace {
        decoder.rules.leading = .firstToken(mark: mark)
      }
    case let type: throw view.unsupported("a decoder of type \(type)")
    }
  }

  private static func count(_ view: JSONView, _ key: String) throws(PolarError) -> Int {
    Int(try view.required(key).tokenID())
  }
}
