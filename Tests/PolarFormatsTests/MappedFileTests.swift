import Foundation
import PolarCore
import Testing

@testable import PolarFormats

@Suite struct MappedFileTests {
  @Test func readsLittleEndianWithinBounds() throws {
    let folder = try TemporaryFolder()
    let file = try MappedFile(path: folder.write("a", [1, 2, 3, 4, 5, 6, 7, 8, 9]))
    #expect(file.byteCount == 9)
    #expect(try file.integer(at: 1, as: UInt32.self) == 0x0504_0302)
    #expect(try file.integer(at: 1, as: UInt64.self) == 0x0908_0706_0504_0302)
    #expect(try file.withBytes(7..<9) { Array($0) } == [8, 9])
    for offset in [-1, 2, 9, Int.max] {
      #expect(polarError { _ = try file.integer(at: offset, as: UInt64.self) }?.isMalformed == true)
    }
    #expect(polarError { try file.withBytes(8..<10) { _ in } }?.isMalformed == true)
    #expect(polarError { try file.withBytes(-1..<1) { _ in } }?.isMalformed == true)
  }

  @Test func emptyFileHasNoBytes() throws {
    let folder = try TemporaryFolder()
    let file = try MappedFile(path: folder.write("empty", []))
    #expect(file.byteCount == 0)
    #expect(try file.withBytes(0..<0) { $0.count } == 0)
    #expect(polarError { _ = try file.integer(at: 0, as: UInt8.self) }?.isMalformed == true)
  }

  @Test func refusesMissingFilesFoldersAndPipes() throws {
    let folder = try TemporaryFolder()
    #expect(polarError { _ = try MappedFile(path: folder.url.path + "/none") }?.isFile == true)
    #expect(polarError { _ = try MappedFile(path: folder.url.path) }?.isFile == true)
    let pipe = folder.url.path + "/pipe"
    try #require(mkfifo(pipe, 0o600) == 0)
    #expect(polarError { _ = try MappedFile(path: pipe) }?.isFile == true)
  }

  @Test func noticesThatTheFileWasShortened() throws {
    let folder = try TemporaryFolder()
    let path = try folder.write("a", [UInt8](repeating: 1, count: 10000))
    let file = try MappedFile(path: path)
    try file.checkUnchanged()
    let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
    try handle.truncate(atOffset: 10)
    try handle.close()
    #expect(polarError { try file.checkUnchanged() }?.isFile == true)
  }

  @Test func textMustBeUTF8() throws {
    let folder = try TemporaryFolder()
    let file = try MappedFile(path: folder.write("a", [0x61, 0xC3, 0xA9, 0xFF]))
    #expect(try file.string(0..<3) == "aé")
    #expect(polarError { _ = try file.string(0..<4) }?.isMalformed == true)
  }
}

@Suite struct JSONTests {
  private func parse(_ text: String) throws -> JSON {
    try Array(text.utf8).withUnsafeBytes { bytes in try JSON.parse(bytes, path: "test") }
  }

  @Test func readsEveryKindOfValue() throws {
    let value = try parse(
      #" {"a": [1, -2.5, 1e3, true, false, null], "b\n\u00e9\ud83d\ude42\/": "\"\\x", "c": {}, "d": []} "#)
    #expect(
      value
        == .object([
          "a": .array([.integer(1), .number(-2.5), .number(1000), .bool(true), .bool(false), .null]),
          "b\né🙂/": .string("\"\\x"), "c": .object([:]), "d": .array([]),
        ]))
    #expect(try parse("1e4").int == 10000)
    #expect(try parse("9223372036854775807").int == Int.max)
    #expect(try parse("9223372036854775808").int == nil)
  }

  @Test(arguments: [
    "", "{", "[1,]", "{\"a\":1,}", "{\"a\" 1}", "{a:1}", "01", "+1", "1.", ".5", "1e", "nul", "NaN",
    "Infinity",
    "1e400", "\"\\x\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"a\nb\"",
    "\"abc", "1 2",
    "{} {}", "{\"a\":1,\"a\":1}", "{\"a\":1,\"\\u0061\":2}", "[1 2]", "'a'", "-", "--1",
  ])
  func refuses(_ text: String) {
    #expect(polarError { _ = try parse(text) }?.isMalformed == true)
  }

  @Test func refusesDepthAndBadUTF8() throws {
    #expect(throws: Never.self) {
      try parse(String(repeating: "[", count: 60) + String(repeating: "]", count: 60))
    }
    #expect(polarError { _ = try parse(String(repeating: "[", count: 100_000)) }?.isMalformed == true)
    let broken: [UInt8] = [0x22, 0xC3, 0x28, 0x22]
    #expect(
      polarError { _ = try broken.withUnsafeBytes { try JSON.parse($0, path: "test") } }?.isMalformed == true)
  }
}
