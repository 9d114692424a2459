import PolarCore

/// A value of a JSON document with its place, for reading settings with errors that name the place.
struct JSONView {
  let document: JSONDocument
  let path: String
  /// The place, such as "model.vocab".
  let place: String
  let node: JSONDocument.Node

  init(_ document: JSONDocument, path: String) {
    (self.document, self.path, place, node) = (document, path, "", document.root)
  }

  private init(_ parent: JSONView, _ step: String, _ node: JSONDocument.Node) {
    (document, path, self.node) = (parent.document, parent.path, node)
    place = parent.place.isEmpty ? step : parent.place + "." + step
  }

  /// An error that says that this place is not as the format wants it.
  func malformed(_ reason: String) -> PolarError {
    .malformed(path: path, reason: place.isEmpty ? reason : "\(place): \(reason)")
  }

  /// An error that names what this place asks for.
  func unsupported(_ what: String) -> PolarError {
    .unsupported(path: path, what: place.isEmpty ? what : "\(place): \(what)")
  }

  /// The members of an object.
  func members() throws(PolarError) -> [JSONDocument.Member] {
    guard case .object(let members) = node else { throw malformed("an object expected") }
    return members
  }

  /// The elements of an array.
  func elements() throws(PolarError) -> [JSONView] {
    guard case .array(let nodes) = node else { throw malformed("an array expected") }
    return nodes.enumerated().map { JSONView(self, String($0.offset), $0.element) }
  }

  /// A member of an object; nil when absent or null. A repeated key is refused.
  func member(_ key: String) throws(PolarError) -> JSONView? {
    let found = try members().filter { document.bytes($0.key).elementsEqual(key.utf8) }
    guard found.count <= 1 else { throw malformed("the key '\(key)' appears twice") }
    guard let value = found.first?.value else { return nil }
    if case .null = value { return nil }
    return JSONView(self, key, value)
  }

  /// A member that must be there.
  func required(_ key: String) throws(PolarError) -> JSONView {
    guard let value = try member(key) else { throw malformed("'\(key)' is missing") }
    return value
  }

  /// This value as a string's bytes.
  func utf8() throws(PolarError) -> ArraySlice<UInt8> {
    guard case .string(let text) = node else { throw malformed("a string expected") }
    return document.bytes(text)
  }

  /// This value as a string.
  func string() throws(PolarError) -> String {
    String(decoding: try utf8(), as: UTF8.self)
  }

  /// A member that is true or false.
  func bool(_ key: String, default value: Bool) throws(PolarError) -> Bool {
    guard let view = try member(key) else { return value }
    guard case .bool(let bool) = view.node else { throw view.malformed("true or false expected") }
    return bool
  }

  /// This value as a token id.
  func tokenID() throws(PolarError) -> Int32 {
    guard let id = Vocabulary.tokenID(node) else { throw malformed("a token id below 2^24 expected") }
    return id
  }
}
