/// Expressions.
extension TemplateInterpreter {
  mutating func evaluate(
    _ expression: TemplateExpression, _ scope: TemplateScope
  ) throws(TemplateFault) -> TemplateValue {
    try count()
    switch expression {
    case .line(let number, let expression):
      line = number
      return try evaluate(expression, scope)
    case .literal(let literal):
      switch literal {
      case .null: return .null
      case .bool(let value): return .bool(value)
      case .int(let value): return .int(value)
      case .double(let value): return .double(value)
      case .text(let text): return .text(text)
      }
    case .name(let name): return scope.value(name) ?? .undefined("'\(name)' is undefined")
    case .list(let items):
      var values: [TemplateValue] = []
      for item in items { values.append(try evaluate(item, scope)) }
      return .list(values)
    case .dictionary(let members):
      var dictionary = TemplateDictionary()
      for (key, value) in members {
        let key = try evaluate(key, scope)
        guard TemplateDictionary.isKey(key) else { throw fault("a key of type \(key.typeName)") }
        dictionary.set(key, try evaluate(value, scope))
      }
      return .dictionary(dictionary)
    case .attribute(let value, let name): return try attribute(try evaluate(value, scope), name)
    case .item(let value, let key): return try item(try evaluate(value, scope), try evaluate(key, scope))
    case .slice(let value, let parts): return try slice(try evaluate(value, scope), parts, scope)
    case .call(let callee, let call): return try self.call(callee, call, scope)
    case .filter(let value, let name, let call):
      let value = try evaluate(value, scope)
      return try filter(name, value, try arguments(call, scope))
    case .test(let value, let name, let call):
      let value = try evaluate(value, scope)
      return .bool(try test(name, value, try arguments(call, scope)))
    case .not(let value): return .bool(!(try evaluate(value, scope).isTrue))
    case .negative(let value): return try signed(try evaluate(value, scope), isNegative: true)
    case .positive(let value): return try signed(try evaluate(value, scope), isNegative: false)
    case .and(let left, let right):
      let value = try evaluate(left, scope)
      return value.isTrue ? try evaluate(right, scope) : value
    case .or(let left, let right):
      let value = try evaluate(left, scope)
      return value.isTrue ? value : try evaluate(right, scope)
    case .compare(let left, let rest): return try compare(try evaluate(left, scope), rest, scope)
    case .arithmetic(let symbol, let left, let right):
      let (left, right) = (try evaluate(left, scope), try evaluate(right, scope))
      return try arithmetic(symbol, left, right)
    case .concatenation(let items):
      var text = TemplateText()
      for item in items {
        let part = try evaluate(item, scope).printed
        guard text.bytes.count + part.bytes.count <= Self.outputLimit else { throw fault("a text too long") }
        try count(part.bytes.count)
        text.append(part)
      }
      return .text(text)
    case .conditional(let condition, let value, let otherwise):
      if try evaluate(condition, scope).isTrue { return try evaluate(value, scope) }
      return try otherwise.map { expression throws(TemplateFault) in try evaluate(expression, scope) }
        ?? .undefined("the inline if-expression has no else")
    }
  }

  mutating func arguments(_ call: TemplateCall, _ scope: TemplateScope) throws(TemplateFault)
    -> TemplateArguments
  {
    var arguments = TemplateArguments()
    for value in call.positional { arguments.positional.append(try evaluate(value, scope)) }
    for (name, value) in call.named { arguments.named.append((name, try evaluate(value, scope))) }
    return arguments
  }

  private mutating func call(
    _ callee: TemplateExpression, _ call: TemplateCall, _ scope: TemplateScope
  ) throws(TemplateFault) -> TemplateValue {
    let function = try evaluate(callee, scope)
    var arguments = try arguments(call, scope)
    switch function {
    case .function(let function):
      if let caller = scope.value(Self.callerName) { arguments.named.append((Self.callerName, caller)) }
      let start = line
      let value = try function.call(&self, arguments)
      line = start
      return value
    case .object(let object):
      guard case .function(let function)? = object.attributes[Self.callName] else {
        throw fault("'\(object.name)' object is not callable")
      }
      return try function.call(&self, arguments)
    case .undefined(let reason): throw fault(reason)
    default: throw fault("'\(function.typeName)' object is not callable")
    }
  }

