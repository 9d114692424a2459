/// Names and their values; an inner scope sees the names of those around it.
final class TemplateScope {
  private let parent: TemplateScope?
  private var values: [String: TemplateValue] = [:]

  init(_ parent: TemplateScope? = nil) {
    self.parent = parent
  }

  func value(_ name: String) -> TemplateValue? {
    var scope: TemplateScope? = self
    while let current = scope {
      if let value = current.values[name] { return value }
      scope = current.parent
    }
    return nil
  }

  func set(_ name: String, _ value: TemplateValue) { values[name] = value }
}

/// Runs a template. There is nothing in it that reads or writes outside of it; how long it runs, how deep it calls and how
/// much it makes are limited.
struct TemplateInterpreter {
  /// Steps: each statement, expression and item of a list is one, and so is each 64 bytes of text that is made.
  static let stepLimit = 4_000_000
  /// Calls of macros and recursive loops within each other.
  static let callDepthLimit = 24
  /// Bytes of the rendered text, and of any other.
  static let outputLimit = 64 << 20

  /// What a body ended with.
  enum Flow {
    case next
    case breakLoop
    case continueLoop
  }

  var output = TemplateText()
  var line = 1
  private var steps = 0
  private var callDepth = 0
  /// Renders dates; given from outside so that a template's text can be the same twice.
  let date: TemplateDate

  init(date: TemplateDate) {
    self.date = date
  }

  func fault(_ reason: String, _ kind: TemplateFault.Kind = .wrong) -> TemplateFault {
    TemplateFault(kind: kind, line: line, reason: reason)
  }

  /// Counts work.
  mutating func count(_ bytes: Int = 0, items: Int = 0) throws(TemplateFault) {
    steps += 1 + items + bytes / 64
    if steps > Self.stepLimit { throw fault("the template takes more than \(Self.stepLimit) steps") }
  }

  mutating func emit(_ text: TemplateText) throws(TemplateFault) {
    try count(text.bytes.count)
    guard output.bytes.count + text.bytes.count <= Self.outputLimit else {
      throw fault("the text is longer than \(Self.outputLimit) bytes")
    }
    output.append(text)
  }

  /// Counts a call while `body` runs.
  mutating func called<Value>(
    _ body: (inout TemplateInterpreter) throws(TemplateFault) -> Value
  ) throws(TemplateFault) -> Value {
    guard callDepth < Self.callDepthLimit else {
      throw fault("calls nested deeper than \(Self.callDepthLimit)")
    }
    callDepth += 1
    defer { callDepth -= 1 }
    return try body(&self)
  }

  /// The text that statements make.
  mutating func captured(_ body: [TemplateStatement], _ scope: TemplateScope) throws(TemplateFault)
    -> TemplateText
  {
    let outer = output
    output = TemplateText()
    _ = try run(body, scope)
    let text = output
    output = outer
    return text
  }

  // MARK: Statements

  mutating func run(_ body: [TemplateStatement], _ scope: TemplateScope) throws(TemplateFault) -> Flow {
    for statement in body {
      let flow = try run(statement, scope)
      if flow != .next { return flow }
    }
    return .next
  }

  private mutating func run(_ statement: TemplateStatement, _ scope: TemplateScope) throws(TemplateFault)
    -> Flow
  {
    try count()
    switch statement {
    case .line(let number, let statement):
      line = number
      return try run(statement, scope)
    case .text(let text): try emit(TemplateText(text))
    case .output(let expression): try emit(try evaluate(expression, scope).printed)
    case .branch(let branches, let otherwise):
      for (condition, body) in branches where try evaluate(condition, scope).isTrue {
        return try run(body, scope)
      }
      return try run(otherwise, scope)
    case .loop(let loop): return try run(loop, try evaluate(loop.items, scope), scope, depth: 0)
    case .set(let target, let expression): try assign(try evaluate(expression, scope), to: target, scope)
    case .setBlock(let target, let filters, let body):
      let text = try captured(body, TemplateScope(scope))
      try assign(try apply(filters, to: text, scope), to: target, scope)
    case .filterBlock(let filters, let body):
      let text = try captured(body, TemplateScope(scope))
      try emit(try apply(filters, to: text, scope).printed)
    case .with(let values, let body):
      let inner = TemplateScope(scope)
      for (target, value) in values { try assign(try evaluate(value, scope), to: target, inner) }
      return try run(body, inner)
    case .macro(let macro): scope.set(macro.name, .function(function(macro, scope)))
    case .callBlock(let caller, let expression):
      let inner = TemplateScope(scope)
      inner.set(Self.callerName, .function(function(caller, scope)))
      try emit(try evaluate(expression, inner).printed)
    case .group(let body): return try run(body, scope)
    case .breakLoop: return .breakLoop
    case .continueLoop: return .continueLoop
    }
    return .next
  }

  /// Under this name, which no template can write, a call block hands its body to the macro.
  static let callerName = "\u{0}caller"

  private mutating func apply(
    _ filters: [(name: String, call: TemplateCall)], to text: TemplateText, _ scope: TemplateScope
  ) throws(TemplateFault) -> TemplateValue {
    var value = TemplateValue.text(text)
    for (name, call) in filters { value = try filter(name, value, try arguments(call, scope)) }
    return value
  }

