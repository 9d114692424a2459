/// Turns tokens into text as they come, without ever giving out half of a scalar: bytes that may still become
/// one are held back. All that it gives out, joined, equals `Tokenizer.decode` of the same ids.
public struct StreamingDecoder: Sendable {
  private let tokenizer: Tokenizer
  private let skipsSpecialTokens: Bool
  /// Bytes of an unfinished scalar, three at most.
  private var pending: [UInt8] = []

  /// - Parameter skipSpecialTokens: leave control tokens out.
  public init(tokenizer: Tokenizer, skipSpecialTokens: Bool = true) {
    self.tokenizer = tokenizer
    skipsSpecialTokens = skipSpecialTokens
  }

  /// Takes one more token; returns the text that is certain now, which may be empty.
  public mutating func append(_ id: Int32) -> String {
    if skipsSpecialTokens, tokenizer.isSpecial(id) { return "" }
    pending.append(contentsOf: tokenizer.bytes(of: id))
    var end = pending.count
    var index = 0
    while index < pending.count {
      switch UTF8Text.piece(in: pending, at: index, end: pending.count) {
      case .scalar(let count), .broken(let count): index += count
      case .cut(let count):
        end = index
        index += count
      }
    }
    let text = String(decoding: UTF8Text.repaired(Array(pending[..<end])), as: UTF8.self)
    pending.removeSubrange(..<end)
    return text
  }

  /// Ends the text: an unfinished scalar, if there is one, comes out as U+FFFD.
  public mutating func finish() -> String {
    defer { pending = [] }
    return String(decoding: UTF8Text.repaired(pending), as: UTF8.self)
  }
}
