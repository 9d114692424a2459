public import Foundation
public import PolarCore
import Synchronization

/// A tokenizer: text to token ids and back, id for id as the library that the file is made for does it: Hugging Face
/// `tokenizers`, SentencePiece or tiktoken.
///
/// It is immutable and may be used from any number of threads at once.
public final class Tokenizer: Sendable {
  /// Everything a tokenizer file says, read and checked.
  struct Parts: Sendable {
    var vocabulary: Vocabulary
    var model: Model
    var preTokenizer: PreTokenizer
    var normalizer = Normalizer()
    var added: [AddedToken] = []
    /// Tokens that are found in normalised text as they are.
    var symbols: [AddedToken] = []
    /// The normalizer takes bytes that are not UTF-8.
    var normalizesAnyBytes = false
    var decoding = DecodingRules()
    /// Ids put before and after a text.
    var prefix: [Int32] = []
    var suffix: [Int32] = []
    var bosToken: Int32?
    var eosTokens: [Int32] = []
  }

  /// How words become tokens.
  enum Model: Sendable {
    case bytePairs(BytePairEncoder)
    case unigram(UnigramEncoder)
  }

  /// Scratch memories kept for later calls, at most.
  private static let keptScratches = 8

  let vocabulary: Vocabulary
  let decoding: DecodingRules
  private let model: Model
  private let normalizesAnyBytes: Bool
  private let preTokenizer: PreTokenizer
  private let normalizer: Normalizer
  private let rawMatcher: AddedTokenMatcher
  private let normalizedMatcher: AddedTokenMatcher
  private let specialTokens: Set<Int32>
  private let prefix: [Int32]
  private let suffix: [Int32]
  private let scratches = Mutex<[BytePairEncoder.Scratch]>([])

  /// The token that begins a text, where the file names one.
  public let bosToken: Int32?

  /// The tokens that end a text or a turn, where the file names or has them. A `tokenizer.json` does not say
  /// which they are: there, those special tokens count whose text is a known end mark (`</s>`, `<|im_end|>` ...).
  public let eosTokens: [Int32]

  init(_ parts: Parts) {
    vocabulary = parts.vocabulary
    model = parts.model
    decoding = parts.decoding
    normalizesAnyBytes = parts.normalizesAnyBytes
    preTokenizer = parts.preTokenizer
    normalizer = parts.normalizer
    rawMatcher = AddedTokenMatcher(parts.added.filter { !$0.isNormalized })
    normalizedMatcher = AddedTokenMatcher(
      parts.added.filter(\.isNormalized).map { token in
        var token = token
        token.content = parts.normalizer.apply(token.content)
        return token
      } + parts.symbols)
    specialTokens = Set(parts.added.filter(\.isSpecial).map(\.id))
    prefix = parts.prefix
    suffix = parts.suffix
    bosToken = parts.bosToken
    eosTokens = parts.eosTokens
  }

  /// One more than the highest token id; ids below it may be holes.
  public var vocabularySize: Int { vocabulary.upperBound }

  /// The id of a token by its spelling in the vocabulary file (`"Ġthe"`, `"<|im_end|>"`).
  public func id(of token: String) -> Int32? {
    vocabulary.id(of: Array(token.utf8)[...])
  }

  /// Whether a token is a control token, which `decode` leaves out by default.
  public func isSpecial(_ id: Int32) -> Bool { specialTokens.contains(id) }

  /// The bytes that a token stands for; empty for ids out of range and for holes.
  public func bytes(of id: Int32) -> [UInt8] { Array(vocabulary.bytes(of: id)) }

  // MARK: Encoding

  /// The token ids of a text.
  /// - Parameters:
  ///   - addSpecialTokens: put the file's begin (and end) tokens around the text.
  ///   - parseSpecialTokens: let special tokens that are spelled in the text, like `<|im_end|>`, become their ids; without
  ///     it they are ordinary text, as text from outside should be. Other added tokens become their ids in any case.
  public func encode(
    _ text: String, addSpecialTokens: Bool = true, parseSpecialTokens: Bool = true
  ) -> [Int32] {
    encode(Array(text.utf8), addSpecialTokens, parseSpecialTokens ? .everywhere : .nowhere)
  }

  /// The token ids of UTF-8 bytes; what is ill-formed counts as U+FFFD: one for each maximal subpart, as Python's
  /// `bytes.decode("utf-8", "replace")` has it, or with a SentencePiece model one for each byte.
  /// - Parameters:
  ///   - addSpecialTokens: put the file's begin (and end) tokens around the text.
  ///   - parseSpecialTokens: let special tokens that are spelled in the text become their ids.
  public func encode(
    bytes: some Collection<UInt8>, addSpecialTokens: Bool = true, parseSpecialTokens: Bool = true
  ) -> [Int32] {
    let text = normalizesAnyBytes ? Array(bytes) : UTF8Text.repaired(Array(bytes))
    return encode(text, addSpecialTokens, parseSpecialTokens ? .everywhere : .nowhere)
  }

