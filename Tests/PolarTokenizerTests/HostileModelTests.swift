import Foundation
import PolarCore
import PolarTokenizer
import Testing

/// Broken and lying `tokenizer.model` files are refused with an error that says where and what.
struct HostileModelTests {
  /// Writes protobuf messages.
  struct Writer {
    var bytes: [UInt8] = []

    mutating func varint(_ value: UInt64) {
      var value = value
      while value >= 0x80 {
        bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
        value >>= 7
      }
      bytes.append(UInt8(value))
    }

    mutating func field(_ number: UInt64, _ content: [UInt8]) {
      varint(number << 3 | 2)
      varint(UInt64(content.count))
      bytes += content
    }

    mutating func field(_ number: UInt64, _ value: UInt64) {
      varint(number << 3)
      varint(value)
    }

    mutating func piece(_ text: String, _ score: Float = 0, type: UInt64 = 1) {
      var piece = Writer()
      piece.field(1, Array(text.utf8))
      piece.varint(2 << 3 | 5)
      piece.bytes += (0..<4).map { UInt8(truncatingIfNeeded: score.bitPattern >> (8 * $0)) }
      piece.field(3, type)
      field(1, piece.bytes)
    }
  }

  /// A small model: `<unk>`, a, b, ab.
  static func model(
    type: UInt64 = 2, trainer: (inout Writer) -> Void = { _ in }, map: [UInt8] = [],
    more: (inout Writer) -> Void = { _ in }
  ) -> [UInt8] {
    var writer = Writer()
    writer.piece("<unk>", type: 2)
    for (index, text) in ["a", "b", "ab"].enumerated() { writer.piece(text, Float(index) - 3) }
    more(&writer)
    var spec = Writer()
    spec.field(3, type)
    trainer(&spec)
    writer.field(2, spec.bytes)
    var normalizer = Writer()
    normalizer.field(3, 0)
    if !map.isEmpty { normalizer.field(2, map) }
    writer.field(3, normalizer.bytes)
    return writer.bytes
  }

  static func load(_ bytes: [UInt8]) throws -> Tokenizer {
    try Tokenizer(model: Data(bytes), path: "tokenizer.model")
  }

  @Test(arguments: [1, 2]) func theSmallModelIsValid(type: UInt64) throws {
    let tokenizer = try Self.load(Self.model(type: type))
    #expect(tokenizer.encode("abba") == [3, 2, 1])
    #expect(tokenizer.encode("axyb") == [1, 0, 2], "a run of unknown scalars is one unknown token")
    #expect(tokenizer.decode([1, 0, 2]) == "a \u{2047} b")
  }

  static let malformedFiles: [([UInt8], String)] = [
    ([], "the vocabulary is empty"), ([0x0A], "ends early at byte 1"),
    ([0x0A, 5, 0], "5 bytes with 1 left"),
    ([0x0A] + [UInt8](repeating: 0xFF, count: 9) + [0x01], "bytes with 0 left"),
    ([0x0A] + [UInt8](repeating: 0xFF, count: 10), "more than 64 bits"),
    ([0x0B], "wire type 3"), ([0x02, 0], "field number 0"), ([0x0A, 2, 0x0A, 9], "9 bytes with 0 left"),
    ([0x0A, 2, 0x15, 0], "ends early"), ([0x0A, 2, 0x18, 7], "piece 0 has the type 7"),
    ([0x0A, 2, 0x08, 1], "piece 0: field 1 has a wrong type"),
    (model(more: { $0.piece("a") }), "'a' appears twice"),
    (model(more: { $0.piece("") }), "piece 4 is empty"),
    (model(more: { $0.piece("x", .nan) }), "the score of piece 4 is not a number"),
    (model(more: { $0.piece("<two>", type: 2) }), "exactly one unknown piece"),
    (model(more: { $0.piece("<0xGG>", type: 6) }), "'<0xGG>', is marked as a byte"),
    (model(trainer: { $0.field(35, 1) }), "no piece '<0x00>'"),
    (model(map: [1, 0]), "shorter than its own length"),
    (model(map: [8, 0, 0, 0, 1, 2, 3, 4, 0]), "gives its trie 8"),
    (model(map: [0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4, 0]), "gives its trie 4294967295"),
    (model(map: [4, 0, 0, 0, 0, 0, 0, 0, 0x41]), "does not end"),
    (Array("IQ== 0\nIQ== 1\n".utf8), "line 2: the token '!' appears twice"),
    (Array("IQ== 0\nIg== 0\n".utf8), "line 2: the token id 0 appears twice"),
    (Array("IQ== 0\nIg==\n".utf8), "line 2 is not"), (Array("IQ== 0\nIg= 1\n".utf8), "line 2 is not"),
    (Array("IQ== 0\nIg== 99999999\n".utf8), "line 2 is not"),
    (Array("IQ== 0\nI*== 1\n".utf8), "line 2 is not"),
    (Array("IQ== 0\n".utf8), "no token is the single byte 0"),
  ]

  @Test(arguments: malformedFiles) func malformed(bytes: [UInt8], reason: String) {
    #expect {
      try Self.load(bytes)
    } throws: { error in
      guard case .malformed("tokenizer.model", let said) = error as? PolarError else { return false }
      return said.contains(reason)
    }
  }

  @Test(arguments: [
    (model(type: 3), "model type 3"), (model(trainer: { $0.field(24, 1) }), "treat_whitespace_as_suffix"),
    (model(more: { $0.piece("zz", type: 5) }), "unused"),
    (model(more: { $0.piece(String(repeating: "a", count: 600)) }), "600 bytes"),
  ])
  func unsupported(bytes: [UInt8], name: String) {
    #expect {
      try Self.load(bytes)
    } throws: { error in
      guard case .unsupported("tokenizer.model", let what) = error as? PolarError else { return false }
      return what.contains(name)
    }
  }

  @Test func truncatedAndChangedFilesNeverTrap() throws {
    let bytes = Array(try Files.data("tiny-unigram.model"))
    for count in stride(from: 0, to: bytes.count, by: 97) { try use(Array(bytes.prefix(count))) }
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<150 {
      var changed = bytes
      for _ in 0..<3 {
        changed[Int.random(in: bytes.indices, using: &generator)] = UInt8.random(
          in: 0...255, using: &generator)
      }
      try use(changed)
    }
  }

  /// A refused file, or one whose tokenizer works.
  private func use(_ bytes: [UInt8]) throws {
    do {
      let tokenizer = try Self.load(bytes)
      let ids = tokenizer.encode("the mill \u{FB01} 4\u{3000}x")
      #expect(ids.allSatisfy { $0 >= 0 && Int($0) < tokenizer.vocabularySize })
      _ = tokenizer.decode(ids)
    } catch is PolarError {}
  }

  @Test func mergesThatLeadNowhere() throws {
    // Scores in any order, pieces that cannot be reached, infinite scores: no endless loop, ids in range.
    let bytes = Self.model(more: {
      $0.piece("aba", .infinity)
      $0.piece("xyzxyz", -.infinity)
      $0.piece("ba", 5)
      $0.piece("abab", 5)
    })
    #expect(try Self.load(bytes).encode("ababxyzxyz") == [7, 0])
  }
}
