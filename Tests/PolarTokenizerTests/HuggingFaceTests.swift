import Foundation
import PolarCore
import PolarTokenizer
import Testing

/// Ids and texts equal those of Hugging Face `tokenizers`, on the committed corpus.
struct HuggingFaceTests {
  @Test(arguments: ["tiny-gpt2", "tiny-smollm", "tiny-qwen2"])
  func tinyTokenizer(name: String) throws {
    try Expectation.load(name).check(try Files.tiny(name))
  }

  @Test(arguments: [
    "tiny-gpt2-prefix-space", "tiny-smollm-digit-runs", "tiny-smollm-split", "tiny-smollm-removed",
    "tiny-smollm-inverted", "tiny-qwen2-triples", "tiny-qwen2-ignore-merges", "tiny-qwen2-plain",
  ])
  func variant(name: String) throws {
    let expectation = try Expectation.load(name)
    let base = try #require(expectation.base)
    var text = String(decoding: try Files.data("\(base).json"), as: UTF8.self)
    for pair in try #require(expectation.replace) {
      #expect(text.contains(pair[0]))
      text = text.replacingOccurrences(of: pair[0], with: pair[1])
    }
    try expectation.check(try Tokenizer(json: Data(text.utf8), path: name))
  }

  @Test(arguments: [
    ("opt-books", "models/opt-books/tokenizer.json"), ("smollm2", "tokenizers/smollm2/tokenizer.json"),
    ("qwen2.5", "tokenizers/qwen2.5/tokenizer.json"),
  ])
  func realTokenizer(name: String, path: String) throws {
    guard let url = Files.shared(path) else { return }
    try Expectation.load(name).check(try Tokenizer(json: try Data(contentsOf: url), path: url.path))
  }

  @Test func qwenWithComposition() throws {
    guard let url = Files.shared("tokenizers/qwen2.5/tokenizer.json") else { return }
    let text = String(decoding: try Data(contentsOf: url), as: UTF8.self)
    let start = try #require(text.range(of: "\"normalizer\": null"))
    let json = text.replacingCharacters(in: start, with: "\"normalizer\": {\"type\": \"NFC\"}")
    try Expectation.load("qwen2.5-composed").check(try Tokenizer(json: Data(json.utf8), path: url.path))
  }

  @Test func optFromVocabularyAndMerges() throws {
    guard let vocab = Files.shared("tokenizers/opt-gpt2/vocab.json"),
      let merges = Files.shared("tokenizers/opt-gpt2/merges.txt")
    else { return }
    let tokenizer = try Tokenizer(
      vocabJSON: try Data(contentsOf: vocab), merges: try String(contentsOf: merges, encoding: .utf8),
      path: vocab.path)
    try Expectation.load("opt-gpt2").check(tokenizer)
    #expect(tokenizer.bosToken == 2)
    #expect(tokenizer.eosTokens == [2])
    #expect(tokenizer.vocabularySize == 50265)
  }

  @Test func smollmFromGGUFMetadata() throws {
    guard let url = Files.shared("tokenizers/smollm2/tokenizer.json") else { return }
    let metadata = try GGUFVocabulary(tokenizerJSON: try Data(contentsOf: url), pre: "smollm")
    let tokenizer = try Tokenizer(gguf: metadata)
    try Expectation.load("smollm2-digits").check(tokenizer)
    #expect(tokenizer.eosTokens == [2, 0])
  }

  @Test func tinySmollmFromGGUFMetadata() throws {
    let metadata = try GGUFVocabulary(tokenizerJSON: try Files.data("tiny-smollm.json"), pre: "smollm")
    try Expectation.load("tiny-smollm").check(try Tokenizer(gguf: metadata))
  }

  @Test func ggufBeginToken() throws {
    var metadata = try GGUFVocabulary(tokenizerJSON: try Files.data("tiny-smollm.json"), pre: "gpt-2")
    metadata.addBOS = true
    let tokenizer = try Tokenizer(gguf: metadata)
    #expect(tokenizer.bosToken == 1)
    #expect(tokenizer.encode("a").first == 1)
    #expect(tokenizer.encode("a", addSpecialTokens: false).count == 1)
    #expect(tokenizer.isSpecial(1))
    #expect(!tokenizer.isSpecial(40))
  }
}

extension GGUFVocabulary {
  /// The metadata that a conversion of a `tokenizer.json` gives (begin token 1, end token 2).
  init(tokenizerJSON: Data, pre: String) throws {
    struct File: Decodable {
      struct Model: Decodable {
        var vocab: [String: Int]
        var merges: [[String]]
      }
      struct Added: Decodable {
        var id: Int
      }
      var model: Model
      var added: [Added]

      enum CodingKeys: String, CodingKey {
        case model
        case added = "added_tokens"
      }
    }
    let file = try JSONDecoder().decode(File.self, from: tokenizerJSON)
    var tokens = [String](repeating: "", count: file.model.vocab.count)
    for (token, id) in file.model.vocab { tokens[id] = token }
    var types = [Int32](repeating: 1, count: tokens.count)
    for added in file.added { types[added.id] = 3 }
    self.init(
      tokens: tokens, types: types, merges: file.model.merges.map { $0.joined(separator: " ") }, pre: pre,
      bosToken: 1, eosToken: 2, addBOS: false, path: "metadata")
  }
}
