/// Expressions, in order of precedence from the loosest.
extension TemplateParser {
  /// One expression, or several with commas between them, which make a list.
  mutating func tuple(withCondition: Bool = true) throws(TemplateFault) -> TemplateExpression {
    let first = withCondition ? try expression() : try or()
    guard token == .symbol(",") else { return first }
    var items = [first]
    while take(",") {
      switch token {
      case .variableEnd, .blockEnd, .symbol(")"): return .list(items)
      default: items.append(withCondition ? try expression() : try or())
      }
    }
    return .list(items)
  }

  /// `a if b else c` and all that binds tighter.
  mutating func expression() throws(TemplateFault) -> TemplateExpression {
    try nested { parser throws(TemplateFault) in
      var value = try parser.or()
      while parser.takeName("if") {
        let condition = try parser.or()
        let otherwise = parser.takeName("else") ? try parser.expression() : nil
        value = .conditional(condition, value: value, otherwise: otherwise)
      }
      return value
    }
  }

  private mutating func or() throws(TemplateFault) -> TemplateExpression {
    var left = try and()
    while takeName("or") { left = .or(left, try and()) }
    return left
  }

  private mutating func and() throws(TemplateFault) -> TemplateExpression {
    var left = try not()
    while takeName("and") { left = .and(left, try not()) }
    return left
  }

  private mutating func not() throws(TemplateFault) -> TemplateExpression {
    guard takeName("not") else { return try comparison() }
    return try nested { parser throws(TemplateFault) in .not(try parser.not()) }
  }

  private mutating func comparison() throws(TemplateFault) -> TemplateExpression {
    let start = line
    let left = try sum()
    var rest: [(symbol: String, value: TemplateExpression)] = []
    while true {
      switch token {
      case .symbol(let symbol) where ["==", "!=", "<", "<=", ">", ">="].contains(symbol):
        advance()
        rest.append((symbol, try sum()))
      case .name("in"):
        advance()
        rest.append(("in", try sum()))
      case .name("not") where index + 1 < lexemes.count && lexemes[index + 1].token == .name("in"):
        advance()
        advance()
        rest.append(("not in", try sum()))
      default: return rest.isEmpty ? left : .line(start, .compare(left, rest))
      }
    }
  }

  private mutating func sum() throws(TemplateFault) -> TemplateExpression {
    var left = try concatenation()
    while case .symbol(let symbol) = token, symbol == "+" || symbol == "-" {
      let start = line
      advance()
      left = .line(start, .arithmetic(symbol, left, try concatenation()))
    }
    return left
  }

  private mutating func concatenation() throws(TemplateFault) -> TemplateExpression {
    var items = [try product()]
    while take("~") { items.append(try product()) }
    return items.count == 1 ? items[0] : .concatenation(items)
  }

  private mutating func product() throws(TemplateFault) -> TemplateExpression {
    var left = try power()
    while case .symbol(let symbol) = token, ["*", "/", "//", "%"].contains(symbol) {
      let start = line
      advance()
      left = .line(start, .arithmetic(symbol, left, try power()))
    }
    return left
  }

  private mutating func power() throws(TemplateFault) -> TemplateExpression {
    var left = try unary(withFilter: true)
    while token == .symbol("**") {
      let start = line
      advance()
      left = .line(start, .arithmetic("**", left, try unary(withFilter: true)))
    }
    return left
  }

  private mutating func unary(withFilter: Bool) throws(TemplateFault) -> TemplateExpression {
    try nested { parser throws(TemplateFault) in
      var value: TemplateExpression
      if parser.take("-") {
        value = .negative(try parser.unary(withFilter: false))
      } else if parser.take("+") {
        value = .positive(try parser.unary(withFilter: false))
      } else {
        value = try parser.primary()
      }
      value = try parser.postfix(value)
      return withFilter ? try parser.filters(value) : value
    }
  }

