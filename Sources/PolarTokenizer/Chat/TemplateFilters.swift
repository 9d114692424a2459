/// Filters.
extension TemplateInterpreter {
  private static let filters: Set<String> = [
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "indent",
    "int", "items", "join",
    "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse",
    "round", "safe",
    "select", "selectattr", "sort", "string", "sum", "title", "tojson", "trim", "unique", "upper",
    "wordcount", "batch",
  ]

  static func checkFilter(_ name: String, line: Int) throws(TemplateFault) {
    guard filters.contains(name) else {
      throw TemplateFault(kind: .unsupported, line: line, reason: "the filter '\(name)'")
    }
  }

  mutating func filter(
    _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
  ) throws(TemplateFault) -> TemplateValue {
    if case .text(let text) = value { try count(text.bytes.count) }
    switch name {
    case "default", "d":
      let isMissing =
        if case .undefined = value { true } else {
          arguments.value(1, "boolean")?.isTrue ?? false && !value.isTrue
        }
      return isMissing ? arguments.value(0, "default_value") ?? .text("") : value
    case "safe": return value
    case "string": return .text(value.printed)
    case "tojson": return try json(value, arguments)
    case "upper", "lower", "title", "capitalize": return value.printed.changed(name)
    case "trim":
      let text = value.printed
      guard let characters = try self.text(arguments, 0, "chars", of: name) else {
        return .text(text.trimmed())
      }
      let set = Set(characters.string.unicodeScalars.map(\.value))
      return .text(text.stripped(left: true, right: true, set.contains))
    case "replace":
      guard let old = arguments.value(0, "s")?.printed ?? arguments.value(0, "old")?.printed,
        let new = arguments.value(1, "new")?.printed
      else { throw fault("replace takes two arguments") }
      return .text(try replaced(value.printed, old, new, limit: arguments.value(2, "count")?.integer ?? .max))
    case "indent": return try indented(value.printed, arguments)
    case "escape", "e": return .text(Self.escaped(value.printed))
    case "wordcount": return .int(value.printed.words().count)
    case "int", "float", "abs", "round": return try number(name, value, arguments)
    case "length", "count": return .int(try length(value))
    case "items":
      switch value {
      case .undefined: return .list([])
      case .dictionary(let dictionary): return .list(dictionary.members.map { .list([$0.key, $0.value]) })
      default: throw fault("items: a mapping expected, not \(value.typeName)")
      }
    case "dictsort": return try sortedMembers(value, arguments)
    default:
      if case .undefined(let reason) = value, ["max", "min", "sum"].contains(name) == false, name == "map" {
        throw fault(reason)
      }
      let items = try items(value)
      try count(items: items.count)
      return try sequence(name, value, items, arguments)
    }
  }

  // MARK: Sequences

  private mutating func sequence(
    _ name: String, _ value: TemplateValue, _ items: [TemplateValue], _ arguments: TemplateArguments
  ) throws(TemplateFault) -> TemplateValue {
    switch name {
    case "first": return items.first ?? .undefined("no first item, sequence was empty")
    case "last": return items.last ?? .undefined("no last item, sequence was empty")
    case "list": return .list(items)
    case "reverse":
      guard case .text = value else { return .list(items.reversed()) }
      return .text(try joined(items.reversed(), with: TemplateText(), mustBeText: false))
    case "join":
      var items = items
      if let attribute = arguments.value(1, "attribute") { items = try values(items, attribute) }
      return .text(
        try joined(items, with: arguments.value(0, "d")?.printed ?? TemplateText(), mustBeText: false))
    case "sum":
      var items = items
      if let attribute = arguments.value(0, "attribute") { items = try values(items, attribute) }
      return try total(items, arguments.value(1, "start") ?? .int(0))
    case "max", "min":
      guard var best = items.first else { return .undefined("No aggregated item, sequence was empty.") }
      for item in items.dropFirst() {
        let order = try order(try key(item, arguments, 1), try key(best, arguments, 1))
        if name == "max" ? order > 0 : order < 0 { best = item }
      }
      return best
    case "sort":
      return .list(try sorted(items, arguments, isReversed: arguments.value(0, "reverse")?.isTrue ?? false))
    case "unique":
      var kept: [TemplateValue] = []
      var seen = TemplateDictionary()
      for item in items {
        let key = try key(item, arguments, 1)
        guard TemplateDictionary.isKey(key) else { throw fault("unique: a value of type \(key.typeName)") }
        if seen[key] == nil { kept.append(item) }
        seen.set(key, .null)
      }
      return .list(kept)
    case "batch": return try batches(items, arguments)
    case "map": return try mapped(items, arguments)
    default: return try selected(name, items, arguments)
    }
  }

