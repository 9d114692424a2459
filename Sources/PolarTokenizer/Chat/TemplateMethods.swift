import Foundation

/// Arithmetic that the standard library leaves to Foundation.
enum TemplateMath {
  static func power(_ base: Double, _ exponent: Double) -> Double { pow(base, exponent) }
}

/// Methods of texts and dictionaries, as Python has them.
extension TemplateInterpreter {
  /// The method of a value, if it has one of that name. There is none that changes its value.
  static func method(of value: TemplateValue, _ name: String) -> TemplateFunction? {
    switch value {
    case .text(let text): textMethod(text, name)
    case .dictionary(let dictionary): dictionaryMethod(dictionary, name)
    case .list(let items): listMethod(items, name)
    default: nil
    }
  }

  private static func dictionaryMethod(_ dictionary: TemplateDictionary, _ name: String) -> TemplateFunction?
  {
    let result: (TemplateArguments) -> TemplateValue
    switch name {
    case "items": result = { _ in .list(dictionary.members.map { .list([$0.key, $0.value]) }) }
    case "keys": result = { _ in .list(dictionary.members.map(\.key)) }
    case "values": result = { _ in .list(dictionary.members.map(\.value)) }
    case "get":
      result = { arguments in
        arguments.value(0, "key").flatMap { dictionary[$0] } ?? arguments.value(1, "default") ?? .null
      }
    case "copy": result = { _ in .dictionary(dictionary) }
    default: return nil
    }
    return TemplateFunction(name: name) { interpreter, arguments throws(TemplateFault) in
      try interpreter.count(items: dictionary.count)
      return result(arguments)
    }
  }

  private static func listMethod(_ items: [TemplateValue], _ name: String) -> TemplateFunction? {
    switch name {
    case "count":
      TemplateFunction(name: name) { _, arguments throws(TemplateFault) in
        .int(arguments.positional.first.map { wanted in items.count { $0.equals(wanted) } } ?? 0)
      }
    case "index":
      TemplateFunction(name: name) { interpreter, arguments throws(TemplateFault) in
        guard let wanted = arguments.positional.first,
          let index = items.firstIndex(where: { $0.equals(wanted) })
        else { throw interpreter.fault("the value is not in the list") }
        return .int(index)
      }
    case "append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse":
      TemplateFunction(name: name) { interpreter, _ throws(TemplateFault) in
        throw interpreter.fault("access to '\(name)' of a list is unsafe: lists of a template do not change")
      }
    default: nil
    }
  }

  private static func textMethod(_ text: TemplateText, _ name: String) -> TemplateFunction? {
    guard textMethods.contains(name) else { return nil }
    return TemplateFunction(name: name) { interpreter, arguments throws(TemplateFault) in
      try interpreter.count(text.bytes.count)
      return try interpreter.callText(text, name, arguments)
    }
  }

  private static let textMethods: Set<String> = [
    "strip", "lstrip", "rstrip", "startswith", "endswith", "split", "rsplit", "splitlines", "upper", "lower",
    "title",
    "capitalize", "swapcase", "replace", "find", "rfind", "index", "count", "join", "isdigit", "isalpha",
    "isalnum", "isspace",
    "isupper", "islower", "isnumeric", "isdecimal", "removeprefix", "removesuffix", "partition", "rpartition",
    "zfill", "format",
  ]

