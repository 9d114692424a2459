/// Cuts a template's source into text and tokens, with white space handled as Hugging Face transformers sets Jinja up:
/// `trim_blocks` and `lstrip_blocks` (https://jinja.palletsprojects.com/en/stable/templates/#whitespace-control).
struct TemplateLexer {
  enum Token: Equatable {
    case text([UInt8])
    case variableBegin
    case variableEnd
    case blockBegin
    case blockEnd
    case name(String)
    case string(String)
    case integer(Int)
    case float(Double)
    case symbol(String)
    case end
  }

  struct Lexeme {
    var token: Token
    var line: Int
  }

  private let source: [UInt8]
  private var index = 0
  private var line = 1
  private var lexemes: [Lexeme] = []
  /// Whether what comes next begins a line.
  private var isLineStart = true

  private init(_ source: String) {
    // Line ends are one kind, and one at the end of the source does not count.
    var bytes: [UInt8] = []
    var isAfterReturn = false
    for byte in source.utf8 {
      if byte == 0x0D {
        bytes.append(0x0A)
      } else if !(byte == 0x0A && isAfterReturn) {
        bytes.append(byte)
      }
      isAfterReturn = byte == 0x0D
    }
    if bytes.last == 0x0A { bytes.removeLast() }
    self.source = bytes
  }

  static func lex(_ source: String) throws(TemplateFault) -> [Lexeme] {
    var lexer = TemplateLexer(source)
    try lexer.run()
    return lexer.lexemes
  }

  private func fault(_ reason: String) -> TemplateFault {
    TemplateFault(kind: .wrong, line: line, reason: reason)
  }

  private func starts(_ text: String, at place: Int) -> Bool {
    place + text.utf8.count <= source.count && source[place...].starts(with: text.utf8)
  }

  private mutating func run() throws(TemplateFault) {
    while index < source.count {
      let start = index
      while index < source.count, !(source[index] == UInt8(ascii: "{") && isOpening(index + 1)) { index += 1 }
      let text = Array(source[start..<index])
      guard index < source.count else {
        add(text)
        break
      }
      let kind = source[index + 1]
      let sign = index + 2 < source.count ? source[index + 2] : 0
      add(text, before: kind, sign: sign)
      index += sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") ? 3 : 2
      switch kind {
      case UInt8(ascii: "#"): try comment()
      case UInt8(ascii: "{"): try expression(isBlock: false)
      default: if try !raw() { try expression(isBlock: true) }
      }
    }
    lexemes.append(Lexeme(token: .end, line: line))
  }

  private func isOpening(_ place: Int) -> Bool {
    place < source.count && "{%#".utf8.contains(source[place])
  }

  /// Adds text, without what the tag after it takes away.
  private mutating func add(_ text: [UInt8], before kind: UInt8 = 0, sign: UInt8 = 0) {
    let breaks = text.count { $0 == 0x0A }
    defer { line += breaks }
    var kept = text
    if sign == UInt8(ascii: "-") {
      kept = TemplateText(text).trimmed(left: false).bytes
    } else if kind != 0, kind != UInt8(ascii: "{"), sign != UInt8(ascii: "+") {
      let lineStart = text.lastIndex(of: 0x0A).map { $0 + 1 } ?? 0
      if lineStart > 0 || isLineStart, TemplateText(Array(text[lineStart...])).trimmed().isEmpty {
        kept = Array(text[..<lineStart])
      }
    }
    if !kept.isEmpty { lexemes.append(Lexeme(token: .text(kept), line: line)) }
    isLineStart = false
  }

  /// Skips what the end of a tag takes along: all white space, or one line end after blocks and comments.
  private mutating func endTag(takesSpace: Bool, takesLine: Bool) {
    isLineStart = false
    if takesSpace {
      while index < source.count, case let (value, count) = UTF8Text.scalar(in: source, at: index),
        TemplateText.isSpace(value)
      {
        isLineStart = value == 0x0A
        if value == 0x0A { line += 1 }
        index += count
      }
    } else if takesLine, index < source.count, source[index] == 0x0A {
      line += 1
      index += 1
      isLineStart = true
    }
  }

