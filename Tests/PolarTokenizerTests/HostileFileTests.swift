import Foundation
import PolarCore
import PolarTokenizer
import Testing

/// Broken and lying tokenizer files are refused with an error that says where and what.
struct HostileFileTests {
  /// A small valid file, with parts to replace.
  static func file(
    vocab: String = #"{"a":0,"b":1,"ab":2}"#, merges: String = #"["a b"]"#, added: String = "[]",
    pre: String = #"{"type":"ByteLevel","add_prefix_space":false}"#, model: String = "",
    normalizer: String = "null", post: String = "null", decoder: String = #"{"type":"ByteLevel"}"#
  ) -> String {
    """
    {"added_tokens":\(added),"normalizer":\(normalizer),"pre_tokenizer":\(pre),"post_processor":\(post),
    "decoder":\(decoder),"model":{"type":"BPE",\(model)"vocab":\(vocab),"merges":\(merges)}}
    """
  }

  static func load(_ text: String) throws -> Tokenizer {
    try Tokenizer(json: Data(text.utf8), path: "file.json")
  }

  @Test func theSmallFileIsValid() throws {
    let tokenizer = try Self.load(Self.file())
    #expect(tokenizer.encode("abba") == [2, 1, 0])
    #expect(tokenizer.encode("acb") == [2], "a byte without a token is left out")
  }