  private mutating func callText(
    _ text: TemplateText, _ name: String, _ arguments: TemplateArguments
  ) throws(TemplateFault) -> TemplateValue {
    switch name {
    case "strip", "lstrip", "rstrip":
      let (left, right) = (name != "rstrip", name != "lstrip")
      guard let characters = try self.text(arguments, 0, "chars", of: name) else {
        return .text(text.trimmed(left: left, right: right))
      }
      let set = Set(characters.string.unicodeScalars.map(\.value))
      return .text(text.stripped(left: left, right: right, set.contains))
    case "startswith", "endswith":
      let affixes: [TemplateValue]
      switch arguments.positional.first {
      case .list(let items)?: affixes = items
      case let value?: affixes = [value]
      case nil: throw fault("\(name) takes an argument")
      }
      for affix in affixes {
        guard case .text(let affix) = affix else {
          throw fault("\(name): a str expected, not \(affix.typeName)")
        }
        let isThere =
          name == "startswith" ? text.bytes.starts(with: affix.bytes) : text.hasSuffix(affix.bytes)
        if isThere { return .bool(true) }
      }
      return .bool(false)
    case "split", "rsplit": return try split(text, arguments, fromEnd: name == "rsplit")
    case "splitlines":
      return .list(
        text.lines(keepsEnds: arguments.value(0, "keepends")?.isTrue ?? false).map(TemplateValue.text))
    case "replace":
      guard let old = try self.text(arguments, 0, "old", of: name),
        let new = try self.text(arguments, 1, "new", of: name)
      else { throw fault("replace takes two arguments") }
      let limit = arguments.value(2, "count")?.integer ?? -1
      return .text(try replaced(text, old, new, limit: limit < 0 ? .max : limit))
    case "find", "rfind", "index":
      guard let part = try self.text(arguments, 0, "sub", of: name) else {
        throw fault("\(name) takes an argument")
      }
      let place =
        name == "rfind" ? text.findLast(part.bytes, before: text.bytes.count) : text.find(part.bytes)
      if place == nil, name == "index" { throw fault("substring not found") }
      return .int(place.map { text.slice(0..<$0).count } ?? -1)
    case "count":
      guard let part = try self.text(arguments, 0, "sub", of: name) else {
        throw fault("count takes an argument")
      }
      return .int(part.isEmpty ? text.count + 1 : text.parts(separator: part.bytes).count - 1)
    case "join":
      return .text(
        try joined(try items(arguments.positional.first ?? .list([])), with: text, mustBeText: true))
    case "removeprefix", "removesuffix":
      guard let affix = try self.text(arguments, 0, "affix", of: name) else {
        throw fault("\(name) takes an argument")
      }
      let size = text.bytes.count
      if name == "removeprefix" {
        return .text(text.bytes.starts(with: affix.bytes) ? text.slice(affix.bytes.count..<size) : text)
      }
      return .text(text.hasSuffix(affix.bytes) ? text.slice(0..<size - affix.bytes.count) : text)
    case "partition", "rpartition":
      guard let separator = try self.text(arguments, 0, "sep", of: name), !separator.isEmpty else {
        throw fault("\(name) takes a separator")
      }
      let place =
        name == "partition"
        ? text.find(separator.bytes) : text.findLast(separator.bytes, before: text.bytes.count)
      guard let place else {
        return .list(
          name == "partition" ? [.text(text), .text(""), .text("")] : [.text(""), .text(""), .text(text)])
      }
      let end = place + separator.bytes.count
      return .list([
        .text(text.slice(0..<place)), .text(separator), .text(text.slice(end..<text.bytes.count)),
      ])
    case "zfill":
      let width = arguments.positional.first?.integer ?? 0
      guard width <= 1 << 20 else { throw fault("a text too long") }
      let sign = text.bytes.first == UInt8(ascii: "-") || text.bytes.first == UInt8(ascii: "+") ? 1 : 0
      var result = text.slice(0..<sign)
      result.append(TemplateText(String(repeating: "0", count: max(0, width - text.count))))
      result.append(text.slice(sign..<text.bytes.count))
      return .text(result)
    case "format": throw fault("the method 'format' of texts", .unsupported)
    default: return text.changed(name)
    }
  }

  /// An argument that must be a text where it is given; none counts as not given.
  func text(
    _ arguments: TemplateArguments, _ index: Int, _ name: String, of method: String
  ) throws(TemplateFault) -> TemplateText? {
    switch arguments.value(index, name) {
    case nil, .null?: return nil
    case .text(let text)?: return text
    case .undefined(let reason)?: throw fault(reason)
    case let value?: throw fault("\(method): a str expected, not \(value.typeName)")
    }
  }

  private func split(
    _ text: TemplateText, _ arguments: TemplateArguments, fromEnd: Bool
  ) throws(TemplateFault) -> TemplateValue {
    let limit = arguments.value(1, "maxsplit")?.integer ?? -1
    let most = limit < 0 ? Int.max : limit
    guard let separator = try self.text(arguments, 0, "sep", of: "split") else {
      if fromEnd, most != .max {
        throw fault("rsplit by white space with a limit", .unsupported)
      }
      return .list(text.words(limit: most).map(TemplateValue.text))
    }
    guard !separator.isEmpty else { throw fault("empty separator") }
    return .list(
      text.parts(separator: separator.bytes, limit: most, fromEnd: fromEnd).map(TemplateValue.text))
  }

