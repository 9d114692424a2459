import PolarCore

/// A parsed JSON text, made for tokenizer files: hundreds of thousands of short strings, kept as ranges of one
/// byte array. (Foundation's reader takes seconds for such files on Linux.)
struct JSONDocument {
  /// A string: where its unescaped UTF-8 stands in the document's `strings`.
  struct Text {
    var start: Int32
    var count: Int32
  }

  /// One member of an object.
  struct Member {
    var key: Text
    var value: Node
  }

  /// A JSON value.
  enum Node {
    case null
    case bool(Bool)
    /// A number; whether it is written as a whole one.
    case number(Double, isWhole: Bool)
    case string(Text)
    case array([Node])
    case object([Member])
  }

  /// The unescaped bytes of all strings.
  let strings: [UInt8]
  let root: Node

  /// Parses `bytes`; throws `malformed` with the offset of the fault, also for ill-formed UTF-8, lone surrogates
  /// in escapes, nesting deeper than 64 and texts of 2 GiB or more.
  init(_ bytes: [UInt8], path: String) throws(PolarError) {
    var parser = JSONParser(bytes: bytes, path: path)
    root = try parser.parse()
    strings = parser.strings
  }

  /// The UTF-8 bytes of a string.
  func bytes(_ text: Text) -> ArraySlice<UInt8> {
    strings[Int(text.start)..<Int(text.start) + Int(text.count)]
  }
}

/// A recursive-descent parser of RFC 8259.
private struct JSONParser {
  let bytes: [UInt8]
  let path: String
  var position = 0
  var strings: [UInt8] = []

  init(bytes: [UInt8], path: String) {
    self.bytes = bytes
    self.path = path
    strings.reserveCapacity(bytes.count / 2)
  }

  mutating func parse() throws(PolarError) -> JSONDocument.Node {
    guard bytes.count < Int(Int32.max) else { throw fault("the text has 2 GiB or more") }
    if let place = UTF8Text.firstFault(in: bytes) {
      position = place
      throw fault("ill-formed UTF-8")
    }
    if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { position = 3 }
    let node = try value(depth: 0)
    skipSpace()
    guard position == bytes.count else { throw fault("text after the value") }
    return node
  }

  private func fault(_ reason: String) -> PolarError {
    .malformed(path: path, reason: "JSON: \(reason) at byte \(position)")
  }

  private mutating func skipSpace() {
    while position < bytes.count {
      switch bytes[position] {
      case 0x20, 0x0A, 0x0D, 0x09: position += 1
      default: return
      }
    }
  }

  /// The next byte after white space, not consumed.
  private mutating func peek() throws(PolarError) -> UInt8 {
    skipSpace()
    guard position < bytes.count else { throw fault("the text ends early") }
    return bytes[position]
  }

  private mutating func expect(_ byte: UInt8) throws(PolarError) {
    guard try peek() == byte else {
      throw fault("'\(Character(Unicode.Scalar(byte)))' expected")
    }
    position += 1
  }

  private mutating func value(depth: Int) throws(PolarError) -> JSONDocument.Node {
    guard depth < 64 else { throw fault("nesting deeper than 64") }
    switch try peek() {
    case UInt8(ascii: "{"): return .object(try members(depth: depth))
    case UInt8(ascii: "["): return .array(try elements(depth: depth))
    case UInt8(ascii: "\""): return .string(try string())
    case UInt8(ascii: "t"):
      try word("true")
      return .bool(true)
    case UInt8(ascii: "f"):
      try word("false")
      return .bool(false)
    case UInt8(ascii: "n"):
      try word("null")
      return .null
    default: return try number()
    }
  }

  private mutating func word(_ word: StaticString) throws(PolarError) {
    for offset in 0..<word.utf8CodeUnitCount {
      guard position < bytes.count, bytes[position] == word.utf8Start[offset] else {
        throw fault("unknown word")
      }
      position += 1
    }
  }

  private mutating func members(depth: Int) throws(PolarError) -> [JSONDocument.Member] {
    var members: [JSONDocument.Member] = []
    try expect(UInt8(ascii: "{"))
    if try peek() == UInt8(ascii: "}") {
      position += 1
      return members
    }
    while true {
      _ = try peek()
      let key = try string()
      try expect(UInt8(ascii: ":"))
      members.append(.init(key: key, value: try value(depth: depth + 1)))
      if try peek() == UInt8(ascii: ",") {
        position += 1
      } else {
        try expect(UInt8(ascii: "}"))
        return members
      }
    }
  }

