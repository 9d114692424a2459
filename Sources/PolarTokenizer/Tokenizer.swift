public import Foundation
public import PolarCore
import Synchronization

/// A byte-level byte-pair tokenizer: text to token ids and back, id for id as Hugging Face `tokenizers` does it.
///
/// It is immutable and may be used from any number of threads at once.
public final class Tokenizer: Sendable {
  /// Everything a tokenizer file says, read and checked.
  struct Parts: Sendable {
    var vocabulary: Vocabulary
    var merges: MergeTable
    var preTokenizer: PreTokenizer
    var normalizer = Normalizer.none
    var added: [AddedToken] = []
    var unknownToken: Int32?
    var fusesUnknown = false
    var ignoresMerges = false
    /// Ids put before and after a text.
    var prefix: [Int32] = []
    var suffix: [Int32] = []
    var bosToken: Int32?
    var eosTokens: [Int32] = []
  }

  /// Scratch memories kept for later calls, at most.
  private static let keptScratches = 8

  private let vocabulary: Vocabulary
  private let encoder: BytePairEncoder
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
    encoder = BytePairEncoder(
      byteTokens: ByteAlphabet.spellings.map { parts.vocabulary.id(of: $0[...]) ?? -1 },
      merges: parts.merges, unknownToken: parts.unknownToken, fusesUnknown: parts.fusesUnknown,
      ignoresMerges: parts.ignoresMerges, vocabulary: parts.vocabulary)
    preTokenizer = parts.preTokenizer
    normalizer = parts.normalizer
    rawMatcher = AddedTokenMatcher(parts.added.filter { !$0.isNormalized })
    normalizedMatcher = AddedTokenMatcher(
      parts.added.filter(\.isNormalized).map { token in
        var token = token
        token.content = parts.normalizer.apply(token.content)
        return token
      })
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

  /// The token ids of a text. Added tokens in the text, special ones too, become their ids.
  /// - Parameter addSpecialTokens: put the file's begin (and end) tokens around the text.
  public func encode(_ text: String, addSpecialTokens: Bool = true) -> [Int32] {
    encode(wellFormed: Array(text.utf8), addSpecialTokens)
  }

  /// The token ids of UTF-8 bytes; what is ill-formed counts as U+FFFD, one for each maximal subpart, as
  /// Python's `bytes.decode("utf-8", "replace")` has it.
  /// - Parameter addSpecialTokens: put the file's begin (and end) tokens around the text.
  public func encode(bytes: some Collection<UInt8>, addSpecialTokens: Bool = true) -> [Int32] {
    encode(wellFormed: UTF8Text.repaired(Array(bytes)), addSpecialTokens)
  }

  private func encode(wellFormed text: [UInt8], _ addSpecialTokens: Bool) -> [Int32] {
    var scratch = scratches.withLock { $0.popLast() } ?? BytePairEncoder.Scratch()
    var output: [Int32] = addSpecialTokens ? prefix : []
    output.reserveCapacity(text.count / 4 + 8)
    for segment in rawMatcher.segments(of: text) {
      if let token = segment.token {
        output.append(token)
      } else if normalizer == .none, normalizedMatcher.isEmpty {
        encodeWords(text, segment.range, &output, &scratch)
      } else {
        let normalized = normalizer.apply(Array(text[segment.range]))
        for segment in normalizedMatcher.segments(of: normalized) {
          if let token = segment.token {
            output.append(token)
          } else {
            encodeWords(normalized, segment.range, &output, &scratch)
          }
        }
      }
    }
    if addSpecialTokens { output.append(contentsOf: suffix) }
    scratches.withLock { if $0.count < Self.keptScratches { $0.append(scratch) } }
    return output
  }

  private func encodeWords(
    _ text: [UInt8], _ range: Range<Int>, _ output: inout [Int32], _ scratch: inout BytePairEncoder.Scratch
  ) {
    preTokenizer.forEachWord(in: text, range) { text, word in
      encoder.encode(text, word, into: &output, scratch: &scratch)
    }
  }

  // MARK: Decoding

  /// The text of token ids. Bytes that are not UTF-8 become U+FFFD, one for each maximal subpart; ids out of range
  /// and holes count as nothing.
  /// - Parameter skipSpecialTokens: leave control tokens out.
  public func decode(_ ids: some Sequence<Int32>, skipSpecialTokens: Bool = true) -> String {
    var bytes: [UInt8] = []
    for id in ids where !(skipSpecialTokens && specialTokens.contains(id)) {
      bytes.append(contentsOf: vocabulary.bytes(of: id))
    }
    return String(decoding: UTF8Text.repaired(bytes), as: UTF8.self)
  }

  // MARK: Files

  /// Reads a Hugging Face `tokenizer.json`. Its settings for truncation and padding are left aside.
  /// - Parameters:
  ///   - json: the file's content.
  ///   - path: named in errors.
  /// - Throws: `malformed` for a file that breaks the format, `unsupported` for a model, normalizer,
  ///   pre-tokenizer, pattern, post-processor or decoder other than those of byte-level BPE families.
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

  /// Reads the tokenizer of a GGUF file's metadata (`tokenizer.ggml.model` must be `gpt2`; the caller checks).
  /// - Throws: `malformed` for lists that do not fit each other, `unsupported` for an unknown `pre`.
  public convenience init(gguf: GGUFVocabulary) throws(PolarError) {
    self.init(try gguf.read())
  }
}