  private mutating func primary() throws(TemplateFault) -> TemplateExpression {
    switch token {
    case .name(let name):
      let start = line
      advance()
      switch name {
      case "true", "True": return .literal(.bool(true))
      case "false", "False": return .literal(.bool(false))
      case "none", "None": return .literal(.null)
      case "and", "or", "in", "is", "if", "else", "elif": throw fault("unexpected '\(name)'")
      default: return .line(start, .name(name))
      }
    case .string(let text):
      var all = text
      advance()
      while case .string(let more) = token {
        all += more
        advance()
      }
      return .literal(.text(all))
    case .integer(let value):
      advance()
      return .literal(.int(value))
    case .float(let value):
      advance()
      return .literal(.double(value))
    case .symbol("("):
      advance()
      if take(")") { return .list([]) }
      let value = try tuple()
      try expect(")")
      return value
    case .symbol("["):
      advance()
      var items: [TemplateExpression] = []
      while !take("]") {
        if !items.isEmpty { try expect(",") }
        if take("]") { break }
        items.append(try expression())
      }
      return .list(items)
    case .symbol("{"):
      advance()
      var members: [(key: TemplateExpression, value: TemplateExpression)] = []
      while !take("}") {
        if !members.isEmpty { try expect(",") }
        if take("}") { break }
        let key = try expression()
        try expect(":")
        members.append((key, try expression()))
      }
      return .dictionary(members)
    default: throw fault("an expression expected")
    }
  }

  private mutating func postfix(_ value: TemplateExpression) throws(TemplateFault) -> TemplateExpression {
    var value = value
    while true {
      let start = line
      if take(".") {
        if case .integer(let number) = token {
          advance()
          value = .line(start, .item(value, .literal(.int(number))))
        } else {
          value = .line(start, .attribute(value, try name()))
        }
      } else if take("[") {
        value = .line(start, try subscripted(value))
      } else if take("(") {
        value = .line(start, .call(value, try arguments()))
      } else {
        return value
      }
    }
  }

  private mutating func subscripted(_ value: TemplateExpression) throws(TemplateFault) -> TemplateExpression {
    var parts: [TemplateExpression?] = []
    var current: TemplateExpression?
    while true {
      if take("]") { break }
      if take(":") {
        parts.append(current)
        current = nil
      } else if current == nil {
        current = try expression()
      } else {
        throw fault("']' expected")
      }
    }
    if parts.isEmpty {
      guard let current else { throw fault("an expression expected") }
      return .item(value, current)
    }
    parts.append(current)
    guard parts.count <= 3 else { throw fault("a slice of more than three parts") }
    return .slice(value, parts)
  }

  /// Arguments after an opening parenthesis, with the closing one.
  mutating func arguments() throws(TemplateFault) -> TemplateCall {
    var call = TemplateCall()
    var isFirst = true
    while !take(")") {
      if !isFirst {
        try expect(",")
        if take(")") { break }
      }
      isFirst = false
      if token == .symbol("*") || token == .symbol("**") { throw fault("unpacked arguments", .unsupported) }
      if case .name(let name) = token, lexemes[index + 1].token == .symbol("=") {
        advance()
        advance()
        call.named.append((name, try expression()))
      } else {
        call.positional.append(try expression())
      }
    }
    return call
  }

  /// Filters, tests and calls after a value.
  private mutating func filters(_ value: TemplateExpression) throws(TemplateFault) -> TemplateExpression {
    var value = value
    while true {
      let start = line
      if take("|") {
        let name = try name()
        try TemplateInterpreter.checkFilter(name, line: start)
        value = .line(start, .filter(value, name, take("(") ? try arguments() : TemplateCall()))
      } else if takeName("is") {
        let isNegated = takeName("not")
        let test = try test(value, start)
        value = isNegated ? .not(test) : test
      } else if take("(") {
        value = .line(start, .call(value, try arguments()))
      } else {
        return value
      }
    }
  }

  private mutating func test(_ value: TemplateExpression, _ start: Int) throws(TemplateFault)
    -> TemplateExpression
  {
    let name = try name()
    try TemplateInterpreter.checkTest(name, line: start)
    var call = TemplateCall()
    switch token {
    case .symbol("("):
      advance()
      call = try arguments()
    case .name("else"), .name("or"), .name("and"), .name("is"), .name("if"), .name("not"), .name("in"): break
    case .name, .string, .integer, .float, .symbol("["), .symbol("{"):
      call.positional = [try postfix(try primary())]
    default: break
    }
    return .line(start, .test(value, name, call))
  }
}
