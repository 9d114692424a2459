public import Foundation
public import PolarCore

/// What `tokenizer_config.json` says of the tokenizer whose vocabulary is in a file beside it.
public struct TokenizerSettings: Sendable {
  /// `add_bos_token`
  public var addsBegin: Bool?
  /// `add_eos_token`
  public var addsEnd: Bool?
  /// The texts of `bos_token`, `eos_token`, `unk_token` and `pad_token`, by these names.
  public var specialTexts: [String: String] = [:]
  /// `added_tokens_decoder`
  var added: [AddedToken] = []

  /// Nothing said.
  public init() {}

  /// Reads a `tokenizer_config.json`.
  /// - Parameters:
  ///   - json: the file's content.
  ///   - path: named in errors.
  public init(json: Data, path: String) throws(PolarError) {
    let root = JSONView(try JSONDocument(Array(json), path: path), path: path)
    addsBegin = try Self.bool(root, "add_bos_token")
    addsEnd = try Self.bool(root, "add_eos_token")
    for name in ["bos_token", "eos_token", "unk_token", "pad_token"] {
      guard let token = try root.member(name) else { continue }
      // A string, or an object with its attributes.
      if case .object = token.node {
        specialTexts[name] = try token.required("content").string()
      } else {
        specialTexts[name] = try token.string()
      }
    }
    guard let added = try root.member("added_tokens_decoder") else { return }
    for member in try added.members() {
      let key = String(decoding: added.document.bytes(member.key), as: UTF8.self)
      guard let id = Int32(key), id >= 0, Int(id) < Vocabulary.idLimit else {
        throw added.malformed("'\(key)' is not a token id below 2^24")
      }
      self.added.append(try TokenizerJSON.addedToken(added.required(key), id: id))
    }
  }

  private static func bool(_ root: JSONView, _ key: String) throws(PolarError) -> Bool? {
    try root.member(key) == nil ? nil : try root.bool(key, default: false)
  }

  /// Adds the tokens that the vocabulary lacks, and the end token.
  func apply(to parts: inout Tokenizer.Parts, path: String) throws(PolarError) {
    for token in added where parts.vocabulary.id(of: token.content[...]) == nil {
      if let reason = parts.vocabulary.insert(token.content, id: token.id, text: token.content) {
        throw .malformed(path: path, reason: "added_tokens_decoder of tokenizer_config.json: \(reason)")
      }
      parts.added.append(token)
    }
    if let endToken = specialTexts["eos_token"], let id = parts.vocabulary.id(of: Array(endToken.utf8)[...]),
      !parts.eosTokens.contains(id)
    {
      parts.eosTokens.insert(id, at: 0)
    }
  }
}
