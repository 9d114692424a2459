public import PolarCore

/// How the messages of a chat become one text.
public enum ChatFormat: Sendable {
  /// The model's own template, with the texts of the tokens that it may name (`bos_token` ...).
  case template(ChatTemplate, specialTokens: [String: String])
  /// "User: ...\nAssistant: ...", for models without a template; a system message stands by itself.
  case plain

  /// The format of a model.
  /// - Parameters:
  ///   - template: the source of its chat template; plain where there is none.
  ///   - specialTokens: texts of tokens by the names that templates use.
  ///   - path: named in errors.
  /// - Throws: `malformed` or `unsupported`, with the line of the template.
  public init(template: String?, specialTokens: [String: String] = [:], path: String) throws(PolarError) {
    guard let template, !template.isEmpty else {
      self = .plain
      return
    }
    self = .template(try ChatTemplate(template, path: path), specialTokens: specialTokens)
  }

  /// The text of a chat.
  /// - Parameters:
  ///   - tools: functions that the model may call, in JSON schema; a plain format leaves them aside.
  ///   - addGenerationPrompt: end with the opening of the assistant's answer.
  ///   - variables: what else the template may look at, such as `enable_thinking`.
  /// - Throws: `request` for messages that the template refuses, `malformed` for what it does wrong.
  public func render(
    messages: [ChatMessage], tools: [ChatValue] = [], addGenerationPrompt: Bool = true,
    variables: [ChatValue.Member] = []
  ) throws(PolarError) -> ChatPrompt {
    switch self {
    case .template(let template, let specialTokens):
      return try template.render(
        messages: messages.map(\.value), tools: tools, addGenerationPrompt: addGenerationPrompt,
        specialTokens: specialTokens, variables: variables)
    case .plain:
      var text = TemplateText()
      for message in messages {
        switch message.role {
        case .system: break
        case .user: text.append(TemplateText("User: "))
        case .assistant: text.append(TemplateText("Assistant: "))
        case .tool: text.append(TemplateText("Tool: "))
        }
        text.append(TemplateText(Array(message.content.utf8), isData: true))
        text.append(TemplateText(message.role == .system ? "\n\n" : "\n"))
      }
      if addGenerationPrompt { text.append(TemplateText("Assistant:")) }
      return ChatPrompt(text)
    }
  }

  /// The token ids of a chat. A template spells the tokens that begin a text itself; to a plain text the tokenizer adds them.
  public func encode(_ prompt: ChatPrompt, with tokenizer: Tokenizer) -> [Int32] {
    if case .plain = self { return tokenizer.encode(prompt, addSpecialTokens: true) }
    return tokenizer.encode(prompt)
  }

  /// Texts at which an answer is over, should the model not end it with a token.
  public var stopStrings: [String] {
    if case .plain = self { ["\nUser:"] } else { [] }
  }
}