  /// Replacement with the size of the result checked first.
  mutating func replaced(
    _ text: TemplateText, _ old: TemplateText, _ new: TemplateText, limit: Int
  ) throws(TemplateFault) -> TemplateText {
    let places = old.isEmpty ? text.count + 1 : text.bytes.count / old.bytes.count
    let size = min(places, limit).multipliedReportingOverflow(by: new.bytes.count)
    guard !size.overflow, size.partialValue <= Self.outputLimit else { throw fault("a text too long") }
    try count(text.bytes.count + size.partialValue)
    return text.replacing(old, with: new, limit: limit)
  }

  /// Texts of values with a separator between them.
  mutating func joined(
    _ items: [TemplateValue], with separator: TemplateText, mustBeText: Bool
  ) throws(TemplateFault) -> TemplateText {
    var result = TemplateText()
    for (index, item) in items.enumerated() {
      if index > 0 { result.append(separator) }
      if mustBeText {
        guard case .text = item else { throw fault("join: a str expected, not \(item.typeName)") }
      }
      let text = item.printed
      try count(text.bytes.count + separator.bytes.count)
      result.append(text)
      guard result.bytes.count <= Self.outputLimit else { throw fault("a text too long") }
    }
    return result
  }
}

extension TemplateText {
  func hasSuffix(_ suffix: [UInt8]) -> Bool {
    bytes.count >= suffix.count && bytes.suffix(suffix.count).elementsEqual(suffix)
  }

  /// The lines, without what ends them unless `keepsEnds`.
  func lines(keepsEnds: Bool) -> [TemplateText] {
    var lines: [TemplateText] = []
    var start = 0
    var index = 0
    while index < bytes.count {
      let (value, count) = UTF8Text.scalar(in: bytes, at: index)
      var end = index + count
      switch value {
      case 0x0A...0x0D, 0x1C...0x1E, 0x85, 0x2028, 0x2029:
        if value == 0x0D, end < bytes.count, bytes[end] == 0x0A { end += 1 }
        lines.append(slice(start..<(keepsEnds ? end : index)))
        start = end
      default: break
      }
      index = end
    }
    if start < bytes.count { lines.append(slice(start..<bytes.count)) }
    return lines
  }

  /// Methods without arguments.
  func changed(_ method: String) -> TemplateValue {
    let string = string
    func all(_ condition: (Unicode.Scalar) -> Bool) -> TemplateValue {
      .bool(!string.isEmpty && string.unicodeScalars.allSatisfy(condition))
    }
    switch method {
    case "upper": return .text(derived(string.uppercased()))
    case "lower": return .text(derived(string.lowercased()))
    case "capitalize":
      guard let first = string.unicodeScalars.first else { return .text(self) }
      let rest = String(String.UnicodeScalarView(string.unicodeScalars.dropFirst()))
      return .text(derived(first.properties.titlecaseMapping + rest.lowercased()))
    case "title":
      var result = ""
      var isInWord = false
      for scalar in string.unicodeScalars {
        let isCased = scalar.properties.isCased
        result +=
          !isCased
          ? String(scalar)
          : isInWord ? scalar.properties.lowercaseMapping : scalar.properties.titlecaseMapping
        isInWord = isCased
      }
      return .text(derived(result))
    case "swapcase":
      let swapped = string.unicodeScalars.map {
        $0.properties.isUppercase ? $0.properties.lowercaseMapping : $0.properties.uppercaseMapping
      }
      return .text(derived(swapped.joined()))
    case "isdigit":
      return all { $0.properties.numericType == .decimal || $0.properties.numericType == .digit }
    case "isdecimal": return all { $0.properties.numericType == .decimal }
    case "isnumeric": return all { $0.properties.numericType != nil }
    case "isalpha": return all { $0.properties.generalCategory.isLetter }
    case "isalnum": return all { $0.properties.generalCategory.isLetter || $0.properties.numericType != nil }
    case "isspace": return all { TemplateText.isSpace($0.value) }
    case "isupper", "islower":
      let cased = string.unicodeScalars.filter(\.properties.isCased)
      let wanted = cased.allSatisfy {
        method == "isupper" ? $0.properties.isUppercase : $0.properties.isLowercase
      }
      return .bool(!cased.isEmpty && wanted)
    default: return .text(self)
    }
  }
}

extension Unicode.GeneralCategory {
  fileprivate var isLetter: Bool {
    switch self {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
    default: false
    }
  }
}
