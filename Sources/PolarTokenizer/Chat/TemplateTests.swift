/// Tests: what can follow `is`.
extension TemplateInterpreter {
  private static let tests: Set<String> = [
    "defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string",
    "mapping", "iterable",
    "sequence", "callable", "sameas", "eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan",
    "ge", "in", "odd",
    "even", "divisibleby", "lower", "upper", "filter", "test", "==", "!=", "<", "<=", ">", ">=",
  ]

  static func checkTest(_ name: String, line: Int) throws(TemplateFault) {
    guard tests.contains(name) else {
      throw TemplateFault(kind: .unsupported, line: line, reason: "the test '\(name)'")
    }
  }

  mutating func test(
    _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
  ) throws(TemplateFault) -> Bool {
    switch name {
    case "defined": if case .undefined = value { return false } else { return true }
    case "undefined": if case .undefined = value { return true } else { return false }
    case "none": if case .null = value { return true } else { return false }
    case "boolean": if case .bool = value { return true } else { return false }
    case "true": if case .bool(true) = value { return true } else { return false }
    case "false": if case .bool(false) = value { return true } else { return false }
    case "integer": if case .int = value { return true } else { return false }
    case "float": if case .double = value { return true } else { return false }
    case "number": return value.number != nil
    case "string": if case .text = value { return true } else { return false }
    case "mapping": if case .dictionary = value { return true } else { return false }
    case "callable": if case .function = value { return true } else { return false }
    case "iterable", "sequence":
      switch value {
      case .list, .text, .dictionary, .undefined: return true
      default: return false
      }
    case "lower": return value.printed.changed("islower").isTrue
    case "upper": return value.printed.changed("isupper").isTrue
    case "odd", "even", "divisibleby":
      let divisor = name == "divisibleby" ? arguments.positional.first?.integer ?? 0 : 2
      guard let number = value.integer, divisor != 0 else { throw fault("\(name): whole numbers expected") }
      // `multipliedReportingOverflow` aside, -1 divides everything.
      let isDivisible = divisor == -1 || number % divisor == 0
      return name == "odd" ? !isDivisible : isDivisible
    case "filter": return (try? Self.checkFilter(value.printed.string, line: line)) != nil
    case "test": return Self.tests.contains(value.printed.string)
    default: break
    }
    guard let other = arguments.positional.first else { throw fault("the test '\(name)' takes an argument") }
    switch name {
    case "eq", "equalto", "==": return value.equals(other)
    case "ne", "!=": return !value.equals(other)
    case "sameas":
      switch (value, other) {
      case (.bool(let left), .bool(let right)): return left == right
      case (.bool, _), (_, .bool): return false
      default: return value.equals(other)
      }
    case "in": return try holds("in", value, other)
    case "lt", "lessthan", "<": return try holds("<", value, other)
    case "le", "<=": return try holds("<=", value, other)
    case "gt", "greaterthan", ">": return try holds(">", value, other)
    default: return try holds(">=", value, other)
    }
  }
}
