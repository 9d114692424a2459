internal import PolarCore

/// A JSON value. Objects keep no order; duplicate keys are refused by ``JSONParser``.
enum JSON: Sendable, Equatable {
  case null
  case bool(Bool)
  case integer(Int)
  case number(Double)
  case string(String)
  case array([JSON])
  case object([String: JSON])

  /// Parses UTF-8 JSON; `path` is for messages.
  static func parse(_ bytes: UnsafeRawBufferPointer, path: String) throws(PolarError) -> JSON {
    var parser = JSONParser(bytes: bytes, path: path)
    return try parser.document()
  }

  /// Parses a whole file of at most `limit` bytes.
  static func parse(file path: String, limit: Int = 64 << 20) throws(PolarError) -> JSON {
    let file = try MappedFile(path: path)
    guard file.byteCount <= limit else {
      throw .malformed(path: path, reason: "\(file.byteCount) bytes of JSON, more than \(limit)")
    }
    return try file.withBytes(0..<file.byteCount) { bytes throws(PolarError) in
      try parse(bytes, path: path)
    }
  }

  /// The members of an object.
  var members: [String: JSON]? { if case .object(let members) = self { members } else { nil } }
  /// The items of an array.
  var items: [JSON]? { if case .array(let items) = self { items } else { nil } }
  /// The text of a string.
  var text: String? { if case .string(let text) = self { text } else { nil } }
  /// The value of a boolean.
  var flag: Bool? { if case .bool(let flag) = self { flag } else { nil } }

  /// A whole number, also when it is written like `1e4` or `2048.0`.
  var int: Int? {
    switch self {
    case .integer(let value): value
    case .number(let value): Int(exactly: value)
    default: nil
    }
  }

  /// Any number.
  var double: Double? {
    switch self {
    case .integer(let value): Double(value)
    case .number(let value): value
    default: nil
    }
  }
}

/// A strict JSON reader for untrusted files: UTF-8, no duplicate keys, bounded depth and number of values.
///
/// Foundation's readers keep one of two equal keys without a word, which lets one file mean different
/// things to different programs.
struct JSONParser {
  private let bytes: UnsafeRawBufferPointer
  private let path: String
  private var position = 0
  private var values = 0
  /// Deeper files are refused, since the reader recurses.
  private static let maximumDepth = 64
  /// Bounds the memory that a file of many tiny values can ask for.
  private static let maximumValues = 4_000_000

  init(bytes: UnsafeRawBufferPointer, path: String) {
    self.bytes = bytes
    self.path = path
  }

  mutating func document() throws(PolarError) -> JSON {
    let result = try value(depth: 0)
    skipSpace()
    guard position == bytes.count else { throw fault("text after the end") }
    return result
  }

  private func fault(_ reason: String) -> PolarError {
    .malformed(path: path, reason: "JSON: \(reason) at byte \(position)")
  }

  private var current: UInt8? { position < bytes.count ? bytes[position] : nil }

  private mutating func skipSpace() {
    while let byte = current, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    guard current == byte else { return false }
    position += 1
    return true
  }

  private mutating func value(depth: Int) throws(PolarError) -> JSON {
    guard depth < Self.maximumDepth else { throw fault("more than \(Self.maximumDepth) levels") }
    values += 1
    guard values <= Self.maximumValues else { throw fault("more than \(Self.maximumValues) values") }
    skipSpace()
    switch current {
    case UInt8(ascii: "{"): return try object(depth: depth)
    case UInt8(ascii: "["): return try array(depth: depth)
    case UInt8(ascii: "\""): return .string(try string())
    case UInt8(ascii: "t"): return try word("true", .bool(true))
    case UInt8(ascii: "f"): return try word("false", .bool(false))
    case UInt8(ascii: "n"): return try word("null", .null)
    case nil: throw fault("ends too early")
    default: return try number()
    }
  }

  private mutating func word(_ text: StaticString, _ value: JSON) throws(PolarError) -> JSON {
    for index in 0..<text.utf8CodeUnitCount where !take(text.utf8Start[index]) {
      throw fault("'\(text)' expected")
    }
    return value
  }