  // MARK: Access

  /// `value.name`: a method or attribute, else a member.
  private func attribute(_ value: TemplateValue, _ name: String) throws(TemplateFault) -> TemplateValue {
    if let method = Self.method(of: value, name) { return .function(method) }
    switch value {
    case .undefined(let reason): throw fault(reason)
    case .object(let object):
      return object.attributes[name] ?? .undefined("'\(object.name)' object has no attribute '\(name)'")
    case .dictionary(let dictionary):
      return dictionary[name] ?? .undefined("'dict object' has no attribute '\(name)'")
    default: return .undefined("'\(value.typeName) object' has no attribute '\(name)'")
    }
  }

  /// `value[key]`: a member, else a method or attribute.
  func item(_ value: TemplateValue, _ key: TemplateValue) throws(TemplateFault) -> TemplateValue {
    switch value {
    case .undefined(let reason): throw fault(reason)
    case .dictionary(let dictionary):
      if let found = dictionary[key] { return found }
    case .list(let items):
      if let index = key.integer {
        let place = index < 0 ? index + items.count : index
        return items.indices.contains(place)
          ? items[place] : .undefined("list object has no element \(index)")
      }
    case .text(let text):
      if let index = key.integer {
        let starts = text.scalarStarts
        let place = index < 0 ? index + starts.count - 1 : index
        guard place >= 0, place + 1 < starts.count else {
          return .undefined("str object has no element \(index)")
        }
        return .text(text.slice(starts[place]..<starts[place + 1]))
      }
    default: break
    }
    guard case .text(let name) = key else {
      return .undefined("'\(value.typeName) object' has no element \(key.represented())")
    }
    return try attribute(value, name.string)
  }

  private mutating func slice(
    _ value: TemplateValue, _ parts: [TemplateExpression?], _ scope: TemplateScope
  ) throws(TemplateFault) -> TemplateValue {
    var bounds: [Int?] = []
    for part in parts {
      guard let part, case let bound = try evaluate(part, scope), !Self.isNull(bound) else {
        bounds.append(nil)
        continue
      }
      guard let number = bound.integer else { throw fault("slice indices must be integers") }
      bounds.append(number)
    }
    let step = (bounds.count > 2 ? bounds[2] : nil) ?? 1
    guard step != 0, step != .min else { throw fault("slice step cannot be zero") }
    func places(_ count: Int) -> [Int] {
      // Python's rules: negative bounds count from the end, all are clamped.
      func clamp(_ bound: Int?, _ standard: Int) -> Int {
        guard let bound else { return standard }
        let place = bound < 0 ? max(bound, -count - 1) + count : bound
        return step > 0 ? min(max(place, 0), count) : min(max(place, -1), count - 1)
      }
      let start = clamp(bounds[0], step > 0 ? 0 : count - 1)
      let end = clamp(bounds[1], step > 0 ? count : -1)
      return Array(stride(from: start, to: end, by: step))
    }
    switch value {
    case .list(let items):
      try count(items: items.count)
      return .list(places(items.count).map { items[$0] })
    case .text(let text):
      try count(text.bytes.count)
      let starts = text.scalarStarts
      let chosen = places(starts.count - 1)
      if step == 1, let first = chosen.first, let last = chosen.last {
        return .text(text.slice(starts[first]..<starts[last + 1]))
      }
      var result = TemplateText()
      for place in chosen { result.append(text.slice(starts[place]..<starts[place + 1])) }
      return .text(result)
    case .undefined(let reason): throw fault(reason)
    default: throw fault("'\(value.typeName)' object is not subscriptable")
    }
  }

