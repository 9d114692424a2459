/// A value in a template.
enum TemplateValue {
  /// What a name or key without a value gives; the text names it in errors.
  case undefined(String)
  case null
  case bool(Bool)
  case int(Int)
  case double(Double)
  case text(TemplateText)
  case list([TemplateValue])
  case dictionary(TemplateDictionary)
  case object(TemplateObject)
  case function(TemplateFunction)

  static func text(_ string: String) -> TemplateValue { .text(TemplateText(string)) }

  /// What a template can print and compare of it.
  var isTrue: Bool {
    switch self {
    case .undefined, .null: false
    case .bool(let value): value
    case .int(let value): value != 0
    case .double(let value): value != 0
    case .text(let text): !text.isEmpty
    case .list(let items): !items.isEmpty
    case .dictionary(let dictionary): dictionary.count > 0
    case .object, .function: true
    }
  }

  /// Its type's name in Python, for errors.
  var typeName: String {
    switch self {
    case .undefined: "undefined"
    case .null: "NoneType"
    case .bool: "bool"
    case .int: "int"
    case .double: "float"
    case .text: "str"
    case .list: "list"
    case .dictionary: "dict"
    case .object: "object"
    case .function: "function"
    }
  }

  /// As a number, as Python's arithmetic takes it.
  var number: Double? {
    switch self {
    case .bool(let value): value ? 1 : 0
    case .int(let value): Double(value)
    case .double(let value): value
    default: nil
    }
  }

  /// As a whole number.
  var integer: Int? {
    switch self {
    case .bool(let value): value ? 1 : 0
    case .int(let value): value
    default: nil
    }
  }

  /// Python's `str()`.
  var printed: TemplateText {
    switch self {
    case .text(let text): text
    case .undefined: TemplateText()
    default: TemplateText(Array(represented().utf8), isData: holdsData)
    }
  }

  /// Whether any text in it comes from data.
  var holdsData: Bool {
    switch self {
    case .text(let text): text.hasData
    case .list(let items): items.contains(where: \.holdsData)
    case .dictionary(let dictionary):
      dictionary.members.contains { $0.key.holdsData || $0.value.holdsData }
    default: false
    }
  }

  /// Python's `repr()`.
  func represented() -> String {
    switch self {
    case .undefined: "Undefined"
    case .null: "None"
    case .bool(let value): value ? "True" : "False"
    case .int(let value): String(value)
    case .double(let value): Self.represent(value)
    case .text(let text): Self.quoted(text.string)
    case .list(let items): "[" + items.map { $0.represented() }.joined(separator: ", ") + "]"
    case .dictionary(let dictionary):
      "{"
        + dictionary.members.map { "\($0.key.represented()): \($0.value.represented())" }
        .joined(separator: ", ") + "}"
    case .object(let object): "<\(object.name)>"
    case .function(let function): "<function \(function.name)>"
    }
  }

  static func represent(_ value: Double) -> String {
    value.isNaN ? "nan" : value.isInfinite ? (value < 0 ? "-inf" : "inf") : value.description
  }

  private static func quoted(_ text: String) -> String {
    let quote = text.contains("'") && !text.contains("\"") ? "\"" : "'"
    var result = quote
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\r": result += "\\r"
      case "\t": result += "\\t"
      case "'" where quote == "'": result += "\\'"
      default:
        if scalar.value < 0x20 || scalar.value == 0x7F {
          result += "\\x" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
        } else {
          result.unicodeScalars.append(scalar)
        }
      }
    }
    return result + quote
  }

  /// Python's `==`.
  func equals(_ other: TemplateValue) -> Bool {
    switch (self, other) {
    case (.undefined, .undefined), (.null, .null): return true
    case (.text(let left), .text(let right)): return left == right
    case (.list(let left), .list(let right)):
      return left.count == right.count && zip(left, right).allSatisfy { $0.equals($1) }
    case (.dictionary(let left), .dictionary(let right)):
      return left.count == right.count
        && left.members.allSatisfy { member in right[member.key].map { $0.equals(member.value) } ?? false }
    case (.object(let left), .object(let right)): return left === right
    default:
      if let left = integer, let right = other.integer { return left == right }
      if let left = number, let right = other.number { return left == right }
      return false
    }
  }
}

/// A dictionary that keeps the order in which keys came.
struct TemplateDictionary {
  /// A key's kind and value, as Python tells keys apart.
  private enum Key: Hashable {
    case null
    case number(Double)
    case text([UInt8])
  }

  private(set) var members: [(key: TemplateValue, value: TemplateValue)] = []
  private var places: [Key: Int] = [:]

  var count: Int { members.count }

  private static func key(_ value: TemplateValue) -> Key? {
    switch value {
    case .null: .null
    case .text(let text): .text(text.bytes)
    default: value.number.map(Key.number)
    }
  }

  /// Whether a value can be a key.
  static func isKey(_ value: TemplateValue) -> Bool { key(value) != nil }

  subscript(key: TemplateValue) -> TemplateValue? {
    Self.key(key).flatMap { places[$0] }.map { members[$0].value }
  }

  subscript(key: String) -> TemplateValue? { self[.text(key)] }

  /// Sets a member; a value that cannot be a key is left out.
  mutating func set(_ key: TemplateValue, _ value: TemplateValue) {
    guard let plain = Self.key(key) else { return }
    if let place = places[plain] {
      members[place].value = value
    } else {
      places[plain] = members.count
      members.append((key, value))
    }
  }
}

/// Something with attributes: a namespace, whose attributes a template can set, or a loop.
final class TemplateObject {
  let name: String
  var attributes: [String: TemplateValue]

  init(name: String, attributes: [String: TemplateValue] = [:]) {
    self.name = name
    self.attributes = attributes
  }
}

/// Something that can be called.
struct TemplateFunction {
  let name: String
  let call: (inout TemplateInterpreter, TemplateArguments) throws(TemplateFault) -> TemplateValue
}

/// The arguments of a call.
struct TemplateArguments {
  var positional: [TemplateValue] = []
  var named: [(name: String, value: TemplateValue)] = []

  /// An argument by position or name.
  func value(_ index: Int, _ name: String) -> TemplateValue? {
    index < positional.count ? positional[index] : named.last { $0.name == name }?.value
  }
}

/// Why a template cannot be read or rendered.
struct TemplateFault: Error {
  enum Kind {
    /// The template is wrong, or what it does with its values.
    case wrong
    /// The template uses something that is not there.
    case unsupported
    /// The template itself refuses the messages.
    case refused
  }

  var kind: Kind
  var line: Int
  var reason: String
}
