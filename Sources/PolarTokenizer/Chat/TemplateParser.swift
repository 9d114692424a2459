/// Reads the tokens of a template into statements; the grammar is Jinja's
/// (https://jinja.palletsprojects.com/en/stable/templates/), without inheritance and inclusion.
struct TemplateParser {
  /// How deep expressions and statements may be nested.
  static let depthLimit = 64

  var lexemes: [TemplateLexer.Lexeme]
  var index = 0
  var depth = 0

  static func parse(_ source: String) throws(TemplateFault) -> [TemplateStatement] {
    var parser = TemplateParser(lexemes: try TemplateLexer.lex(source))
    return try parser.statements(until: []).body
  }

  // MARK: Tokens

  var token: TemplateLexer.Token { lexemes[index].token }
  var line: Int { lexemes[index].line }

  func fault(_ reason: String, _ kind: TemplateFault.Kind = .wrong) -> TemplateFault {
    TemplateFault(kind: kind, line: line, reason: reason)
  }

  mutating func advance() { if index + 1 < lexemes.count { index += 1 } }

  /// Takes a symbol if it is next.
  mutating func take(_ symbol: String) -> Bool {
    guard token == .symbol(symbol) else { return false }
    advance()
    return true
  }

  /// Takes a word if it is next.
  mutating func takeName(_ name: String) -> Bool {
    guard token == .name(name) else { return false }
    advance()
    return true
  }

  mutating func expect(_ symbol: String) throws(TemplateFault) {
    guard take(symbol) else { throw fault("'\(symbol)' expected") }
  }

  mutating func name() throws(TemplateFault) -> String {
    guard case .name(let name) = token else { throw fault("a name expected") }
    advance()
    return name
  }

  mutating func endBlock() throws(TemplateFault) {
    guard token == .blockEnd else { throw fault("the end of the tag expected") }
    advance()
  }

  /// Counts a level of nesting while `body` reads it.
  mutating func nested<Value>(
    _ body: (inout TemplateParser) throws(TemplateFault) -> Value
  ) throws(TemplateFault) -> Value {
    guard depth < Self.depthLimit else { throw fault("nested deeper than \(Self.depthLimit)") }
    depth += 1
    defer { depth -= 1 }
    return try body(&self)
  }

  // MARK: Statements

  /// Statements up to a block tag with one of the names, which is taken with its name (but not its end); up to the end of
  /// the source where there are no names.
  mutating func statements(
    until names: [String]
  ) throws(TemplateFault) -> (body: [TemplateStatement], end: String) {
    var body: [TemplateStatement] = []
    while true {
      let line = line
      switch token {
      case .end:
        guard names.isEmpty else {
          throw fault("{% \(names.last ?? "") %} expected before the end of the template")
        }
        return (body, "")
      case .text(let text):
        advance()
        body.append(.text(text))
      case .variableBegin:
        advance()
        let value = try tuple()
        guard token == .variableEnd else { throw fault("the end of the expression expected") }
        advance()
        body.append(.line(line, .output(value)))
      case .blockBegin:
        advance()
        let name = try name()
        if names.contains(name) { return (body, name) }
        let statement = try nested { parser throws(TemplateFault) in try parser.statement(name) }
        body.append(.line(line, statement))
      default: throw fault("unexpected token")
      }
    }
  }

  private mutating func statement(_ name: String) throws(TemplateFault) -> TemplateStatement {
    switch name {
    case "if": return try branch()
    case "for": return try loop()
    case "set": return try set()
    case "with": return try with()
    case "macro": return .macro(try macro())
    case "call": return try callBlock()
    case "filter":
      let filters = try filterChain()
      try endBlock()
      return .filterBlock(filters, try block("endfilter"))
    case "generation":
      // Marks the assistant's text for training; it is rendered as it is.
      try endBlock()
      return .group(try block("endgeneration"))
    case "break", "continue":
      try endBlock()
      return name == "break" ? .breakLoop : .continueLoop
    case "block", "extends", "include", "import", "from", "do", "autoescape", "trans", "raw":
      throw fault("the tag '\(name)'", .unsupported)
    default: throw fault("unknown tag '\(name)'")
    }
  }