  private mutating func total(_ items: [TemplateValue], _ start: TemplateValue) throws(TemplateFault)
    -> TemplateValue
  {
    var sum = start
    for item in items {
      if let first = sum.integer, let second = item.integer {
        let result = first.addingReportingOverflow(second)
        guard !result.overflow else { throw fault("a number too large") }
        sum = .int(result.partialValue)
      } else if let first = sum.number, let second = item.number {
        sum = .double(first + second)
      } else {
        throw fault("unsupported operand type(s) for +: '\(sum.typeName)' and '\(item.typeName)'")
      }
    }
    return sum
  }

  private func batches(_ items: [TemplateValue], _ arguments: TemplateArguments) throws(TemplateFault)
    -> TemplateValue
  {
    guard let size = arguments.value(0, "linecount")?.integer, size > 0, size <= 1 << 20 else {
      throw fault("batch takes a size")
    }
    var rows = stride(from: 0, to: items.count, by: size).map {
      Array(items[$0..<min($0 + size, items.count)])
    }
    if let filler = arguments.value(1, "fill_with"), let last = rows.last, last.count < size {
      rows[rows.count - 1] += Array(repeating: filler, count: size - last.count)
    }
    return .list(rows.map(TemplateValue.list))
  }

  private mutating func mapped(_ items: [TemplateValue], _ arguments: TemplateArguments) throws(TemplateFault)
    -> TemplateValue
  {
    if let attribute = arguments.named.first(where: { $0.name == "attribute" })?.value {
      let standard = arguments.named.first { $0.name == "default" }?.value
      return .list(
        try values(items, attribute).map {
          if let standard, case .undefined = $0 { standard } else { $0 }
        })
    }
    guard case .text(let name)? = arguments.positional.first else {
      throw fault("map takes a filter or an attribute")
    }
    try Self.checkFilter(name.string, line: line)
    var rest = arguments
    rest.positional.removeFirst()
    var results: [TemplateValue] = []
    for item in items { results.append(try filter(name.string, item, rest)) }
    return .list(results)
  }

  /// `select`, `reject`, `selectattr`, `rejectattr`.
  private mutating func selected(
    _ name: String, _ items: [TemplateValue], _ arguments: TemplateArguments
  ) throws(TemplateFault) -> TemplateValue {
    var rest = arguments.positional[...]
    var attribute: TemplateValue?
    if name.hasSuffix("attr") {
      guard let first = rest.popFirst() else { throw fault("\(name) takes an attribute") }
      attribute = first
    }
    var test: String?
    if case .text(let text)? = rest.popFirst() { test = text.string }
    if let test { try Self.checkTest(test, line: line) }
    let wanted = name.hasPrefix("select")
    var kept: [TemplateValue] = []
    for item in items {
      let subject =
        try attribute.map { attribute throws(TemplateFault) in try values([item], attribute)[0] } ?? item
      let holds: Bool
      if let test {
        holds = try self.test(
          test, subject, TemplateArguments(positional: Array(rest), named: arguments.named))
      } else {
        holds = subject.isTrue
      }
      if holds == wanted { kept.append(item) }
    }
    return .list(kept)
  }

  /// An attribute, which may be a path with dots or a number, of each item.
  private func values(_ items: [TemplateValue], _ attribute: TemplateValue) throws(TemplateFault)
    -> [TemplateValue]
  {
    var steps: [TemplateValue] = [attribute]
    if case .text(let text) = attribute {
      steps = text.parts(separator: [UInt8(ascii: ".")]).map { part in
        Int(part.string).map(TemplateValue.int) ?? .text(part)
      }
    }
    var results: [TemplateValue] = []
    for item in items {
      var value = item
      for step in steps { value = try self.item(value, step) }
      results.append(value)
    }
    return results
  }

  /// What an item is compared by: its attribute, and without regard to case unless told otherwise.
  private func key(
    _ item: TemplateValue, _ arguments: TemplateArguments, _ place: Int
  ) throws(TemplateFault) -> TemplateValue {
    var key = item
    if let attribute = arguments.value(place, "attribute"), attribute.isTrue {
      key = try values([item], attribute)[0]
    }
    let isCaseSensitive = arguments.value(place - 1, "case_sensitive")?.isTrue ?? false
    if case .text(let text) = key, !isCaseSensitive { return text.changed("lower") }
    return key
  }