  private mutating func elements(depth: Int) throws(PolarError) -> [JSONDocument.Node] {
    var elements: [JSONDocument.Node] = []
    try expect(UInt8(ascii: "["))
    if try peek() == UInt8(ascii: "]") {
      position += 1
      return elements
    }
    while true {
      elements.append(try value(depth: depth + 1))
      if try peek() == UInt8(ascii: ",") {
        position += 1
      } else {
        try expect(UInt8(ascii: "]"))
        return elements
      }
    }
  }

  private mutating func string() throws(PolarError) -> JSONDocument.Text {
    let start = strings.count
    try expect(UInt8(ascii: "\""))
    while true {
      guard position < bytes.count else { throw fault("a string does not end") }
      let byte = bytes[position]
      position += 1
      switch byte {
      case UInt8(ascii: "\""):
        return .init(start: Int32(start), count: Int32(strings.count - start))
      case UInt8(ascii: "\\"): try escape()
      case 0..<0x20:
        throw fault("a control character in a string")
      default: strings.append(byte)
      }
    }
  }

  /// The rest of an escape, after its backslash.
  private mutating func escape() throws(PolarError) {
    guard position < bytes.count else { throw fault("a string does not end") }
    let byte = bytes[position]
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): strings.append(byte)
    case UInt8(ascii: "b"): strings.append(0x08)
    case UInt8(ascii: "f"): strings.append(0x0C)
    case UInt8(ascii: "n"): strings.append(0x0A)
    case UInt8(ascii: "r"): strings.append(0x0D)
    case UInt8(ascii: "t"): strings.append(0x09)
    case UInt8(ascii: "u"):
      var value = try hexadecimal()
      if value & 0xFC00 == 0xD800 {
        guard position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"),
          bytes[position + 1] == UInt8(ascii: "u")
        else { throw fault("a lone surrogate") }
        position += 2
        let low = try hexadecimal()
        guard low & 0xFC00 == 0xDC00 else { throw fault("a lone surrogate") }
        value = 0x10000 + (value & 0x3FF) << 10 + (low & 0x3FF)
      }
      guard let scalar = Unicode.Scalar(value) else { throw fault("a lone surrogate") }
      strings.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
    default: throw fault("an unknown escape")
    }
  }

  private mutating func hexadecimal() throws(PolarError) -> UInt32 {
    guard position + 4 <= bytes.count else { throw fault("a string does not end") }
    var value: UInt32 = 0
    for byte in bytes[position..<position + 4] {
      guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue, byte < 0x80 else {
        throw fault("an unknown escape")
      }
      value = value << 4 | UInt32(digit)
    }
    position += 4
    return value
  }

  private mutating func number() throws(PolarError) -> JSONDocument.Node {
    let start = position
    let isNegative = position < bytes.count && bytes[position] == UInt8(ascii: "-")
    if isNegative { position += 1 }
    let whole = try digits()
    let hasLeadingZero = bytes[position - whole.count] == UInt8(ascii: "0") && whole.count > 1
    guard !hasLeadingZero else { throw fault("a number with a leading zero") }
    var isWhole = true
    if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
      isWhole = false
      position += 1
      _ = try digits()
    }
    if position < bytes.count, bytes[position] | 0x20 == UInt8(ascii: "e") {
      isWhole = false
      position += 1
      if position < bytes.count, bytes[position] == UInt8(ascii: "-") || bytes[position] == UInt8(ascii: "+")
      {
        position += 1
      }
      _ = try digits()
    }
    if isWhole, whole.count <= 15 {
      return .number(Double(isNegative ? -whole.value : whole.value), isWhole: true)
    }
    guard let value = Double(String(decoding: bytes[start..<position], as: UTF8.self)), value.isFinite else {
      throw fault("a number out of range")
    }
    return .number(value, isWhole: isWhole)
  }

  /// One digit or more; the value wraps beyond 18 digits.
  private mutating func digits() throws(PolarError) -> (value: Int, count: Int) {
    var value = 0
    let start = position
    while position < bytes.count, case let digit = bytes[position] &- UInt8(ascii: "0"), digit < 10 {
      value = value &* 10 &+ Int(digit)
      position += 1
    }
    guard position > start else { throw fault("a value expected") }
    return (value, position - start)
  }
}