  /// A body up to its end tag.
  private mutating func block(_ end: String) throws(TemplateFault) -> [TemplateStatement] {
    let body = try statements(until: [end]).body
    // Jinja lets the name of a macro or block follow.
    if case .name = token { advance() }
    try endBlock()
    return body
  }

  private mutating func branch() throws(TemplateFault) -> TemplateStatement {
    var branches: [(condition: TemplateExpression, body: [TemplateStatement])] = []
    while true {
      let condition = try tuple(withCondition: false)
      try endBlock()
      let (body, end) = try statements(until: ["elif", "else", "endif"])
      branches.append((condition, body))
      if end == "elif" { continue }
      var otherwise: [TemplateStatement] = []
      try endBlock()
      if end == "else" { otherwise = try block("endif") }
      return .branch(branches, otherwise: otherwise)
    }
  }

  private mutating func loop() throws(TemplateFault) -> TemplateStatement {
    let target = try target(isSet: false)
    guard takeName("in") else { throw fault("'in' expected") }
    let items = try tuple(withCondition: false)
    let filter = takeName("if") ? try expression() : nil
    let isRecursive = takeName("recursive")
    try endBlock()
    let (body, end) = try statements(until: ["else", "endfor"])
    try endBlock()
    let otherwise = end == "else" ? try block("endfor") : []
    return .loop(
      TemplateLoop(
        target: target, items: items, filter: filter, body: body, otherwise: otherwise,
        isRecursive: isRecursive))
  }

  private mutating func target(isSet: Bool) throws(TemplateFault) -> TemplateTarget {
    func single(_ parser: inout TemplateParser) throws(TemplateFault) -> TemplateTarget {
      if parser.take("(") {
        let inner = try parser.nested { parser throws(TemplateFault) in try parser.target(isSet: isSet) }
        try parser.expect(")")
        return inner
      }
      let name = try parser.name()
      if isSet, parser.take(".") { return .attribute(name, try parser.name()) }
      return .name(name)
    }
    let first = try single(&self)
    guard token == .symbol(",") else { return first }
    var all = [first]
    while take(",") {
      guard case .name = token else { break }
      all.append(try single(&self))
    }
    return .tuple(all)
  }

  private mutating func set() throws(TemplateFault) -> TemplateStatement {
    let target = try target(isSet: true)
    if take("=") {
      let value = try tuple()
      try endBlock()
      return .set(target, value)
    }
    let filters = take("|") ? try filterChain() : []
    try endBlock()
    return .setBlock(target, filters, try block("endset"))
  }

  private mutating func with() throws(TemplateFault) -> TemplateStatement {
    var values: [(target: TemplateTarget, value: TemplateExpression)] = []
    while token != .blockEnd {
      if !values.isEmpty { try expect(",") }
      let name = try name()
      try expect("=")
      values.append((.name(name), try expression()))
    }
    try endBlock()
    return .with(values, try block("endwith"))
  }

  private mutating func filterChain() throws(TemplateFault) -> [(name: String, call: TemplateCall)] {
    var filters: [(name: String, call: TemplateCall)] = []
    repeat {
      let name = try name()
      try TemplateInterpreter.checkFilter(name, line: line)
      filters.append((name, take("(") ? try arguments() : TemplateCall()))
    } while take("|")
    return filters
  }

  private mutating func macro() throws(TemplateFault) -> TemplateMacro {
    let name = try name()
    try expect("(")
    let parameters = try parameters()
    try endBlock()
    return TemplateMacro(name: name, parameters: parameters, body: try block("endmacro"))
  }

  private mutating func parameters() throws(TemplateFault) -> [(name: String, standard: TemplateExpression?)]
  {
    var parameters: [(name: String, standard: TemplateExpression?)] = []
    while !take(")") {
      if !parameters.isEmpty { try expect(",") }
      let name = try name()
      parameters.append((name, take("=") ? try expression() : nil))
    }
    return parameters
  }

  private mutating func callBlock() throws(TemplateFault) -> TemplateStatement {
    let parameters = take("(") ? try parameters() : []
    let call = try expression()
    try endBlock()
    return .callBlock(
      TemplateMacro(name: "caller", parameters: parameters, body: try block("endcall")), call)
  }
}
