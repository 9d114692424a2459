public import Foundation
public import PolarCore

/// A value that a chat template sees: what JSON can say, with the members of objects in order.
public indirect enum ChatValue: Sendable, Equatable {
  /// A member of an object.
  public struct Member: Sendable, Equatable {
    /// Its name.
    public var name: String
    /// Its value.
    public var value: ChatValue

    /// A member.
    public init(_ name: String, _ value: ChatValue) {
      self.name = name
      self.value = value
    }
  }

  case null
  case bool(Bool)
  case int(Int)
  case double(Double)
  case string(String)
  case array([ChatValue])
  case object([Member])

  /// Reads JSON text; the members of objects keep their order.
  /// - Parameters:
  ///   - json: UTF-8 text.
  ///   - path: named in errors.
  /// - Throws: `malformed` for text that is not JSON or nested deeper than 64.
  public init(json: Data, path: String) throws(PolarError) {
    let document = try JSONDocument(Array(json), path: path)
    self.init(document.root, document)
  }

  private init(_ node: JSONDocument.Node, _ document: JSONDocument) {
    func text(_ text: JSONDocument.Text) -> String { String(decoding: document.bytes(text), as: UTF8.self) }
    switch node {
    case .null: self = .null
    case .bool(let value): self = .bool(value)
    case .number(let value, let isWhole):
      self = isWhole ? Int(exactly: value).map(ChatValue.int) ?? .double(value) : .double(value)
    case .string(let string): self = .string(text(string))
    case .array(let nodes): self = .array(nodes.map { ChatValue($0, document) })
    case .object(let members):
      self = .object(members.map { Member(text($0.key), ChatValue($0.value, document)) })
    }
  }

  /// The value in a template; its texts count as data.
  var templateValue: TemplateValue {
    switch self {
    case .null: .null
    case .bool(let value): .bool(value)
    case .int(let value): .int(value)
    case .double(let value): .double(value)
    case .string(let text): .text(TemplateText(Array(text.utf8), isData: true))
    case .array(let items): .list(items.map(\.templateValue))
    case .object(let members):
      .dictionary(
        members.reduce(into: TemplateDictionary()) {
          $0.set(.text(TemplateText(Array($1.name.utf8), isData: true)), $1.value.templateValue)
        })
    }
  }
}

/// Who speaks in a chat.
public enum ChatRole: String, Sendable, Codable, CaseIterable {
  case system
  case user
  case assistant
  case tool
}

/// One message of a chat.
public struct ChatMessage: Sendable, Equatable {
  /// Who speaks.
  public typealias Role = ChatRole

  /// Who speaks.
  public var role: Role
  /// What is said.
  public var content: String
  /// What else the template may look at, such as `tool_calls`.
  public var fields: [ChatValue.Member]

  /// A message.
  public init(role: Role, content: String, fields: [ChatValue.Member] = []) {
    self.role = role
    self.content = content
    self.fields = fields
  }

  /// The message as a template sees it.
  public var value: ChatValue {
    .object([.init("role", .string(role.rawValue)), .init("content", .string(content))] + fields)
  }
}