  private func sorted(
    _ items: [TemplateValue], _ arguments: TemplateArguments, isReversed: Bool
  ) throws(TemplateFault) -> [TemplateValue] {
    var keyed: [(key: TemplateValue, place: Int)] = []
    for (place, item) in items.enumerated() { keyed.append((try key(item, arguments, 2), place)) }
    var failure: TemplateFault?
    keyed.sort { left, right in
      do throws(TemplateFault) {
        let order = try order(left.key, right.key)
        if order != 0 { return isReversed ? order > 0 : order < 0 }
      } catch {
        failure = failure ?? error
      }
      return left.place < right.place
    }
    if let failure { throw failure }
    return keyed.map { items[$0.place] }
  }

  private func sortedMembers(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateFault)
    -> TemplateValue
  {
    guard case .dictionary(let dictionary) = value else {
      throw fault("dictsort: a mapping expected, not \(value.typeName)")
    }
    var isByValue = false
    if case .text(let by)? = arguments.value(1, "by") { isByValue = by.string == "value" }
    let pairs = dictionary.members.map { TemplateValue.list([$0.key, $0.value]) }
    var inner = TemplateArguments()
    inner.named = [
      ("attribute", .int(isByValue ? 1 : 0)),
      ("case_sensitive", arguments.value(0, "case_sensitive") ?? .bool(false)),
    ]
    // Attribute 0 would count as none given.
    if !isByValue { inner.named[0].value = .text("0") }
    return .list(try sorted(pairs, inner, isReversed: arguments.value(2, "reverse")?.isTrue ?? false))
  }

  func length(_ value: TemplateValue) throws(TemplateFault) -> Int {
    switch value {
    case .text(let text): return text.count
    case .list(let items): return items.count
    case .dictionary(let dictionary): return dictionary.count
    case .undefined: return 0
    default: throw fault("object of type '\(value.typeName)' has no len()")
    }
  }

  // MARK: Texts and numbers

  private mutating func indented(_ text: TemplateText, _ arguments: TemplateArguments) throws(TemplateFault)
    -> TemplateValue
  {
    let indention: TemplateText
    switch arguments.value(0, "width") {
    case .text(let given)?: indention = given
    case let value:
      let width = value?.integer ?? 4
      guard (0...1024).contains(width) else { throw fault("indent: a width of \(width)") }
      indention = TemplateText(String(repeating: " ", count: width))
    }
    let isFirst = arguments.value(1, "first")?.isTrue ?? false
    let isBlank = arguments.value(2, "blank")?.isTrue ?? false
    var result = TemplateText()
    // One more line end, so that an end of line at the end keeps its empty line.
    var source = text
    source.append(TemplateText("\n"))
    for (index, line) in source.lines(keepsEnds: false).enumerated() {
      if index > 0 { result.append(TemplateText("\n")) }
      if index > 0 ? isBlank || !line.isEmpty : isFirst { result.append(indention) }
      result.append(line)
      try count(line.bytes.count + indention.bytes.count)
    }
    return .text(result)
  }

  private static func escaped(_ text: TemplateText) -> TemplateText {
    var text = text
    for (old, new) in [("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ("\"", "&#34;")] {
      text = text.replacing(TemplateText(old), with: TemplateText(new))
    }
    return text
  }

  private func number(
    _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
  ) throws(TemplateFault) -> TemplateValue {
    switch name {
    case "int":
      if let whole = value.integer { return .int(whole) }
      if case .double(let number) = value, let whole = Int(exactly: number.rounded(.towardZero)) {
        return .int(whole)
      }
      if case .text(let text) = value, case let digits = text.trimmed().string {
        if let whole = Int(digits) { return .int(whole) }
        if let number = Double(digits), let whole = Int(exactly: number.rounded(.towardZero)) {
          return .int(whole)
        }
      }
      return arguments.value(0, "default") ?? .int(0)
    case "float":
      if let number = value.number { return .double(number) }
      if case .text(let text) = value, let number = Double(text.trimmed().string) { return .double(number) }
      return arguments.value(0, "default") ?? .double(0)
    case "abs":
      if let whole = value.integer, whole != .min { return .int(abs(whole)) }
      if case .double(let number) = value { return .double(abs(number)) }
      throw fault("bad operand type for abs(): '\(value.typeName)'")
    default:
      guard let number = value.number else { throw fault("round: a number expected, not \(value.typeName)") }
      let digits = arguments.value(0, "precision")?.integer ?? 0
      guard (-300...300).contains(digits) else { throw fault("round: a precision of \(digits)") }
      let scale = TemplateMath.power(10, Double(digits))
      var rule = FloatingPointRoundingRule.toNearestOrEven
      if case .text(let method)? = arguments.value(1, "method") {
        rule = method.string == "ceil" ? .up : method.string == "floor" ? .down : rule
      }
      return .double((number * scale).rounded(rule) / scale)
    }
  }
}
