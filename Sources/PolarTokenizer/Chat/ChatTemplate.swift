public import Foundation
public import PolarCore

/// A model's own chat template: Jinja source that makes one text of a list of messages
/// (https://huggingface.co/docs/transformers/chat_templating).
///
/// It is rendered by an interpreter of the part of Jinja that chat templates use, with the settings of Hugging Face
/// transformers: `trim_blocks`, `lstrip_blocks`, loop controls, `tojson`, `raise_exception`, `strftime_now`, `{% generation %}`.
/// A template cannot read or write anything but the values it is given; its steps, depth and output are limited.
/// What the interpreter lacks is refused when the template is read.
public struct ChatTemplate: Sendable {
  /// The longest source in bytes.
  static let sourceLimit = 1 << 20

  private let body: [TemplateStatement]
  private let path: String

  /// Reads a template.
  /// - Parameters:
  ///   - source: Jinja source, as in `chat_template.jinja` or `tokenizer.chat_template`.
  ///   - path: named in errors.
  /// - Throws: `malformed` or `unsupported`, with the line of the template.
  public init(_ source: String, path: String) throws(PolarError) {
    guard source.utf8.count <= Self.sourceLimit else {
      throw .unsupported(
        path: path, what: "a chat template of \(source.utf8.count) bytes (at most \(Self.sourceLimit))")
    }
    self.path = path
    do {
      body = try TemplateParser.parse(source)
    } catch {
      throw Self.error(error, path: path)
    }
  }

  /// The text of a chat.
  /// - Parameters:
  ///   - messages: as the template sees them, see ``ChatMessage/value``.
  ///   - tools: functions that the model may call, in JSON schema.
  ///   - addGenerationPrompt: end with the opening of the assistant's answer.
  ///   - specialTokens: texts of tokens by the names that templates use: `bos_token`, `eos_token` ...
  ///   - variables: what else the template may look at, such as `enable_thinking`.
  ///   - date: what `strftime_now` tells.
  /// - Throws: `malformed` for what the template does wrong, with its line; `request` for messages that it refuses.
  public func render(
    messages: [ChatValue], tools: [ChatValue] = [], addGenerationPrompt: Bool = true,
    specialTokens: [String: String] = [:], variables: [ChatValue.Member] = [], date: Date = Date()
  ) throws(PolarError) -> ChatPrompt {
    let scope = TemplateScope()
    TemplateInterpreter.setGlobals(in: scope)
    for (name, text) in specialTokens { scope.set(name, .text(text)) }
    scope.set("messages", ChatValue.array(messages).templateValue)
    scope.set("tools", tools.isEmpty ? .null : ChatValue.array(tools).templateValue)
    scope.set("documents", .null)
    scope.set("add_generation_prompt", .bool(addGenerationPrompt))
    for variable in variables { scope.set(variable.name, variable.value.templateValue) }
    var interpreter = TemplateInterpreter(date: TemplateDate(date))
    do {
      _ = try interpreter.run(body, TemplateScope(scope))
    } catch {
      throw Self.error(error, path: path)
    }
    return ChatPrompt(interpreter.output)
  }

  private static func error(_ fault: TemplateFault, path: String) -> PolarError {
    switch fault.kind {
    case .wrong: .malformed(path: path, reason: "chat template, line \(fault.line): \(fault.reason)")
    case .unsupported: .unsupported(path: path, what: "chat template, line \(fault.line): \(fault.reason)")
    case .refused: .request(field: "messages", reason: "the model's chat template says: \(fault.reason)")
    }
  }
}

/// The text of a chat, with the parts of it that come from messages and tools rather than from the template.
public struct ChatPrompt: Sendable {
  let content: TemplateText

  init(_ content: TemplateText) {
    self.content = content
  }

  /// All of it.
  public var text: String { content.string }
}

extension Tokenizer {
  /// The token ids of a chat's text. Special tokens that the template spells become their ids; those that messages
  /// spell are ordinary text, so that nobody can end a turn or speak for another in a message. The text is one otherwise:
  /// words and their ids are the same as if all of it were the template's.
  /// - Parameter addSpecialTokens: put the file's begin (and end) tokens around the text; templates spell their own.
  public func encode(_ prompt: ChatPrompt, addSpecialTokens: Bool = false) -> [Int32] {
    encode(prompt.content.bytes, addSpecialTokens, .outside(prompt.content.data))
  }
}

/// The local date and time, in the formats of C's `strftime`.
struct TemplateDate {
  private let seconds: time_t

  init(_ date: Date) {
    seconds = time_t(date.timeIntervalSince1970)
  }

  func format(_ format: String) -> String {
    guard !format.isEmpty, format.utf8.count <= 256 else { return "" }
    var seconds = seconds
    var parts = tm()
    localtime_r(&seconds, &parts)
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = strftime(&buffer, buffer.count, format, &parts)
    return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

extension TemplateInterpreter {
  /// The functions that every template has.
  static func setGlobals(in scope: TemplateScope) {
    func define(
      _ name: String,
      _ call: @escaping (inout TemplateInterpreter, TemplateArguments) throws(TemplateFault) -> TemplateValue
    ) {
      scope.set(name, .function(TemplateFunction(name: name, call: call)))
    }
    define("raise_exception") { interpreter, arguments throws(TemplateFault) in
      throw interpreter.fault(arguments.value(0, "message")?.printed.string ?? "", .refused)
    }
    define("strftime_now") { interpreter, arguments throws(TemplateFault) in
      .text(interpreter.date.format(arguments.value(0, "format")?.printed.string ?? ""))
    }
    define("namespace") { interpreter, arguments throws(TemplateFault) in
      .object(TemplateObject(name: "Namespace", attributes: try interpreter.members(arguments)))
    }
    define("dict") { interpreter, arguments throws(TemplateFault) in
      var dictionary = TemplateDictionary()
      if case .dictionary(let first)? = arguments.positional.first { dictionary = first }
      for (name, value) in arguments.named { dictionary.set(.text(name), value) }
      return .dictionary(dictionary)
    }
    define("range") { interpreter, arguments throws(TemplateFault) in
      try interpreter.range(arguments.positional)
    }
  }

  private func members(_ arguments: TemplateArguments) throws(TemplateFault) -> [String: TemplateValue] {
    var members: [String: TemplateValue] = [:]
    if case .dictionary(let dictionary)? = arguments.positional.first {
      for member in dictionary.members { members[member.key.printed.string] = member.value }
    }
    for (name, value) in arguments.named { members[name] = value }
    return members
  }

  /// `range(end)`, `range(start, end)`, `range(start, end, step)`.
  private mutating func range(_ arguments: [TemplateValue]) throws(TemplateFault) -> TemplateValue {
    let numbers = arguments.compactMap(\.integer)
    guard numbers.count == arguments.count, (1...3).contains(numbers.count) else {
      throw fault("range takes one to three whole numbers")
    }
    let (start, end) = numbers.count == 1 ? (0, numbers[0]) : (numbers[0], numbers[1])
    let step = numbers.count == 3 ? numbers[2] : 1
    // Python's sandbox has the same limit.
    guard step != 0, abs(Double(end) - Double(start)) / abs(Double(step)) <= 100_000 else {
      throw fault("range of more than 100000 numbers")
    }
    let values = stride(from: start, to: end, by: step).map(TemplateValue.int)
    try count(items: values.count)
    return .list(values)
  }
}
