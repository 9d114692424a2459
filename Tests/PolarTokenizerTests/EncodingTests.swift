import Foundation
import PolarTokenizer
import Testing

/// Properties of encoding and decoding that hold for any text.
struct EncodingTests {
  static let names = ["tiny-gpt2", "tiny-smollm", "tiny-qwen2"]

  @Test(arguments: names)
  func roundTrip(name: String) throws {
    let tokenizer = try Files.tiny(name)
    for text in try Corpus.load().texts where name != "tiny-qwen2" || text.utf8.allSatisfy({ $0 < 0xCC }) {
      let ids = tokenizer.encode(text, addSpecialTokens: false)
      // Tokens that take white space along lose it; no other text does.
      if text.contains("<left>") || text.contains("<right>") { continue }
      #expect(tokenizer.decode(ids, skipSpecialTokens: false).utf8.elementsEqual(text.utf8))
    }
  }

  @Test(arguments: names)
  func streamedTextEqualsDecodedText(name: String) throws {
    let tokenizer = try Files.tiny(name)
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<200 {
      let ids = (0..<30).map { _ in
        Int32.random(
          in: -1...Int32([300, tokenizer.vocabularySize + 1].randomElement() ?? 300), using: &generator)
      }
      for skips in [true, false] {
        let whole = Array(tokenizer.decode(ids, skipSpecialTokens: skips).utf8)
        #expect(Bytes.streamed(ids, tokenizer, skipSpecialTokens: skips) == whole, "\(ids)")
      }
    }
  }

  @Test func aScalarIsHeldBackUntilItIsWhole() throws {
    let tokenizer = try Files.tiny("tiny-gpt2")
    var decoder = StreamingDecoder(tokenizer: tokenizer)
    // U+10308 (Old Italic) is no token: its four bytes come as four tokens.
    let ids = tokenizer.encode("𐌈", addSpecialTokens: false)
    #expect(ids.count >= 2)
    for id in ids.dropLast() { #expect(decoder.append(id) == "") }
    #expect(decoder.append(try #require(ids.last)) == "𐌈")
    #expect(decoder.append(ids[0]) == "")
    #expect(decoder.finish() == "\u{FFFD}")
    #expect(decoder.finish() == "")
  }

  @Test func longWordsWithoutSpaces() throws {
    // Merging left to right in rounds gives these by hand: a run of 2^k times 'a' halves k times.
    let tokenizer = try HostileFileTests.load(
      HostileFileTests.file(
        vocab: #"{"a":0,"aa":1,"aaaa":2,"b":3}"#, merges: #"["a a","aa aa"]"#))
    let text = String(repeating: "a", count: 200_003)
    #expect(tokenizer.encode(text) == [Int32](repeating: 2, count: 50_000) + [1, 0])
    #expect(tokenizer.encode(text + "b").suffix(3) == [1, 0, 3])
    let gpt2 = try Files.tiny("tiny-gpt2")
    let mixed = String(repeating: "themillerandtheriver", count: 2_000)
    #expect(gpt2.decode(gpt2.encode(mixed)) == mixed)
  }

  @Test func theCacheDoesNotChangeIds() throws {
    let texts = try Corpus.load().texts
    let expected = try Expectation.load("tiny-qwen2").ids
    let used = try Files.tiny("tiny-qwen2")
    for _ in 0..<2 {
      #expect(texts.map { used.encode($0) } == expected)
      // Enough different words to fill and empty the cache.
      for start in 0..<20 {
        _ = used.encode(
          (0..<2000).map { "w\(String($0 &* 7919 &+ start, radix: 36))z" }.joined(separator: " "))
      }
    }
  }

  @Test func manyThreadsAtOnce() async throws {
    let tokenizer = try Files.tiny("tiny-smollm")
    let texts = try Corpus.load().texts
    let expected = texts.map { tokenizer.encode($0) }
    await withTaskGroup(of: Bool.self) { group in
      for _ in 0..<8 {
        group.addTask { texts.map { tokenizer.encode($0) } == expected }
      }
      for await same in group { #expect(same) }
    }
  }

  @Test func emptyInput() throws {
    let tokenizer = try Files.tiny("tiny-gpt2")
    let end = try #require(tokenizer.id(of: "</s>"))
    #expect(tokenizer.encode("") == [end])
    #expect(tokenizer.encode("", addSpecialTokens: false).isEmpty)
    #expect(tokenizer.encode(bytes: [UInt8]()) == [end])
    #expect(tokenizer.decode([Int32]()) == "")
    #expect(tokenizer.bosToken == end)
    #expect(tokenizer.eosTokens == [end])
  }
}
