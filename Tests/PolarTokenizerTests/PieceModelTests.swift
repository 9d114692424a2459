import Foundation
import PolarCore
import PolarTokenizer
import Testing

/// Ids and texts equal those of SentencePiece, tiktoken and, for `tokenizer.json` made of SentencePiece models, those of
/// Hugging Face `tokenizers`.
struct PieceModelTests {
  @Test(arguments: ["tiny-llama", "tiny-pieces", "tiny-unigram", "tiny-unigram-bytes", "tiny-llama3"])
  func tinyModel(name: String) throws {
    try Expectation.load(name).check(try Tokenizer(model: try Files.data("\(name).model"), path: name))
  }

  @Test(arguments: ["tiny-llama-legacy", "tiny-llama-first", "tiny-unigram-words", "tiny-unigram-split"])
  func tinyConverted(name: String) throws {
    try Expectation.load(name).check(try Files.tiny(name))
  }

  @Test(arguments: [
    ("llama2", "llama2/tokenizer.model"), ("mistral-v1", "mistral/tokenizer.model.v1"),
    ("mistral-v3", "mistral/mistral_instruct_tokenizer_240323.model.v3"),
    ("llama3", "llama3/tokenizer.model"),
  ])
  func realModel(name: String, path: String) throws {
    guard let url = Files.shared("tokenizers/\(path)") else { return }
    try Expectation.load(name).check(try Tokenizer(model: try Data(contentsOf: url), path: url.path))
  }

  @Test func controlPiecesInText() throws {
    let tokenizer = try Tokenizer(model: try Files.data("tiny-llama.model"), path: "tiny-llama")
    let begin = try #require(tokenizer.bosToken)
    let open = try #require(tokenizer.id(of: "[INST]"))
    let close = try #require(tokenizer.id(of: "[/INST]"))
    let inner = tokenizer.encode("the river", addSpecialTokens: false)
    // Each text between control tokens is a text of its own, with its own space in front.
    #expect(tokenizer.encode("[INST]the river[/INST]") == [begin, open] + inner + [close])
    let plain = tokenizer.encode("[INST]the river", addSpecialTokens: false, parseSpecialTokens: false)
    #expect(!plain.contains(open))
    #expect(tokenizer.decode(plain) == "[INST]the river")
    #expect(tokenizer.decode([open] + inner + [close], skipSpecialTokens: false) == "[INST] the river[/INST]")
    #expect(tokenizer.eosTokens == [try #require(tokenizer.id(of: "</s>"))])
  }

  @Test func settingsBesideTheModel() throws {
    let json = """
      {"add_bos_token":false,"add_eos_token":true,"eos_token":{"content":"<|im_end|>","lstrip":false},
      "added_tokens_decoder":{"0":{"content":"<unk>","special":true},"9000":{"content":"<|im_end|>","special":true}}}
      """
    let settings = try TokenizerSettings(json: Data(json.utf8), path: "tokenizer_config.json")
    let tokenizer = try Tokenizer(
      model: try Files.data("tiny-llama.model"), settings: settings, path: "tiny-llama")
    let end = try #require(tokenizer.id(of: "</s>"))
    #expect(tokenizer.encode("<|im_end|>") == [9000, end])
    #expect(tokenizer.eosTokens == [9000, end])
    #expect(tokenizer.isSpecial(9000))
    for json in [
      #"{"add_bos_token":1}"#, #"{"added_tokens_decoder":{"x":{"content":"a"}}}"#, #"{"eos_token":[]}"#,
    ] {
      #expect(throws: PolarError.self) { try TokenizerSettings(json: Data(json.utf8), path: "f") }
    }
  }

  @Test func metadataOfAPieceModel() throws {
    // The same pieces as GGUF metadata give the same ids.
    let proto = try PieceFile(try Files.data("tiny-llama.model"))
    var metadata = GGUFVocabulary(
      tokens: proto.pieces.map(\.text), types: proto.pieces.map { Int32($0.type) }, merges: [], pre: "",
      bosToken: 1,
      eosToken: 2, addBOS: nil, path: "m.gguf")
    metadata.model = "llama"
    metadata.scores = proto.pieces.map(\.score)
    let tokenizer = try Tokenizer(gguf: metadata)
    try Expectation.load("tiny-llama").check(tokenizer)
    #expect(tokenizer.encode("a").first == 1, "such models begin with the begin token unless told otherwise")
    #expect(tokenizer.eosTokens == [2])
    metadata.addsSpacePrefix = false
    #expect(try Tokenizer(gguf: metadata).encode("the") != tokenizer.encode("the"))
    metadata.scores = []
    #expect(throws: PolarError.self) { try Tokenizer(gguf: metadata) }
    metadata.model = "bert"
    #expect(
      throws: PolarError.unsupported(path: "m.gguf", what: "the tokenizer model 'bert' (known: gpt2, llama)")
    ) {
      try Tokenizer(gguf: metadata)
    }
  }

  /// A word of ten million letters takes time in proportion to its length: the test would not end otherwise.
  @Test(arguments: ["tiny-llama", "tiny-unigram-bytes"])
  func longWord(name: String) throws {
    let tokenizer = try Tokenizer(model: try Files.data("\(name).model"), path: name)
    let length = 150_000
    let word = Bytes.longWord(letters: 26, length: length)
    let ids = tokenizer.encode(bytes: word, addSpecialTokens: false)
    #expect(tokenizer.decode(ids).utf8.elementsEqual(word))
  }
}

/// The pieces of a SentencePiece file, read without any check.
struct PieceFile {
  var pieces: [(text: String, score: Float, type: Int)] = []

  init(_ data: Data) throws {
    let bytes = Array(data)
    var index = 0
    func varint() -> Int {
      var (value, shift) = (0, 0)
      while true {
        defer { index += 1 }
        value |= Int(bytes[index] & 0x7F) << shift
        if bytes[index] < 0x80 { return value }
        shift += 7
      }
    }
    while index < bytes.count, bytes[index] == 0x0A {
      index += 1
      let end = varint() + index
      var piece = (text: "", score: Float(0), type: 1)
      while index < end {
        let key = bytes[index]
        index += 1
        switch key {
        case 0x0A:
          let count = varint()
          piece.text = String(decoding: bytes[index..<index + count], as: UTF8.self)
          index += count
        case 0x15:
          piece.score = Float(bitPattern: (0..<4).reduce(0) { $0 | UInt32(bytes[index + $1]) << (8 * $1) })
          index += 4
        default: piece.type = varint()
        }
      }
      pieces.append(piece)
    }
  }
}