  private static func isNull(_ value: TemplateValue) -> Bool {
    if case .null = value { true } else { false }
  }

  /// What a loop over a value goes through.
  func items(_ value: TemplateValue) throws(TemplateFault) -> [TemplateValue] {
    switch value {
    case .undefined: return []
    case .list(let items): return items
    case .dictionary(let dictionary): return dictionary.members.map(\.key)
    case .text(let text):
      let starts = text.scalarStarts
      return (0..<starts.count - 1).map { .text(text.slice(starts[$0]..<starts[$0 + 1])) }
    default: throw fault("'\(value.typeName)' object is not iterable")
    }
  }

  // MARK: Operators

  private func signed(_ value: TemplateValue, isNegative: Bool) throws(TemplateFault) -> TemplateValue {
    if let number = value.integer {
      guard number != .min else { throw fault("a number too large") }
      return .int(isNegative ? -number : number)
    }
    if case .double(let number) = value { return .double(isNegative ? -number : number) }
    if case .undefined(let reason) = value { throw fault(reason) }
    throw fault("bad operand type for unary operator: '\(value.typeName)'")
  }

  private mutating func compare(
    _ left: TemplateValue, _ rest: [(symbol: String, value: TemplateExpression)], _ scope: TemplateScope
  ) throws(TemplateFault) -> TemplateValue {
    var left = left
    for (symbol, expression) in rest {
      let right = try evaluate(expression, scope)
      if case .text(let text) = left { try count(text.bytes.count) }
      guard try holds(symbol, left, right) else { return .bool(false) }
      left = right
    }
    return .bool(true)
  }

  /// Whether a comparison holds.
  func holds(_ symbol: String, _ left: TemplateValue, _ right: TemplateValue) throws(TemplateFault) -> Bool {
    switch symbol {
    case "==": return left.equals(right)
    case "!=": return !left.equals(right)
    case "in": return try contains(right, left)
    case "not in": return !(try contains(right, left))
    default: break
    }
    let order = try order(left, right, symbol)
    switch symbol {
    case "<": return order < 0
    case "<=": return order <= 0
    case ">": return order > 0
    default: return order >= 0
    }
  }

  private func contains(_ container: TemplateValue, _ value: TemplateValue) throws(TemplateFault) -> Bool {
    switch container {
    case .undefined: return false
    case .list(let items): return items.contains { $0.equals(value) }
    case .dictionary(let dictionary): return dictionary[value] != nil
    case .text(let text):
      guard case .text(let part) = value else {
        if case .undefined(let reason) = value { throw fault(reason) }
        throw fault("'in <string>' requires string as left operand, not \(value.typeName)")
      }
      return text.find(part.bytes) != nil
    default: throw fault("argument of type '\(container.typeName)' is not iterable")
    }
  }

  /// Less than zero, zero or more, as `left` comes before `right`, with it or after it.
  func order(
    _ left: TemplateValue, _ right: TemplateValue, _ symbol: String = "<"
  ) throws(TemplateFault) -> Int {
    if let first = left.integer, let second = right.integer {
      return first < second ? -1 : first == second ? 0 : 1
    }
    if let first = left.number, let second = right.number {
      return first < second ? -1 : first == second ? 0 : 1
    }
    switch (left, right) {
    case (.text(let first), .text(let second)):
      if first == second { return 0 }
      return first.bytes.lexicographicallyPrecedes(second.bytes) ? -1 : 1
    case (.list(let first), .list(let second)):
      for (one, other) in zip(first, second) where !one.equals(other) { return try order(one, other, symbol) }
      return first.count - second.count
    case (.undefined(let reason), _), (_, .undefined(let reason)): throw fault(reason)
    default:
      throw fault("'\(symbol)' not supported between instances of '\(left.typeName)' and '\(right.typeName)'")
    }
  }

