import PolarCore

/// The tokenizer that a GGUF file's metadata describes.
public struct GGUFVocabulary: Sendable {
  /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
  public var model = "gpt2"
  /// `tokenizer.ggml.tokens`: the spelling of each id.
  public var tokens: [String]
  /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty counts
  /// as all normal.
  public var types: [Int32]
  /// `tokenizer.ggml.merges`: "left right", best first.
  public var merges: [String]
  /// `tokenizer.ggml.pre`: the name of the pre-tokenizer; empty (absent in old files) counts as "default".
  public var pre: String
  /// `tokenizer.ggml.bos_token_id`
  public var bosToken: Int32?
  /// `tokenizer.ggml.eos_token_id`
  public var eosToken: Int32?
  /// `tokenizer.ggml.add_bos_token`; where absent, `llama` models and Llama 3 begin with it.
  public var addBOS: Bool?
  /// `tokenizer.ggml.scores`, of `llama` models.
  public var scores: [Float] = []
  /// `tokenizer.ggml.add_space_prefix`, of `llama` models; absent counts as true.
  public var addsSpacePrefix: Bool?
  /// The file, named in errors.
  public var path: String

  /// Holds the metadata as the file has it; `Tokenizer.init(gguf:)` checks it.
  public init(
    tokens: [String], types: [Int32], merges: [String], pre: String, bosToken: Int32?, eosToken: Int32?,
    addBOS: Bool?, path: String
  ) {
    self.tokens = tokens
    self.types = types
    self.merges = merges
    self.pre = pre
    self.bosToken = bosToken
    self.eosToken = eosToken
    self.addBOS = addBOS
    self.path = path
  }

  /// What the metadata means.
  func read() throws(PolarError) -> Tokenizer.Parts {
    guard types.isEmpty || types.count == tokens.count else {
      throw .malformed(path: path, reason: "\(tokens.count) tokens but \(types.count) token types")
    }
    switch model {
    case "gpt2": return try readBytePairs()
    case "llama": return try readPieces()
    default: throw .unsupported(path: path, what: "the tokenizer model '\(model)' (known: gpt2, llama)")
    }
  }

  /// SentencePiece BPE with byte fallback.
  private func readPieces() throws(PolarError) -> Tokenizer.Parts {
    guard scores.count == tokens.count else {
      throw .malformed(path: path, reason: "\(tokens.count) tokens but \(scores.count) scores")
    }
    var model = SentencePieceModel(path: path)
    model.algorithm = .bytePairs
    model.hasByteFallback = true
    model.normalizer = SentencePieceNormalizer(addsPrefix: addsSpacePrefix ?? true)
    for (id, token) in tokens.enumerated() {
      guard let kind = SentencePieceModel.Kind(rawValue: types.isEmpty ? 1 : Int(types[id])) else {
        throw .malformed(path: path, reason: "token \(id) has the type \(types[id])")
      }
      model.pieces.append(.init(spelling: Array(token.utf8), score: scores[id], kind: kind))
    }
    var parts = try model.parts(addsBegin: false)
    try setMarks(&parts, addsBegin: addBOS ?? true)
    return parts
  }

  private func readBytePairs() throws(PolarError) -> Tokenizer.Parts {
    // Control and user-defined tokens are stored as their text, not in the byte alphabet.
    let isAdded = { [types] (id: Int) in !types.isEmpty && 2...4 ~= types[id] }
    let builder = try VocabularyBuilder(tokens.map { Array($0.utf8) }, path: path) { isAdded($0) ? $1 : nil }
    let table = try builder.merges(count: merges.count) {
      VocabularyBuilder.halves(Array(merges[$0].utf8)[...])
    }
    let family = try family()
    let encoder = BytePairEncoder(
      vocabulary: builder.vocabulary,
      alphabet: .spelledBytes(ByteAlphabet.spellings.map { builder.vocabulary.id(of: $0[...]) ?? -1 }),
      merges: table, ignoresMerges: family.ignoresMerges)
    var parts = Tokenizer.Parts(
      vocabulary: builder.vocabulary, model: .bytePairs(encoder),
      preTokenizer: PreTokenizer(stages: family.scanners.map { .init(scanner: $0) }),
      normalizer: family.normalizer)
    for (id, token) in tokens.enumerated() where isAdded(id) && !token.isEmpty {
      parts.added.append(
        AddedToken(id: Int32(id), content: Array(token.utf8), isSpecial: types[id] != 4))
    }
    try setMarks(&parts, addsBegin: addBOS ?? family.addsBegin)
    return parts
  }

  /// Sets the tokens that begin and end texts.
  private func setMarks(_ parts: inout Tokenizer.Parts, addsBegin: Bool) throws(PolarError) {
    parts.bosToken = try checked(bosToken, "bos_token_id")
    if addsBegin, let bosToken { parts.prefix = [bosToken] }
    parts.eosTokens = try checked(eosToken, "eos_token_id").map { [$0] } ?? []
    for mark in VocabularyBuilder.endMarks {
      if let id = parts.vocabulary.id(of: Array(mark.utf8)[...]), !types.isEmpty, 2...4 ~= types[Int(id)],
        id != eosToken
      {
        parts.eosTokens.append(id)
      }
    }
  }

  /// What the name of a pre-tokenizer stands for.
  private struct Family {
    var scanners: [PreTokenizer.Scanner]
    var normalizer = Normalizer()
    var ignoresMerges = false
    var addsBegin = false
  }

  private func family() throws(PolarError) -> Family {
    switch pre {
    case "", "default", "gpt-2", "gpt2", "opt": Family(scanners: [.gpt2])
    case "smollm", "starcoder", "refact": Family(scanners: [.digits, .gpt2])
    // Qwen2's own tokenizer composes text first.
    case "qwen2": Family(scanners: [.caseless(maxDigits: 1)], normalizer: .composed)
    case "llama-bpe", "llama3", "llama-v3":
      Family(scanners: [.caseless(maxDigits: 3)], ignoresMerges: true, addsBegin: true)
    default: throw .unsupported(path: path, what: "the pre-tokenizer '\(pre)'")
    }
  }

  private func checked(_ id: Int32?, _ key: String) throws(PolarError) -> Int32? {
    guard let id else { return nil }
    guard id >= 0, Int(id) < tokens.count else {
      throw .malformed(path: path, reason: "\(key) \(id) is not one of the \(tokens.count) tokens")
    }
    return id
  }
}