  /// The ids of a text in which special tokens count where the rule says.
  func encode(
    _ text: [UInt8], _ addSpecialTokens: Bool, _ rule: AddedTokenMatcher.SpecialRule
  ) -> [Int32] {
    var scratch = scratches.withLock { $0.popLast() } ?? BytePairEncoder.Scratch()
    var output: [Int32] = addSpecialTokens ? prefix : []
    output.reserveCapacity(text.count / 4 + 8)
    for segment in rawMatcher.segments(of: text, rule) {
      if let token = segment.token {
        output.append(token)
        continue
      }
      let isFirst = segment.range.lowerBound == 0
      if normalizer.isIdentity, normalizedMatcher.isEmpty {
        encodeWords(text, segment.range, isFirst: isFirst, &output, &scratch)
        continue
      }
      let normalized = normalizer.apply(Array(text[segment.range]))
      // Places in normalised text are not those of the text: special tokens count in all of a segment or nowhere.
      let inner: AddedTokenMatcher.SpecialRule = rule.allows(segment.range) ? .everywhere : .nowhere
      for segment in normalizedMatcher.segments(of: normalized, inner) {
        if let token = segment.token {
          output.append(token)
        } else {
          encodeWords(
            normalized, segment.range, isFirst: isFirst && segment.range.lowerBound == 0, &output, &scratch)
        }
      }
    }
    if addSpecialTokens { output.append(contentsOf: suffix) }
    scratches.withLock { if $0.count < Self.keptScratches { $0.append(scratch) } }
    return output
  }

  private func encodeWords(
    _ text: [UInt8], _ range: Range<Int>, isFirst: Bool, _ output: inout [Int32],
    _ scratch: inout BytePairEncoder.Scratch
  ) {
    preTokenizer.forEachWord(in: text, range, isFirst: isFirst) { text, word in
      switch model {
      case .bytePairs(let encoder): encoder.encode(text, word, into: &output, scratch: &scratch)
      case .unigram(let encoder): encoder.encode(text, word, into: &output)
      }
    }
  }

  // MARK: Decoding

  /// The text of token ids. Bytes that are not UTF-8 become U+FFFD, as many as the library gives that the file is made
  /// for; ids out of range and holes count as nothing.
  /// - Parameter skipSpecialTokens: leave control tokens out.
  public func decode(_ ids: some Sequence<Int32>, skipSpecialTokens: Bool = true) -> String {
    var bytes: [UInt8] = []
    var assembler = TextAssembler(decoding, holdsRuns: true)
    for id in ids {
      if skipSpecialTokens, specialTokens.contains(id) {
        assembler.skip(&bytes)
      } else {
        assembler.append(id, vocabulary, to: &bytes)
      }
    }
    assembler.finish(&bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  // MARK: Files

  /// Reads a Hugging Face `tokenizer.json`. Its settings for truncation and padding are left aside.
  /// - Parameters:
  ///   - json: the file's content.
  ///   - path: named in errors.
  /// - Throws: `malformed` for a file that breaks the format, `unsupported` for a model, normalizer,
  ///   pre-tokenizer, pattern, post-processor or decoder other than those of the known families.
  public convenience init(json: Data, path: String) throws(PolarError) {
    self.init(try TokenizerJSON.read(Array(json), path: path))
  }

  /// Reads GPT-2's pair of files. A vocabulary with `</s>` and `<pad>` is taken for OPT's, where `</s>` begins
  /// every text and ends generation; with `<|endoftext|>` alone for GPT-2's, where it ends generation.
  /// - Parameters:
  ///   - vocabJSON: `vocab.json`, an object of spellings and ids.
  ///   - merges: `merges.txt`, one merge a line.
  ///   - path: named in errors.
  /// - Throws: `malformed` for content that breaks the format.
  public convenience init(vocabJSON: Data, merges: String, path: String) throws(PolarError) {
    self.init(try VocabularyFiles.read(vocabJSON: Array(vocabJSON), merges: merges, path: path))
  }

  /// Reads a `tokenizer.model`, which is either a SentencePiece model or a list of tiktoken ranks; its content says which.
  ///
  /// A SentencePiece model's control pieces in a text become their ids unless `parseSpecialTokens` is false, when
  /// ids are those that SentencePiece itself gives. Ranks are taken for Llama 3's, the family that publishes such files.
  /// - Parameters:
  ///   - model: the file's content.
  ///   - settings: what `tokenizer_config.json` says beside it.
  ///   - path: named in errors.
  /// - Throws: `malformed` for content that breaks the format, `unsupported` for a model of another kind.
  public convenience init(
    model: Data, settings: TokenizerSettings = TokenizerSettings(), path: String
  ) throws(PolarError) {
    let bytes = Array(model)
    if TiktokenRanks.isRanks(bytes) {
      self.init(try TiktokenRanks.read(bytes, settings: settings, path: path))
      return
    }
    var parts = try SentencePieceModel(bytes, path: path).parts(
      addsBegin: settings.addsBegin, addsEnd: settings.addsEnd ?? false)
    try settings.apply(to: &parts, path: path)
    self.init(parts)
  }

  /// Reads the tokenizer of a GGUF file's metadata.
  /// - Throws: `malformed` for lists that do not fit each other, `unsupported` for an unknown `model` or `pre`.
  public convenience init(gguf: GGUFVocabulary) throws(PolarError) {
    self.init(try gguf.read())
  }
}