  private mutating func comment() throws(TemplateFault) {
    while !starts("#}", at: index) {
      guard index < source.count else { throw fault("a comment does not end") }
      if source[index] == 0x0A { line += 1 }
      index += 1
    }
    let sign = source[index - 1]
    index += 2
    endTag(takesSpace: sign == UInt8(ascii: "-"), takesLine: sign != UInt8(ascii: "+"))
  }

  /// `{% raw %}`: the text up to `{% endraw %}` as it is.
  private mutating func raw() throws(TemplateFault) -> Bool {
    guard let inside = tag("raw", at: index) else { return false }
    index = inside.end
    endTag(takesSpace: inside.sign == UInt8(ascii: "-"), takesLine: inside.sign != UInt8(ascii: "+"))
    let start = index
    while index < source.count {
      if starts("{%", at: index) {
        let sign = index + 2 < source.count ? source[index + 2] : 0
        let isSigned = sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+")
        if let end = tag("endraw", at: index + (isSigned ? 3 : 2)) {
          add(Array(source[start..<index]), before: UInt8(ascii: "%"), sign: sign)
          index = end.end
          endTag(takesSpace: end.sign == UInt8(ascii: "-"), takesLine: end.sign != UInt8(ascii: "+"))
          return true
        }
      }
      index += 1
    }
    throw fault("{% raw %} does not end")
  }

  /// Whether a block tag with nothing but a name follows, where it ends, and the sign before its end.
  private func tag(_ name: String, at place: Int) -> (end: Int, sign: UInt8)? {
    var place = afterSpace(place)
    guard starts(name, at: place) else { return nil }
    place = afterSpace(place + name.utf8.count)
    var sign: UInt8 = 0
    if starts("-%}", at: place) || starts("+%}", at: place) {
      sign = source[place]
      place += 1
    }
    return starts("%}", at: place) ? (place + 2, sign) : nil
  }

  private func afterSpace(_ place: Int) -> Int {
    var place = place
    while place < source.count, source[place] == 0x20 || source[place] == 0x0A || source[place] == 0x09 {
      place += 1
    }
    return place
  }

  // MARK: Inside tags

  private static let symbols = [
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "(", ")", "[", "]", "{", "}", ",", ".",
    ":", "|", "=",
    "<", ">", ";",
  ]

  private mutating func expression(isBlock: Bool) throws(TemplateFault) {
    lexemes.append(Lexeme(token: isBlock ? .blockBegin : .variableBegin, line: line))
    let close = isBlock ? "%}" : "}}"
    var brackets: [UInt8] = []
    while true {
      guard index < source.count else { throw fault("a tag does not end") }
      let byte = source[index]
      if byte == 0x20 || byte == 0x09 || byte == 0x0A {
        if byte == 0x0A { line += 1 }
        index += 1
        continue
      }
      if brackets.isEmpty {
        let isSigned = byte == UInt8(ascii: "-") || byte == UInt8(ascii: "+") && isBlock
        if starts(close, at: index) || isSigned && starts(close, at: index + 1) {
          lexemes.append(Lexeme(token: isBlock ? .blockEnd : .variableEnd, line: line))
          let isStarting = starts(close, at: index)
          index += isStarting ? 2 : 3
          let sign = isStarting ? 0 : byte
          endTag(takesSpace: sign == UInt8(ascii: "-"), takesLine: isBlock && sign != UInt8(ascii: "+"))
          return
        }
      }
      try token(&brackets)
    }
  }

