import PolarCore

/// The tokenizer that a GGUF file's metadata describes, for `tokenizer.ggml.model` = `gpt2` (byte-level BPE).
public struct GGUFVocabulary: Sendable {
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
  /// `tokenizer.ggml.add_bos_token`
  public var addBOS: Bool
  /// The file, named in errors.
  public var path: String

  /// Holds the metadata as the file has it; `Tokenizer.init(gguf:)` checks it.
  public init(
    tokens: [String], types: [Int32], merges: [String], pre: String, bosToken: Int32?, eosToken: Int32?,
    addBOS: Bool, path: String
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
    // Control and user-defined tokens are stored as their text, not in the byte alphabet.
    let isAdded = { [types] (id: Int) in !types.isEmpty && 2...4 ~= types[id] }
    let builder = try VocabularyBuilder(tokens, path: path, isVerbatim: isAdded)
    let table = try builder.merges(count: merges.count) {
      VocabularyBuilder.halves(Array(merges[$0].utf8)[...])
    }
    var parts = Tokenizer.Parts(
      vocabulary: builder.vocabulary, merges: table, preTokenizer: .init(stages: []))
    try choosePreTokenizer(&parts)
    for (id, token) in tokens.enumerated() where isAdded(id) && !token.isEmpty {
      parts.added.append(
        AddedToken(id: Int32(id), content: Array(token.utf8), isSpecial: types[id] != 4))
    }
    parts.bosToken = try checked(bosToken, "bos_token_id")
    if addBOS, let bosToken { parts.prefix = [bosToken] }
    if let eosToken = try checked(eosToken, "eos_token_id") { parts.eosTokens = [eosToken] }
    for mark in VocabularyBuilder.endMarks {
      if let id = builder.vocabulary.id(of: Array(mark.utf8)[...]), isAdded(Int(id)), id != eosToken {
        parts.eosTokens.append(id)
      }
    }
    return parts
  }

  private func choosePreTokenizer(_ parts: inout Tokenizer.Parts) throws(PolarError) {
    let scanners: [PreTokenizer.Scanner]
    switch pre {
    case "", "default", "gpt-2", "gpt2", "opt": scanners = [.gpt2]
    case "smollm", "starcoder", "refact": scanners = [.digits, .gpt2]
    case "qwen2":
      scanners = [.caseless(maxDigits: 1)]
      // Qwen2's own tokenizer composes text first.
      parts.normalizer = .composed
    case "llama-bpe", "llama3", "llama-v3":
      scanners = [.caseless(maxDigits: 3)]
      parts.ignoresMerges = true
    default: throw .unsupported(path: path, what: "the pre-tokenizer '\(pre)'")
    }
    parts.preTokenizer = PreTokenizer(stages: scanners.map { .init(scanner: $0) })
  }

  private func checked(_ id: Int32?, _ key: String) throws(PolarError) -> Int32? {
    guard let id else { return nil }
    guard id >= 0, Int(id) < tokens.count else {
      throw .malformed(path: path, reason: "\(key) \(id) is not one of the \(tokens.count) tokens")
    }
    return id
  }
}