  private mutating func object(depth: Int) throws(PolarError) -> JSON {
    position += 1
    var members: [String: JSON] = [:]
    skipSpace()
    if take(UInt8(ascii: "}")) { return .object(members) }
    repeat {
      skipSpace()
      guard current == UInt8(ascii: "\"") else { throw fault("a key expected") }
      let key = try string()
      skipSpace()
      guard take(UInt8(ascii: ":")) else { throw fault("':' expected") }
      let member = try value(depth: depth + 1)
      guard members.updateValue(member, forKey: key) == nil else {
        throw fault("duplicate key '\(key.prefix(80))'")
      }
      skipSpace()
    } while take(UInt8(ascii: ","))
    guard take(UInt8(ascii: "}")) else { throw fault("'}' expected") }
    return .object(members)
  }

  private mutating func array(depth: Int) throws(PolarError) -> JSON {
    position += 1
    var items: [JSON] = []
    skipSpace()
    if take(UInt8(ascii: "]")) { return .array(items) }
    repeat {
      items.append(try value(depth: depth + 1))
      skipSpace()
    } while take(UInt8(ascii: ","))
    guard take(UInt8(ascii: "]")) else { throw fault("']' expected") }
    return .array(items)
  }

  private mutating func number() throws(PolarError) -> JSON {
    let start = position
    var whole = true
    _ = take(UInt8(ascii: "-"))
    let leadingZero = current == UInt8(ascii: "0")
    let integerDigits = digits()
    guard integerDigits > 0, !(leadingZero && integerDigits > 1) else { throw fault("a value expected") }
    if take(UInt8(ascii: ".")) {
      whole = false
      guard digits() > 0 else { throw fault("a digit expected") }
    }
    if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
      whole = false
      if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
      guard digits() > 0 else { throw fault("a digit expected") }
    }
    let text = String(decoding: bytes[start..<position], as: UTF8.self)
    if whole, let value = Int(text) { return .integer(value) }
    guard let value = Double(text), value.isFinite else { throw fault("number out of range") }
    return .number(value)
  }

  private mutating func digits() -> Int {
    let start = position
    while let byte = current, byte >= 0x30, byte <= 0x39 { position += 1 }
    return position - start
  }

  private mutating func string() throws(PolarError) -> String {
    position += 1
    let start = position
    while let byte = current, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 {
      position += 1
    }
    var units = Array(bytes[start..<position])
    while let byte = current, byte != UInt8(ascii: "\"") {
      guard byte >= 0x20 else { throw fault("control character in a string") }
      position += 1
      if byte == UInt8(ascii: "\\") {
        try escape(into: &units)
      } else {
        units.append(byte)
      }
    }
    guard take(UInt8(ascii: "\"")) else { throw fault("a string ends too early") }
    guard let text = String(validating: units, as: UTF8.self) else { throw fault("text that is not UTF-8") }
    return text
  }

  private mutating func escape(into units: inout [UInt8]) throws(PolarError) {
    let kind = current
    position += 1
    switch kind {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): units.append(kind ?? 0)
    case UInt8(ascii: "b"): units.append(0x08)
    case UInt8(ascii: "f"): units.append(0x0C)
    case UInt8(ascii: "n"): units.append(0x0A)
    case UInt8(ascii: "r"): units.append(0x0D)
    case UInt8(ascii: "t"): units.append(0x09)
    case UInt8(ascii: "u"):
      var code = try codeUnit()
      if (0xD800..<0xDC00).contains(code) {
        guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else { throw fault("a lone surrogate") }
        let low = try codeUnit()
        guard (0xDC00..<0xE000).contains(low) else { throw fault("a lone surrogate") }
        code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
      }
      guard let scalar = Unicode.Scalar(code) else { throw fault("a lone surrogate") }
      units.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
    default: throw fault("an unknown escape")
    }
  }

  private mutating func codeUnit() throws(PolarError) -> UInt32 {
    var code: UInt32 = 0
    for _ in 0..<4 {
      guard let byte = current, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
        throw fault("four hexadecimal digits expected")
      }
      code = code << 4 | UInt32(digit)
      position += 1
    }
    return code
  }
}
