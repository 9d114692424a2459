import Foundation
import PolarCore
import Testing

@testable import PolarFormats

/// A new folder that is removed with this object.
final class TemporaryFolder {
  let url: URL

  init() throws {
    url = FileManager.default.temporaryDirectory.appendingPathComponent("polar-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(at: url) }

  /// Writes `bytes` as file `name` and returns its path.
  @discardableResult
  func write(_ name: String, _ bytes: [UInt8]) throws -> String {
    let file = url.appendingPathComponent(name)
    try Data(bytes).write(to: file)
    return file.path
  }

  @discardableResult
  func write(_ name: String, _ text: String) throws -> String { try write(name, Array(text.utf8)) }
}

/// Files that come with the tests.
enum Fixtures {
  static let packageRoot = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()
  static let folder = packageRoot.appendingPathComponent("Tests/Fixtures")
  static var quants: String { folder.appendingPathComponent("gguf/quants.gguf").path }
  static var tinyLlama: URL { folder.appendingPathComponent("gguf/tiny-llama.gguf") }
}

func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
  withUnsafeBytes(of: value.littleEndian) { Array($0) }
}

/// The little-endian bytes of `floats`.
func floatBytes(_ floats: [Float]) -> [UInt8] {
  floats.map { $0.bitPattern.littleEndian }.withUnsafeBytes { Array($0) }
}

/// A safetensors file of any header and data, right or wrong.
func safetensors(_ header: String, data: [UInt8] = []) -> [UInt8] {
  littleEndian(UInt64(header.utf8.count)) + Array(header.utf8) + data
}

/// A safetensors file of F32 tensors, all elements `value(index in tensor)`.
func safetensors(
  _ tensors: [(name: String, shape: [Int])], value: (Int) -> Float = { Float($0) }
) -> [UInt8] {
  var fields: [String] = []
  var data: [UInt8] = []
  for (name, shape) in tensors {
    let start = data.count
    data += floatBytes((0..<shape.reduce(1, *)).map(value))
    fields.append(#""\#(name)":{"dtype":"F32","shape":\#(shape),"data_offsets":[\#(start),\#(data.count)]}"#)
  }
  return safetensors("{" + fields.joined(separator: ",") + "}", data: data)
}

/// Writes GGUF files, right or wrong.
struct GGUFBuilder {
  var version: UInt32 = 3
  var pairs: [[UInt8]] = []
  var tensors: [[UInt8]] = []
  var data: [UInt8] = []
  var tensorCount: UInt64?
  var pairCount: UInt64?
  var alignment = 32

  static func string(_ text: String) -> [UInt8] { littleEndian(UInt64(text.utf8.count)) + Array(text.utf8) }

  mutating func pair(_ key: String, type: UInt32, _ value: [UInt8]) {
    pairs.append(Self.string(key) + littleEndian(type) + value)
  }

  mutating func string(_ key: String, _ value: String) { pair(key, type: 8, Self.string(value)) }
  mutating func uint32(_ key: String, _ value: UInt32) { pair(key, type: 4, littleEndian(value)) }
  mutating func float(_ key: String, _ value: Float) { pair(key, type: 6, littleEndian(value.bitPattern)) }

  mutating func strings(_ key: String, _ values: [String]) {
    pair(
      key, type: 9,
      littleEndian(UInt32(8)) + littleEndian(UInt64(values.count)) + values.flatMap { Self.string($0) })
  }

  /// Adds an entry as is; `dimensions` innermost first.
  mutating func entry(_ name: String, dimensions: [UInt64], type: UInt32, offset: UInt64) {
    tensors.append(
      Self.string(name) + littleEndian(UInt32(dimensions.count)) + dimensions.flatMap { littleEndian($0) }
        + littleEndian(type) + littleEndian(offset))
  }

  /// Adds an F32 tensor of `shape`, outermost first.
  mutating func tensor(_ name: String, _ shape: [Int], value: (Int) -> Float = { Float($0) }) {
    entry(name, dimensions: shape.reversed().map { UInt64($0) }, type: 0, offset: UInt64(data.count))
    data += floatBytes((0..<shape.reduce(1, *)).map(value))
    while data.count % alignment != 0 { data.append(0) }
  }

  var bytes: [UInt8] {
    var result: [UInt8] = Array("GGUF".utf8) + littleEndian(version)
    result +=
      littleEndian(tensorCount ?? UInt64(tensors.count)) + littleEndian(pairCount ?? UInt64(pairs.count))
    for part in pairs + tensors { result += part }
    if !data.isEmpty {
      while result.count % alignment != 0 { result.append(0) }
    }
    return result + data
  }
}

/// The error that `body` throws, or nil; for checks of a message's content.
func polarError(_ body: () throws -> Void) -> PolarError? {
  do {
    try body()
    return nil
  } catch {
    return error as? PolarError
  }
}

extension PolarError {
  var isMalformed: Bool { if case .malformed = self { true } else { false } }
  var isUnsupported: Bool { if case .unsupported = self { true } else { false } }
  var isFile: Bool { if case .file = self { true } else { false } }
  var isWeight: Bool { if case .weight = self { true } else { false } }
  var isConfiguration: Bool { if case .configuration = self { true } else { false } }
}

/// A reproducible source of damage (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = (state ^ state >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }
}