  @Test(arguments: [
    (file(vocab: "{}", merges: "[]"), "empty"),
    (file(vocab: #"{"a":0,"b":0,"ab":2}"#), "id 0 appears twice"),
    (file(vocab: #"{"a":0,"a":1,"b":3,"ab":2}"#), "'a' appears twice"),
    (file(vocab: #"{"a":0,"b":1,"ab":2147483648}"#), "'ab'"),
    (file(vocab: #"{"a":0,"b":1,"ab":4294967298}"#), "'ab'"),
    (file(vocab: #"{"a":0,"b":1,"ab":-1}"#), "'ab'"), (file(vocab: #"{"a":0,"b":1,"ab":1.5}"#), "'ab'"),
    (file(vocab: #"{"a":0,"b":1,"ab":"2"}"#), "'ab'"), (file(vocab: "[]"), "model.vocab"),
    (file(merges: #"["a c"]"#), "'c'"), (file(merges: #"["b a"]"#), "'ba'"),
    (file(merges: #"["a"]"#), "merge 0"), (file(merges: #"["a b c"]"#), "merge 0"),
    (file(merges: #"["a "]"#), "merge 0"), (file(merges: #"[["a","b","a"]]"#), "merge 0"),
    (file(merges: #"[["a",1]]"#), "merge 0"), (file(merges: "{}"), "model.merges"),
    (file(added: #"[{"id":0,"content":"zz"}]"#), "id 0 appears twice"),
    (file(added: #"[{"id":1,"content":"a"}]"#), "added_tokens.0"),
    (file(added: #"[{"id":9,"content":""}]"#), "added_tokens.0"),
    (file(added: #"[{"id":99999999999,"content":"x"}]"#), "added_tokens.0.id"),
    (file(added: #"[{"id":9,"content":"x","special":1}]"#), "added_tokens.0.special"),
    (file(model: #""unk_token":"zz","#), "model.unk_token"),
    (file(model: #""byte_fallback":false,"byte_fallback":true,"#), "appears twice"),
    (
      file(
        post: #"""
          {"type":"TemplateProcessing","special_tokens":{},
          "single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}]}
          """#), "'x'"
    ),
    ("", "byte 0"), ("{", "ends early"), ("[]", "an object expected"), ("{}", "'model' is missing"),
    (#"{"model":"\uD800"}"#, "lone surrogate"), (#"{"model":"\uD800\u0041"}"#, "lone surrogate"),
    (#"{"model":"\uDC00"}"#, "lone surrogate"), (#"{"model":"\x"}"#, "unknown escape"),
    ("{\"model\":\"\u{1}\"}", "control character"), (#"{"model":01}"#, "leading zero"),
    (#"{"model":1e999}"#, "out of range"), (#"{"model":tru}"#, "unknown word"), ("{} x", "after the value"),
    (#"{"model":-}"#, "a value expected"), (String(repeating: "[", count: 100_000), "deeper than 64"),
  ])
  func malformed(text: String, reason: String) {
    #expect {
      try Self.load(text)
    } throws: { error in
      guard case .malformed("file.json", let said) = error as? PolarError else { return false }
      return said.contains(reason)
    }
  }

  @Test(arguments: [
    (file(model: #""byte_fallback":true,"#), "byte_fallback"), (file(model: #""dropout":0.1,"#), "dropout"),
    (file(model: #""continuing_subword_prefix":"@@","#), "continuing_subword_prefix"),
    (file(model: #""end_of_word_suffix":"</w>","#), "end_of_word_suffix"),
    (file(pre: "null"), "ByteLevel"),
    (file(pre: #"{"type":"Metaspace","replacement":"_"}"#), "ByteLevel"),
    (file(pre: #"{"type":"Sequence","pretokenizers":[]}"#), "empty"),
    (file(pre: #"{"type":"Sequence","pretokenizers":[{"type":"Digits"}]}"#), "ByteLevel"),
    (file(pre: #"{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]}"#), "Digits"),
    (file(normalizer: #"{"type":"Replace","pattern":{"Regex":"a+"},"content":"b"}"#), "a+"),
    (file(decoder: #"{"type":"Strip","content":" ","start":1,"stop":0}"#), "Strip"),
    (file(decoder: #"{"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"Fuse"}]}"#), "ByteLevel"),
    (
      file(
        pre: #"""
          {"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(a+)+"},
          "behavior":"Isolated","invert":false},{"type":"ByteLevel"}]}
          """#), "(a+)+"
    ),
    (
      file(
        pre: #"""
          {"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"String":"a"},
          "behavior":"MergedWithNext","invert":false},{"type":"ByteLevel"}]}
          """#), "MergedWithNext"
    ),
    (file(normalizer: #"{"type":"Lowercase"}"#), "Lowercase"),
    (file(normalizer: #"{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"NFKC"}]}"#), "NFKC"),
    (file(post: #"{"type":"BertProcessing"}"#), "BertProcessing"),
    (file(decoder: #"{"type":"Metaspace","replacement":"_"}"#), "ByteLevel"),
    (file(decoder: #"{"type":"CTC"}"#), "CTC"),
    (file().replacingOccurrences(of: #""BPE""#, with: #""Unigram""#), "Unigram"),
  ])
  func unsupported(text: String, name: String) {
    #expect {
      try Self.load(text)
    } throws: { error in
      guard case .unsupported("file.json", let what) = error as? PolarError else { return false }
      return what.contains(name)
    }
  }

  @Test func illFormedUTF8IsRefused() {
    #expect(throws: PolarError.malformed(path: "f", reason: "JSON: ill-formed UTF-8 at byte 2")) {
      try Tokenizer(json: Data([0x7B, 0x22, 0xC3, 0x28, 0x22]), path: "f")
    }
  }

  @Test func everyTruncationIsRefused() throws {
    let text = Self.file(added: #"[{"id":9,"content":"x"}]"#)
    for count in 0..<text.utf8.count {
      #expect(throws: PolarError.self) {
        try Tokenizer(json: Data(text.utf8.prefix(count)), path: "file.json")
      }
    }
  }

  @Test func holesAndRepeatedMergesAreAllowed() throws {
    let tokenizer = try Self.load(
      Self.file(
        vocab: #"{"a":5,"b":70,"ab":900,"ba":901,"aba":7}"#, merges: #"["a b",["b","a"],"ab a","a b"]"#,
        added: #"[{"id":1000,"content":"né"}]"#))
    #expect(tokenizer.vocabularySize == 1001)
    #expect(tokenizer.bytes(of: 6).isEmpty)
    #expect(tokenizer.bytes(of: -1).isEmpty)
    #expect(tokenizer.bytes(of: .max).isEmpty)
    #expect(tokenizer.decode([5, 6, .min, 1001, .max, 70]) == "ab")
    #expect(tokenizer.encode("abané") == [5, 901, 1000], "the later 'a b' ranks last")
    #expect(tokenizer.decode([1000]) == "né")
    #expect(tokenizer.id(of: "aba") == 7)
    #expect(tokenizer.id(of: "zz") == nil)
  }

  @Test func unknownBytes() throws {
    let vocab = #"{"a":0,"b":1,"ab":2,"?":3}"#
    let plain = try Self.load(Self.file(vocab: vocab, model: #""unk_token":"?","fuse_unk":false,"#))
    #expect(plain.encode("axyb") == [0, 3, 3, 1])
    let fused = try Self.load(Self.file(vocab: vocab, model: #""unk_token":"?","fuse_unk":true,"#))
    #expect(fused.encode("axyb") == [0, 3, 1])
  }

  @Test func brokenMetadata() {
    func metadata(
      tokens: [String] = ["a", "b", "ab"], types: [Int32] = [1, 1, 1], merges: [String] = ["a b"],
      pre: String = "gpt-2", bos: Int32? = nil, eos: Int32? = 0
    ) -> GGUFVocabulary {
      GGUFVocabulary(
        tokens: tokens, types: types, merges: merges, pre: pre, bosToken: bos, eosToken: eos, addBOS: true,
        path: "m.gguf")
    }
    #expect(throws: Never.self) { try Tokenizer(gguf: metadata()) }
    #expect(throws: PolarError.unsupported(path: "m.gguf", what: "the pre-tokenizer 'kimi'")) {
      try Tokenizer(gguf: metadata(pre: "kimi"))
    }
    let broken = [
      metadata(tokens: [], types: [], merges: []), metadata(types: [1]), metadata(merges: ["a z"]),
      metadata(merges: ["ab"]), metadata(merges: [""]), metadata(bos: 3), metadata(eos: -1),
      metadata(tokens: ["a", "b", "ab", "a"], types: []),
    ]
    for metadata in broken {
      #expect {
        try Tokenizer(gguf: metadata)
      } throws: { error in
        if case .malformed("m.gguf", _) = error as? PolarError { true } else { false }
      }
    }
  }

  @Test func brokenVocabularyFiles() {
    #expect(throws: PolarError.self) {
      try Tokenizer(vocabJSON: Data(#"{"a":0}"#.utf8), merges: "#version: 0.2\na b\n", path: "f")
    }
    #expect(throws: PolarError.self) { try Tokenizer(vocabJSON: Data("[]".utf8), merges: "", path: "f") }
  }
}