  private mutating func token(_ brackets: inout [UInt8]) throws(TemplateFault) {
    let byte = source[index]
    let start = line
    switch byte {
    case UInt8(ascii: "'"), UInt8(ascii: "\""):
      lexemes.append(Lexeme(token: .string(try string(byte)), line: start))
    case UInt8(ascii: "0")...UInt8(ascii: "9"): lexemes.append(Lexeme(token: try number(), line: line))
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"),
      0x80...:
      let start = index
      while index < source.count, Self.isNamePart(source[index]) { index += 1 }
      lexemes.append(Lexeme(token: .name(String(decoding: source[start..<index], as: UTF8.self)), line: line))
    default:
      guard let symbol = Self.symbols.first(where: { starts($0, at: index) }) else {
        throw fault("unexpected character '\(Character(Unicode.Scalar(byte)))'")
      }
      switch byte {
      case UInt8(ascii: "("): brackets.append(UInt8(ascii: ")"))
      case UInt8(ascii: "["): brackets.append(UInt8(ascii: "]"))
      case UInt8(ascii: "{"): brackets.append(UInt8(ascii: "}"))
      case UInt8(ascii: ")"), UInt8(ascii: "]"), UInt8(ascii: "}"):
        guard brackets.popLast() == byte else { throw fault("unexpected '\(symbol)'") }
      default: break
      }
      lexemes.append(Lexeme(token: .symbol(symbol), line: line))
      index += symbol.utf8.count
    }
  }

  private static func isNamePart(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"),
      0x80...,
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: false
    }
  }

  private mutating func number() throws(TemplateFault) -> Token {
    let start = index
    var isFloat = false
    func digits() {
      while index < source.count, (0x30...0x39).contains(source[index]) || source[index] == 0x5F {
        index += 1
      }
    }
    digits()
    if index + 1 < source.count, source[index] == UInt8(ascii: "."), (0x30...0x39).contains(source[index + 1])
    {
      isFloat = true
      index += 1
      digits()
    }
    if index < source.count, source[index] | 0x20 == UInt8(ascii: "e") {
      var place = index + 1
      if place < source.count, source[place] == UInt8(ascii: "+") || source[place] == UInt8(ascii: "-") {
        place += 1
      }
      if place < source.count, (0x30...0x39).contains(source[place]) {
        isFloat = true
        index = place
        digits()
      }
    }
    let text = String(decoding: source[start..<index].filter { $0 != 0x5F }, as: UTF8.self)
    if isFloat, let value = Double(text) { return .float(value) }
    guard let value = Int(text) else { throw fault("the number \(text) is too large") }
    return .integer(value)
  }

  /// A quoted string with Python's escapes.
  private mutating func string(_ quote: UInt8) throws(TemplateFault) -> String {
    index += 1
    var bytes: [UInt8] = []
    while true {
      guard index < source.count else { throw fault("a string does not end") }
      let byte = source[index]
      index += 1
      if byte == quote { return String(decoding: bytes, as: UTF8.self) }
      if byte == 0x0A { line += 1 }
      guard byte == UInt8(ascii: "\\"), index < source.count else {
        bytes.append(byte)
        continue
      }
      let escaped = source[index]
      index += 1
      switch escaped {
      case UInt8(ascii: "n"): bytes.append(0x0A)
      case UInt8(ascii: "t"): bytes.append(0x09)
      case UInt8(ascii: "r"): bytes.append(0x0D)
      case UInt8(ascii: "b"): bytes.append(0x08)
      case UInt8(ascii: "f"): bytes.append(0x0C)
      case UInt8(ascii: "v"): bytes.append(0x0B)
      case UInt8(ascii: "a"): bytes.append(0x07)
      case UInt8(ascii: "0"): bytes.append(0)
      case UInt8(ascii: "\\"), UInt8(ascii: "'"), UInt8(ascii: "\""): bytes.append(escaped)
      case 0x0A: line += 1
      case UInt8(ascii: "x"): bytes += try scalar(digits: 2)
      case UInt8(ascii: "u"): bytes += try scalar(digits: 4)
      case UInt8(ascii: "U"): bytes += try scalar(digits: 8)
      default: bytes += [UInt8(ascii: "\\"), escaped]
      }
    }
  }

  private mutating func scalar(digits: Int) throws(TemplateFault) -> [UInt8] {
    let text = String(decoding: source[index..<min(source.count, index + digits)], as: UTF8.self)
    guard text.utf8.count == digits, let value = UInt32(text, radix: 16), let scalar = Unicode.Scalar(value)
    else {
      throw fault("a bad escape in a string")
    }
    index += digits
    return Array(String(scalar).utf8)
  }
}
