/// Who speaks in a chat.
public enum ChatRole: String, Sendable, Codable, CaseIterable {
  case system
  case user
  case assistant
}

/// One message of a chat.
public struct ChatMessage: Sendable, Equatable {
  /// Who speaks.
  public typealias Role = ChatRole

  /// Who speaks.
  public var role: Role
  /// What is said.
  public var content: String

  /// A message.
  public init(role: Role, content: String) {
    self.role = role
    self.content = content
  }
}

/// How the messages of a chat become one text.
public enum ChatFormat: Sendable, Equatable {
  /// `<|im_start|>role\ncontent<|im_end|>\n` for each message; a chat that does not begin with a system message
  /// gets the default one, if there is one.
  case chatML(defaultSystemPrompt: String? = nil)
  /// "User: ...\nAssistant: ...", for models without a template; a system message stands by itself.
  case plain

  /// The format that a chat template asks for: ChatML when its text has `<|im_start|>`, with the default system
  /// prompt that it spells out; otherwise plain.
  /// - Parameter template: a Jinja template as in `tokenizer.chat_template` or `chat_template.jinja`.
  public init(template: String?) {
    guard let template, template.contains(Self.start) else {
      self = .plain
      return
    }
    self = .chatML(defaultSystemPrompt: Self.defaultSystemPrompt(in: template))
  }

  private static let start = "<|im_start|>"
  private static let end = "<|im_end|>"

  /// The text of the first system message that the template spells out without an expression in it.
  private static func defaultSystemPrompt(in template: String) -> String? {
    // Templates write the line break as itself or, in a quoted string, as an escape.
    for opening in [start + "system\n", start + "system\\n"] {
      for part in template.split(separator: opening, omittingEmptySubsequences: false).dropFirst() {
        let pieces = part.split(separator: end, maxSplits: 1, omittingEmptySubsequences: false)
        guard pieces.count == 2, let prompt = pieces.first, !prompt.isEmpty else { continue }
        if !prompt.contains(where: { "'\"{}".contains($0) }) { return String(prompt) }
      }
    }
    return nil
  }

  /// The text of a chat.
  /// - Parameter addGenerationPrompt: end with the opening of the assistant's answer.
  public func render(messages: [ChatMessage], addGenerationPrompt: Bool) -> String {
    var text = ""
    switch self {
    case .chatML(let defaultSystemPrompt):
      if let first = messages.first, first.role != .system, let defaultSystemPrompt {
        text += "\(Self.start)system\n\(defaultSystemPrompt)\(Self.end)\n"
      }
      for message in messages {
        text += "\(Self.start)\(message.role.rawValue)\n\(message.content)\(Self.end)\n"
      }
      if addGenerationPrompt { text += "\(Self.start)assistant\n" }
    case .plain:
      for message in messages {
        switch message.role {
        case .system: text += "\(message.content)\n\n"
        case .user: text += "User: \(message.content)\n"
        case .assistant: text += "Assistant: \(message.content)\n"
        }
      }
      if addGenerationPrompt { text += "Assistant:" }
    }
    return text
  }

  /// Texts at which an answer is over, should the model not end it with a token.
  public var stopStrings: [String] {
    switch self {
    case .chatML: [Self.end]
    case .plain: ["\nUser:"]
    }
  }
}
