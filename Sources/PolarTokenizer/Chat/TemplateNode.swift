/// A value that a template spells out.
enum TemplateLiteral: Sendable {
  case null
  case bool(Bool)
  case int(Int)
  case double(Double)
  case text(String)
}

/// An expression of a template.
indirect enum TemplateExpression: Sendable {
  case literal(TemplateLiteral)
  case name(String)
  case list([TemplateExpression])
  case dictionary([(key: TemplateExpression, value: TemplateExpression)])
  case attribute(TemplateExpression, String)
  case item(TemplateExpression, TemplateExpression)
  case slice(TemplateExpression, [TemplateExpression?])
  case call(TemplateExpression, TemplateCall)
  /// A filter; without a value, on the text of a `filter` or `set` block.
  case filter(TemplateExpression, String, TemplateCall)
  case test(TemplateExpression, String, TemplateCall)
  case not(TemplateExpression)
  case negative(TemplateExpression)
  case positive(TemplateExpression)
  case and(TemplateExpression, TemplateExpression)
  case or(TemplateExpression, TemplateExpression)
  case compare(TemplateExpression, [(symbol: String, value: TemplateExpression)])
  case arithmetic(String, TemplateExpression, TemplateExpression)
  case concatenation([TemplateExpression])
  case conditional(TemplateExpression, value: TemplateExpression, otherwise: TemplateExpression?)
  /// An expression with the line that it begins on, for errors.
  case line(Int, TemplateExpression)
}

/// The arguments of a call as written.
struct TemplateCall: Sendable {
  var positional: [TemplateExpression] = []
  var named: [(name: String, value: TemplateExpression)] = []
}

/// Where a value is assigned to.
indirect enum TemplateTarget: Sendable {
  case name(String)
  /// An attribute of a namespace.
  case attribute(String, String)
  case tuple([TemplateTarget])
}

/// A macro as defined.
struct TemplateMacro: Sendable {
  var name: String
  var parameters: [(name: String, standard: TemplateExpression?)]
  var body: [TemplateStatement]
}

/// A loop as written.
struct TemplateLoop: Sendable {
  var target: TemplateTarget
  var items: TemplateExpression
  var filter: TemplateExpression?
  var body: [TemplateStatement]
  var otherwise: [TemplateStatement]
  var isRecursive: Bool
}

/// A statement of a template.
indirect enum TemplateStatement: Sendable {
  case text([UInt8])
  case output(TemplateExpression)
  case branch([(condition: TemplateExpression, body: [TemplateStatement])], otherwise: [TemplateStatement])
  case loop(TemplateLoop)
  case set(TemplateTarget, TemplateExpression)
  /// The text of a body, through filters, assigned.
  case setBlock(TemplateTarget, [(name: String, call: TemplateCall)], [TemplateStatement])
  case filterBlock([(name: String, call: TemplateCall)], [TemplateStatement])
  case with([(target: TemplateTarget, value: TemplateExpression)], [TemplateStatement])
  case macro(TemplateMacro)
  /// A call of a macro with a body that the macro may call as `caller`.
  case callBlock(TemplateMacro, TemplateExpression)
  case group([TemplateStatement])
  case breakLoop
  case continueLoop
  /// A statement with its line, for errors.
  case line(Int, TemplateStatement)
}
