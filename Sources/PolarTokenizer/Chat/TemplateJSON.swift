/// JSON as Python's `json.dumps` writes it, which is what `tojson` is in chat templates.
extension TemplateInterpreter {
  mutating func json(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateFault)
    -> TemplateValue
  {
    var writer = TemplateJSONWriter()
    if let ascii = arguments.value(0, "ensure_ascii") { writer.escapesAll = ascii.isTrue }
    switch arguments.value(1, "indent") {
    case nil, .null?: break
    case .text(let text)?: writer.indent = text.string
    case let width?:
      guard let width = width.integer, width <= 64 else { throw fault("tojson: a bad indent") }
      writer.indent = String(repeating: " ", count: max(0, width))
    }
    if case .list(let pair)? = arguments.value(2, "separators"), pair.count == 2 {
      writer.separators = (pair[0].printed.string, pair[1].printed.string)
    } else if writer.indent != nil {
      writer.separators.item = ","
    }
    writer.sortsKeys = arguments.value(3, "sort_keys")?.isTrue ?? false
    guard let reason = writer.write(value, level: 0) else {
      try count(writer.output.utf8.count)
      return .text(TemplateText(Array(writer.output.utf8), isData: value.holdsData))
    }
    throw fault(reason)
  }
}

struct TemplateJSONWriter {
  /// Deeper values are refused.
  static let depthLimit = 64

  var escapesAll = false
  var indent: String?
  var separators = (item: ", ", key: ": ")
  var sortsKeys = false
  private(set) var output = ""

  /// Writes a value; returns what is wrong with it.
  mutating func write(_ value: TemplateValue, level: Int) -> String? {
    guard level < Self.depthLimit else { return "tojson: a value nested deeper than \(Self.depthLimit)" }
    switch value {
    case .null: output += "null"
    case .bool(let flag): output += flag ? "true" : "false"
    case .int(let number): output += String(number)
    case .double(let number):
      output +=
        number.isNaN
        ? "NaN" : number.isInfinite ? (number < 0 ? "-Infinity" : "Infinity") : number.description
    case .text(let text): quote(text.string)
    case .list(let items):
      if items.isEmpty {
        output += "[]"
        return nil
      }
      output += "["
      for (index, item) in items.enumerated() {
        beginItem(index, level + 1)
        if let reason = write(item, level: level + 1) { return reason }
      }
      newLine(level)
      output += "]"
    case .dictionary(let dictionary):
      if dictionary.count == 0 {
        output += "{}"
        return nil
      }
      var members = dictionary.members
      if sortsKeys { members.sort { $0.key.printed.bytes.lexicographicallyPrecedes($1.key.printed.bytes) } }
      output += "{"
      for (index, member) in members.enumerated() {
        beginItem(index, level + 1)
        if let reason = writeKey(member.key) { return reason }
        output += separators.key
        if let reason = write(member.value, level: level + 1) { return reason }
      }
      newLine(level)
      output += "}"
    case .undefined, .object, .function: return "Object of type \(value.typeName) is not JSON serializable"
    }
    return nil
  }

  private mutating func beginItem(_ index: Int, _ level: Int) {
    if index > 0 { output += separators.item }
    newLine(level)
  }

  private mutating func newLine(_ level: Int) {
    guard let indent else { return }
    output += "\n"
    for _ in 0..<level { output += indent }
  }

  private mutating func writeKey(_ key: TemplateValue) -> String? {
    switch key {
    case .text(let text): quote(text.string)
    case .null: output += "\"null\""
    case .bool(let flag): output += flag ? "\"true\"" : "\"false\""
    case .int(let number): output += "\"\(number)\""
    case .double(let number): output += "\"\(number)\""
    default: return "keys must be str, int, float, bool or None, not \(key.typeName)"
    }
    return nil
  }

  private mutating func quote(_ text: String) {
    output += "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": output += "\\\""
      case "\\": output += "\\\\"
      case "\n": output += "\\n"
      case "\r": output += "\\r"
      case "\t": output += "\\t"
      case "\u{8}": output += "\\b"
      case "\u{C}": output += "\\f"
      default:
        if scalar.value < 0x20 || escapesAll && scalar.value > 0x7E {
          for unit in String(scalar).utf16 {
            let digits = String(unit, radix: 16)
            output += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
          }
        } else {
          output.unicodeScalars.append(scalar)
        }
      }
    }
    output += "\""
  }
}
