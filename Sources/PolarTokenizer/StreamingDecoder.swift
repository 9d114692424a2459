/// Turns tokens into text as they come, without ever giving out half of a scalar: bytes that may still become
/// one are held back. All that it gives out, joined, equals `Tokenizer.decode` of the same ids; but where a
/// `tokenizer.json` falls back to bytes and the byte tokens are not UTF-8, it gives U+FFFD only for those that cannot be
/// part of a scalar, while `decode`, as Hugging Face `tokenizers`, gives one for each byte token of the run.
public struct StreamingDecoder: Sendable {
  private let tokenizer: Tokenizer
  private let skipsSpecialTokens: Bool
  private var assembler: TextAssembler

  /// - Parameter skipSpecialTokens: leave control tokens out.
  public init(tokenizer: Tokenizer, skipSpecialTokens: Bool = true) {
    self.tokenizer = tokenizer
    skipsSpecialTokens = skipSpecialTokens
    assembler = TextAssembler(tokenizer.decoding, holdsRuns: false)
  }

  /// Takes one more token; returns the text that is certain now, which may be empty.
  public mutating func append(_ id: Int32) -> String {
    var bytes: [UInt8] = []
    if skipsSpecialTokens, tokenizer.isSpecial(id) {
      assembler.skip(&bytes)
    } else {
      assembler.append(id, tokenizer.vocabulary, to: &bytes)
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Ends the text: an unfinished scalar, if there is one, comes out as U+FFFD.
  public mutating func finish() -> String {
    var bytes: [UInt8] = []
    assembler.finish(&bytes)
    assembler = TextAssembler(tokenizer.decoding, holdsRuns: false)
    return String(decoding: bytes, as: UTF8.self)
  }
}
