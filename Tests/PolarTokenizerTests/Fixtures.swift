import Foundation
import PolarTokenizer
import Testing

/// Places of the test files.
enum Files {
  static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  static let fixtures = root.appending(path: "Tests/Fixtures/tokenizers")
  static let shared = root.deletingLastPathComponent().appending(path: "shared")

  /// A file of the shared folder; nil, with the reason printed, where it is absent.
  static func shared(_ path: String) -> URL? {
    let url = shared.appending(path: path)
    if FileManager.default.fileExists(atPath: url.path) { return url }
    print("not tested: \(url.path) is absent")
    return nil
  }

  static func data(_ name: String) throws -> Data {
    try Data(contentsOf: fixtures.appending(path: name))
  }

  static func tiny(_ name: String) throws -> Tokenizer {
    try Tokenizer(json: try data("\(name).json"), path: "\(name).json")
  }
}

/// The texts that all expectations are about.
struct Corpus: Decodable {
  var texts: [String]
  /// Byte strings that are not UTF-8, in hexadecimal.
  var invalid: [String]

  static func load() throws -> Corpus {
    try JSONDecoder().decode(Corpus.self, from: try Files.data("corpus.json"))
  }
}

/// What the library that a file is made for makes of the corpus (of every `step`-th text).
struct Expectation: Decodable {
  /// Ids, their text without special tokens, their text with them.
  struct Decoded: Decodable {
    var ids: [Int32]
    var skipped: String
    var whole: String

    init(from decoder: any Decoder) throws {
      var container = try decoder.unkeyedContainer()
      ids = try container.decode([Int32].self)
      skipped = try container.decode(String.self)
      whole = try container.decode(String.self)
    }
  }

  /// Control tokens in the text are text, and none is put around it.
  var plain: Bool?
  var base: String?
  var replace: [[String]]?
  var step: Int?
  /// Of long words: letters, length, number of ids, checksum of the ids.
  var long: [[Int]]?
  var ids: [[Int32]]
  var invalid: [[Int32]]
  var decoded: [Decoded]

  static func load(_ name: String) throws -> Expectation {
    try JSONDecoder().decode(Expectation.self, from: try Files.data("\(name).ids.json"))
  }

  /// Checks a tokenizer against all that is expected.
  func check(_ tokenizer: Tokenizer) throws {
    let corpus = try Corpus.load()
    let step = step ?? 1
    let parses = plain != true
    #expect(ids.count == (corpus.texts.count + step - 1) / step)
    #expect(invalid.count == (corpus.invalid.count + step - 1) / step)
    for (index, ids) in ids.enumerated() {
      let text = corpus.texts[index * step]
      let mine = tokenizer.encode(text, addSpecialTokens: parses, parseSpecialTokens: parses)
      #expect(mine == ids, "text \(index * step): \(text.debugDescription)")
    }
    for (index, ids) in invalid.enumerated() {
      let bytes = Bytes.fromHexadecimal(corpus.invalid[index * step])
      let mine = tokenizer.encode(bytes: bytes, addSpecialTokens: parses, parseSpecialTokens: parses)
      #expect(mine == ids, "bytes \(corpus.invalid[index * step])")
    }
    for row in long ?? [] {
      let ids = tokenizer.encode(
        bytes: Bytes.longWord(letters: row[0], length: row[1]), addSpecialTokens: parses)
      #expect(ids.count == row[2])
      #expect(ids.reduce(UInt32(0)) { $0 &* 31 &+ UInt32($1) } == row[3], "\(row)")
    }
    for decoded in decoded {
      // Compared as scalars: `String` takes canonically equivalent texts for equal.
      #expect(tokenizer.decode(decoded.ids).utf8.elementsEqual(decoded.skipped.utf8))
      let whole = tokenizer.decode(decoded.ids, skipSpecialTokens: false)
      #expect(whole.utf8.elementsEqual(decoded.whole.utf8), "ids \(decoded.ids)")
      // Streams do not look at whole runs of byte tokens.
      if tokenizer.id(of: "<0x00>") != nil, parses, decoded.whole.contains("\u{FFFD}") { continue }
      #expect(Bytes.streamed(decoded.ids, tokenizer, skipSpecialTokens: true) == Array(decoded.skipped.utf8))
      #expect(Bytes.streamed(decoded.ids, tokenizer, skipSpecialTokens: false) == Array(decoded.whole.utf8))
    }
  }
}

enum Bytes {
  /// Pseudo-random letters without a space, as the fixture script makes them.
  static func longWord(letters: Int, length: Int) -> [UInt8] {
    var state = 1
    return (0..<length).map { _ in
      state = (state * 1_103_515_245 + 12345) % (1 << 31)
      return UInt8(97 + (state >> 16) % letters)
    }
  }

  static func fromHexadecimal(_ text: String) -> [UInt8] {
    let digits = text.compactMap { $0.hexDigitValue }
    return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
  }

  /// What a streaming decoder gives out for ids, one at a time.
  static func streamed(_ ids: [Int32], _ tokenizer: Tokenizer, skipSpecialTokens: Bool) -> [UInt8] {
    var decoder = StreamingDecoder(tokenizer: tokenizer, skipSpecialTokens: skipSpecialTokens)
    var bytes: [UInt8] = []
    for id in ids { bytes += Array(decoder.append(id).utf8) }
    return bytes + Array(decoder.finish().utf8)
  }
}