  private mutating func arithmetic(
    _ symbol: String, _ left: TemplateValue, _ right: TemplateValue
  ) throws(TemplateFault) -> TemplateValue {
    if let first = left.integer, let second = right.integer { return try whole(symbol, first, second) }
    if let first = left.number, let second = right.number { return try real(symbol, first, second) }
    switch (symbol, left, right) {
    case ("+", .text(var first), .text(let second)):
      guard first.bytes.count + second.bytes.count <= Self.outputLimit else { throw fault("a text too long") }
      try count(first.bytes.count + second.bytes.count)
      first.append(second)
      return .text(first)
    case ("+", .list(let first), .list(let second)):
      try count(items: first.count + second.count)
      return .list(first + second)
    case ("*", .text(let text), .int(let times)), ("*", .int(let times), .text(let text)):
      let total = text.bytes.count.multipliedReportingOverflow(by: max(0, times))
      guard !total.overflow, total.partialValue <= Self.outputLimit else { throw fault("a text too long") }
      try count(total.partialValue)
      var result = TemplateText()
      for _ in 0..<max(0, text.isEmpty ? 0 : times) { result.append(text) }
      return .text(result)
    case ("*", .list(let items), .int(let times)):
      let total = items.count.multipliedReportingOverflow(by: max(0, times))
      guard !total.overflow, total.partialValue <= 1 << 20 else { throw fault("a list too long") }
      return .list((0..<max(0, items.isEmpty ? 0 : times)).flatMap { _ in items })
    case ("%", .text, _): throw fault("formatting with '%'", .unsupported)
    case (_, .undefined(let reason), _), (_, _, .undefined(let reason)): throw fault(reason)
    case ("+", .text, _):
      throw fault("can only concatenate str (not \"\(right.typeName)\") to str")
    default:
      throw fault("unsupported operand type(s) for \(symbol): '\(left.typeName)' and '\(right.typeName)'")
    }
  }

  private func whole(_ symbol: String, _ left: Int, _ right: Int) throws(TemplateFault) -> TemplateValue {
    let result: (partialValue: Int, overflow: Bool)
    switch symbol {
    case "+": result = left.addingReportingOverflow(right)
    case "-": result = left.subtractingReportingOverflow(right)
    case "*": result = left.multipliedReportingOverflow(by: right)
    case "/", "//", "%":
      guard right != 0 else { throw fault("division by zero") }
      if symbol == "/" { return .double(Double(left) / Double(right)) }
      guard !(left == .min && right == -1) else { throw fault("a number too large") }
      // Python rounds down, Swift towards zero.
      let rest = left % right
      let isRounded = rest != 0 && (rest < 0) != (right < 0)
      return .int(symbol == "%" ? (isRounded ? rest + right : rest) : left / right - (isRounded ? 1 : 0))
    default:
      if right < 0 { return try real(symbol, Double(left), Double(right)) }
      var (value, overflow) = (1, false)
      for _ in 0..<min(right, 64) where !overflow {
        (value, overflow) = value.multipliedReportingOverflow(by: left)
      }
      if right > 64, abs(left) > 1 { overflow = true }
      if right > 64, left == -1 { value = right % 2 == 0 ? 1 : -1 }
      result = (value, overflow)
    }
    if result.overflow { throw fault("a number too large") }
    return .int(result.partialValue)
  }

  private func real(_ symbol: String, _ left: Double, _ right: Double) throws(TemplateFault) -> TemplateValue
  {
    switch symbol {
    case "+": return .double(left + right)
    case "-": return .double(left - right)
    case "*": return .double(left * right)
    case "**": return .double(TemplateMath.power(left, right))
    default: break
    }
    guard right != 0 else { throw fault("division by zero") }
    if symbol == "/" { return .double(left / right) }
    let quotient = (left / right).rounded(.down)
    return .double(symbol == "//" ? quotient : left - quotient * right)
  }
}
