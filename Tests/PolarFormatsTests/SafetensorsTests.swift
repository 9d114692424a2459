import Foundation
import PolarCore
import Testing

@testable import PolarFormats

@Suite struct SafetensorsTests {
  private func open(_ bytes: [UInt8]) throws -> Safetensors {
    let folder = try TemporaryFolder()
    return try Safetensors(path: folder.write("t.safetensors", bytes))
  }

  @Test func readsWhatAWriterWrote() throws {
    let folder = try TemporaryFolder()
    let path = folder.url.path + "/p.safetensors"
    var writer = SafetensorsWriter(metadata: ["hash": "a\"b\\c\n", "ü": "🙂"])
    try writer.add("z", f32: [1, -2, 3.5, .infinity, 0, -0.25], shape: [2, 3])
    try writer.add("bytes", u8: [1, 2, 255], shape: [3])
    try writer.add("ids", i32: [-1, .max], shape: [2, 1])
    try writer.add("empty", f32: [], shape: [0, 4])
    try writer.add("scalar", f32: [7], shape: [])
    try writer.write(to: path)
    let file = try Safetensors(path: path)
    #expect(file.metadata == ["hash": "a\"b\\c\n", "ü": "🙂"])
    #expect(Set(file.tensors.keys) == ["z", "bytes", "ids", "empty", "scalar"])
    #expect(file.tensors["z"]?.shape == [2, 3])
    #expect(try file.floats("z") == [1, -2, 3.5, .infinity, 0, -0.25])
    #expect(try file.bytes("bytes") == [1, 2, 255])
    #expect(try file.integers("ids") == [-1, .max])
    #expect(try file.floats("empty") == [])
    #expect(try file.floats("scalar") == [7])
    #expect(polarError { _ = try file.floats("bytes") }?.isWeight == true)
    #expect(polarError { _ = try file.integers("z") }?.isWeight == true)
    #expect(polarError { _ = try file.floats("none") }?.isWeight == true)
  }

  @Test func expandsHalves() throws {
    let header =
      #"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]}}"#
    let file = try open(safetensors(header, data: [0x00, 0x3C, 0x00, 0xC0, 0xC0, 0x3F]))
    #expect(try file.floats("h") == [1, -2])
    #expect(try file.floats("b") == [1.5])
  }

  /// One tensor `a` with these fields.
  private func header(dtype: String = "F32", shape: String = "[2]", offsets: String = "[0,8]") -> String {
    #"{"a":{"dtype":"\#(dtype)","shape":\#(shape),"data_offsets":\#(offsets)}}"#
  }

  @Test func acceptsAPlainFileAndPaddedHeaders() throws {
    #expect(try open(safetensors(header(), data: [UInt8](repeating: 0, count: 8))).floats("a") == [0, 0])
    #expect(
      try open(safetensors(header() + "   ", data: [UInt8](repeating: 0, count: 8))).tensors.count == 1)
    #expect(try open(safetensors("{}")).tensors.isEmpty)
  }

  @Test func refusesTruncatedFiles() throws {
    let whole = safetensors(header(), data: [UInt8](repeating: 0, count: 8))
    for length in 0..<whole.count {
      #expect(polarError { _ = try open(Array(whole[..<length])) }?.isMalformed == true, "length \(length)")
    }
    #expect(polarError { _ = try open(whole + [0]) }?.isMalformed == true)
  }

  @Test func refusesHugeHeaders() throws {
    for length in [UInt64.max, 1 << 63, 100_000_001, 1000] {
      #expect(polarError { _ = try open(littleEndian(length) + Array("{}".utf8)) }?.isMalformed == true)
    }
  }

  @Test func refusesLyingEntries() throws {
    let data = [UInt8](repeating: 0, count: 8)
    let wrong = [
      header(shape: "[3]"), header(shape: "[-2]"), header(shape: "[2.0]"), header(shape: "2"),
      header(shape: "[[2]]"),
      header(shape: "[4611686018427387904, 4]"), header(shape: "[9223372036854775807]"),
      header(shape: "[1,1,1,1,1,1,1,1,2]"), header(offsets: "[0,16]"), header(offsets: "[8,0]"),
      header(offsets: "[-8,0]"), header(offsets: "[0,4]"), header(offsets: "[0]"), header(offsets: "[0,8,8]"),
      header(offsets: "[0,9223372036854775807]"),
      header(offsets: "[9223372036854775800,9223372036854775807]"),
      header(dtype: "F64"), #"{"a":1}"#, #"{"a":{}}"#, #"[]"#, " {}", "{", "",
      #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}"#, #"{"__metadata__":{"x":1}}"#,
      #"{"__metadata__":[]}"#,
    ]
    for text in wrong {
      #expect(polarError { _ = try open(safetensors(text, data: data)) }?.isMalformed == true, "\(text)")
    }
    #expect(polarError { _ = try open(safetensors(header(dtype: "F4"), data: data)) }?.isUnsupported == true)
  }

  @Test func refusesDuplicatesOverlapsAndGaps() throws {
    func two(_ first: String, _ second: String, name: String = "b") -> String {
      #"{"a":{"dtype":"U8","shape":[4],"data_offsets":\#(first)},"\#(name)":{"dtype":"U8","shape":[4],"data_offsets":\#(second)}}"#
    }
    let data = [UInt8](repeating: 0, count: 9)
    #expect(throws: Never.self) { try open(safetensors(two("[4,8]", "[0,4]"), data: Array(data[..<8]))) }
    for header in [
      two("[0,4]", "[4,8]", name: "a"), two("[0,4]", "[4,8]", name: "\\u0061"), two("[0,4]", "[2,6]"),
      two("[0,4]", "[0,4]"), two("[0,4]", "[5,9]"), two("[1,5]", "[5,9]"), two("[0,4]", "[4,8]"),
    ] {
      #expect(polarError { _ = try open(safetensors(header, data: data)) }?.isMalformed == true, "\(header)")
    }
  }

  @Test func survivesRandomDamage() throws {
    let whole = safetensors([("a", [2, 2]), ("b", [3])])
    var random = SeededGenerator(seed: 7)
    for _ in 0..<300 {
      var damaged = whole
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        damaged[Int.random(in: 0..<damaged.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
      }
      // Either it opens and every tensor can be read, or it throws.
      if let file = try? open(damaged) {
        for name in file.tensors.keys { _ = try? file.floats(name) }
      }
    }
  }
}