  private mutating func assign(
    _ value: TemplateValue, to target: TemplateTarget, _ scope: TemplateScope
  ) throws(TemplateFault) {
    switch target {
    case .name(let name): scope.set(name, value)
    case .attribute(let name, let attribute):
      guard case .object(let object)? = scope.value(name), object.name == "Namespace" else {
        throw fault("'\(name)' is not a namespace")
      }
      object.attributes[attribute] = value
    case .tuple(let targets):
      let items = try self.items(value)
      guard items.count == targets.count else {
        throw fault("\(items.count) values for \(targets.count) names")
      }
      for (target, item) in zip(targets, items) { try assign(item, to: target, scope) }
    }
  }

  // MARK: Loops

  private mutating func run(
    _ loop: TemplateLoop, _ value: TemplateValue, _ scope: TemplateScope, depth: Int
  ) throws(TemplateFault) -> Flow {
    var items = try self.items(value)
    // A round of a loop does more than an expression.
    try count(items: items.count * 4)
    if let filter = loop.filter {
      var kept: [TemplateValue] = []
      for item in items {
        let inner = TemplateScope(scope)
        try assign(item, to: loop.target, inner)
        if try evaluate(filter, inner).isTrue { kept.append(item) }
      }
      items = kept
    }
    if items.isEmpty { return try run(loop.otherwise, TemplateScope(scope)) }
    let object = TemplateObject(name: "LoopContext")
    setConstants(object, items, depth: depth)
    if loop.isRecursive {
      object.attributes[Self.callName] = .function(recursion(loop, scope, depth: depth + 1))
    }
    for (index, item) in items.enumerated() {
      setPlace(object, items, index)
      let inner = TemplateScope(scope)
      try assign(item, to: loop.target, inner)
      inner.set("loop", .object(object))
      if try run(loop.body, inner) == .breakLoop { break }
    }
    return .next
  }

  /// The attribute that makes an object callable.
  static let callName = "\u{0}call"

  private func recursion(_ loop: TemplateLoop, _ scope: TemplateScope, depth: Int) -> TemplateFunction {
    TemplateFunction(name: "loop") { interpreter, arguments throws(TemplateFault) in
      try interpreter.called { interpreter throws(TemplateFault) in
        let outer = interpreter.output
        interpreter.output = TemplateText()
        _ = try interpreter.run(
          loop, arguments.value(0, "iterable") ?? .undefined("iterable"), scope, depth: depth)
        let text = interpreter.output
        interpreter.output = outer
        return .text(text)
      }
    }
  }

  private func setConstants(_ object: TemplateObject, _ items: [TemplateValue], depth: Int) {
    object.attributes["length"] = .int(items.count)
    object.attributes["depth"] = .int(depth + 1)
    object.attributes["depth0"] = .int(depth)
    var last: [TemplateValue]?
    object.attributes["changed"] = .function(
      TemplateFunction(name: "changed") { _, arguments throws(TemplateFault) in
        let isSame = last.map { TemplateValue.list($0).equals(.list(arguments.positional)) } ?? false
        last = arguments.positional
        return .bool(!isSame)
      })
    object.attributes["cycle"] = .function(
      TemplateFunction(name: "cycle") { [unowned object] interpreter, arguments throws(TemplateFault) in
        guard !arguments.positional.isEmpty, case .int(let index)? = object.attributes["index0"] else {
          throw interpreter.fault("loop.cycle needs values")
        }
        return arguments.positional[index % arguments.positional.count]
      })
  }

  private func setPlace(_ object: TemplateObject, _ items: [TemplateValue], _ index: Int) {
    object.attributes["index"] = .int(index + 1)
    object.attributes["index0"] = .int(index)
    object.attributes["revindex"] = .int(items.count - index)
    object.attributes["revindex0"] = .int(items.count - index - 1)
    object.attributes["first"] = .bool(index == 0)
    object.attributes["last"] = .bool(index + 1 == items.count)
    object.attributes["previtem"] = index > 0 ? items[index - 1] : .undefined("there is no previous item")
    object.attributes["nextitem"] =
      index + 1 < items.count ? items[index + 1] : .undefined("there is no next item")
  }

  // MARK: Macros

  private func function(_ macro: TemplateMacro, _ scope: TemplateScope) -> TemplateFunction {
    TemplateFunction(name: macro.name) { interpreter, arguments throws(TemplateFault) in
      guard arguments.positional.count <= macro.parameters.count else {
        throw interpreter.fault(
          "macro '\(macro.name)' takes not more than \(macro.parameters.count) argument(s)")
      }
      let inner = TemplateScope(scope)
      for (name, value) in arguments.named where name != TemplateInterpreter.callerName {
        guard macro.parameters.contains(where: { $0.name == name }) else {
          throw interpreter.fault("macro '\(macro.name)' takes no argument '\(name)'")
        }
        inner.set(name, value)
      }
      if let caller = arguments.named.last(where: { $0.name == TemplateInterpreter.callerName }) {
        inner.set("caller", caller.value)
      }
      return try interpreter.called { interpreter throws(TemplateFault) in
        for (index, parameter) in macro.parameters.enumerated() {
          if let value = arguments.value(index, parameter.name) {
            inner.set(parameter.name, value)
          } else if let standard = parameter.standard {
            inner.set(parameter.name, try interpreter.evaluate(standard, inner))
          } else {
            inner.set(parameter.name, .undefined("parameter '\(parameter.name)' was not provided"))
          }
        }
        return .text(try interpreter.captured(macro.body, inner))
      }
    }
  }
}