@Suite struct SafetensorsWriterTests {
  private func files(_ folder: TemporaryFolder) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder.url.path).sorted()
  }

  @Test func replacesAnOldFile() throws {
    let folder = try TemporaryFolder()
    let path = try folder.write("p", "old")
    var writer = SafetensorsWriter()
    try writer.add("a", f32: [1], shape: [1])
    try writer.write(to: path)
    #expect(try Safetensors(path: path).floats("a") == [1])
    #expect(try files(folder) == ["p"])
  }

  @Test func fullDiskLeavesTheOldFile() throws {
    let folder = try TemporaryFolder()
    let path = try folder.write("p", "old")
    var writer = SafetensorsWriter()
    try writer.add("a", f32: [Float](repeating: 1, count: 100_000), shape: [100_000])
    let full = try FileHandle(forWritingTo: URL(fileURLWithPath: "/dev/full"))
    let error = polarError {
      try FileOutput.replace(path) { output throws(PolarError) in
        try output.write([1, 2, 3] as [UInt8])
        try writer.write(to: FileOutput(path: output.path, descriptor: full.fileDescriptor))
      }
    }
    #expect(error?.isFile == true)
    #expect(error?.description.contains("No space left") == true)
    #expect(try files(folder) == ["p"])
    #expect(try String(contentsOfFile: path, encoding: .utf8) == "old")
  }

  @Test func refusesAMissingFolderAndAFolderInTheWay() throws {
    let folder = try TemporaryFolder()
    let writer = SafetensorsWriter()
    #expect(polarError { try writer.write(to: folder.url.path + "/none/p") }?.isFile == true)
    try FileManager.default.createDirectory(
      at: folder.url.appendingPathComponent("p"), withIntermediateDirectories: true)
    #expect(polarError { try writer.write(to: folder.url.path + "/p") }?.isFile == true)
    #expect(try files(folder) == ["p"])
  }

  @Test func refusesWrongShapesAndNames() throws {
    var writer = SafetensorsWriter()
    try writer.add("a", f32: [1], shape: [1])
    #expect(polarError { try writer.add("a", u8: [1], shape: [1]) }?.isWeight == true)
    #expect(polarError { try writer.add("__metadata__", u8: [1], shape: [1]) }?.isWeight == true)
    #expect(polarError { try writer.add("b", u8: [1], shape: [2]) }?.isWeight == true)
    #expect(polarError { try writer.add("b", u8: [1], shape: [-1]) }?.isWeight == true)
    #expect(polarError { try writer.add("b", u8: [1], shape: [.max, 2]) }?.isWeight == true)
  }
}
