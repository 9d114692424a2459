import PolarCore

/// Reads tiktoken's list of ranks: a line for each token, its bytes in base 64 and its rank, which is its id. Special tokens
/// are not in the file; they and the pattern that cuts words are Llama 3's.
enum TiktokenRanks {
  /// How many special tokens follow the ranks.
  static let specialCount = 256

  /// Whether a file looks like a list of ranks: a first line of base 64, a space, and digits.
  static func isRanks(_ bytes: [UInt8]) -> Bool {
    let line = bytes.prefix(4096).prefix { $0 != 0x0A }
    let fields = line.split(separator: 0x20, omittingEmptySubsequences: false)
    guard fields.count == 2, base64(fields[0]) != nil else { return false }
    return number(fields[1]) != nil
  }

  /// The tokenizer of a list of ranks.
  static func read(_ bytes: [UInt8], settings: TokenizerSettings, path: String) throws(PolarError)
    -> Tokenizer.Parts
  {
    let lines = bytes.split(separator: 0x0A)
    guard lines.count <= Vocabulary.idLimit else {
      throw .unsupported(path: path, what: "a vocabulary of more than 2^24 tokens")
    }
    var vocabulary = Vocabulary(capacity: lines.count + specialCount, bytes: bytes.count)
    for (index, line) in lines.enumerated() {
      let fields = line.split(separator: 0x20, maxSplits: 1)
      guard fields.count == 2, let token = base64(fields[0]), !token.isEmpty, let rank = number(fields[1])
      else {
        throw .malformed(
          path: path, reason: "line \(index + 1) is not a token in base 64 and a rank below 2^24")
      }
      if let reason = vocabulary.insert(token, id: rank, text: token) {
        throw .malformed(path: path, reason: "line \(index + 1): \(reason)")
      }
      if token.count > SentencePieceModel.pieceLimit {
        throw .unsupported(
          path: path, what: "line \(index + 1): a token of \(token.count) bytes (at most 512)")
      }
    }
    let byteTokens = (0...UInt8.max).map { vocabulary.id(of: [$0]) ?? -1 }
    if let missing = byteTokens.firstIndex(of: -1) {
      throw .malformed(path: path, reason: "no token is the single byte \(missing)")
    }
    let encoder = BytePairEncoder(
      vocabulary: vocabulary, alphabet: .bytes(byteTokens), merges: merges(vocabulary), ignoresMerges: true)
    var parts = Tokenizer.Parts(
      vocabulary: vocabulary, model: .bytePairs(encoder),
      preTokenizer: PreTokenizer(stages: [.init(scanner: .caseless(maxDigits: 3))]))
    try addSpecialTokens(to: &parts, settings, path: path)
    return parts
  }

  /// Each two tokens that together are a token merge, the one of the lowest rank first.
  private static func merges(_ vocabulary: Vocabulary) -> MergeTable {
    var merges: [(left: Int32, right: Int32, id: Int32)] = []
    merges.reserveCapacity(vocabulary.count * 3)
    for id in 0..<Int32(vocabulary.upperBound) {
      let spelling = vocabulary.spelling(of: id)
      guard spelling.count >= 2 else { continue }
      for split in spelling.indices.dropFirst() {
        guard let left = vocabulary.id(of: spelling[..<split]),
          let right = vocabulary.id(of: spelling[split...])
        else { continue }
        merges.append((left, right, id))
      }
    }
    var table = MergeTable(capacity: merges.count)
    for merge in merges { table.set(merge.left, merge.right, rank: Int(merge.id), id: merge.id) }
    return table
  }

  private static func addSpecialTokens(
    to parts: inout Tokenizer.Parts, _ settings: TokenizerSettings, path: String
  ) throws(PolarError) {
    let first = parts.vocabulary.upperBound
    var tokens = settings.added.filter { Int($0.id) >= first }
    if tokens.isEmpty {
      tokens = specialTokens.enumerated().map {
        AddedToken(id: Int32(first + $0.offset), content: Array($0.element.utf8), isSpecial: true)
      }
    }
    for token in tokens {
      if let reason = parts.vocabulary.insert(token.content, id: token.id, text: token.content) {
        throw .malformed(path: path, reason: "special tokens: \(reason)")
      }
    }
    parts.added = tokens
    func id(_ name: String) -> Int32? { parts.vocabulary.id(of: Array(name.utf8)[...]) }
    parts.bosToken = id("<|begin_of_text|>")
    if let begin = parts.bosToken, settings.addsBegin ?? true { parts.prefix = [begin] }
    parts.eosTokens = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"].compactMap(id)
    if let end = parts.eosTokens.first, settings.addsEnd ?? false { parts.suffix = [end] }
    try settings.apply(to: &parts, path: path)
  }

  /// Llama 3's special tokens, in order from the first id after the ranks, with the names of 3.1.
  static let specialTokens: [String] = {
    let named = [
      0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
      7: "end_header_id",
      8: "eom_id", 9: "eot_id", 10: "python_tag",
    ]
    var reserved = 0
    return (0..<specialCount).map { index in
      if let name = named[index] { return "<|\(name)|>" }
      defer { reserved += 1 }
      return "<|reserved_special_token_\(reserved)|>"
    }
  }()

  private static func number(_ digits: ArraySlice<UInt8>) -> Int32? {
    var digits = digits
    while digits.last == 0x0D || digits.last == 0x20 { digits.removeLast() }
    guard !digits.isEmpty, digits.count <= 8 else { return nil }
    var value = 0
    for digit in digits {
      guard case UInt8(ascii: "0")...UInt8(ascii: "9") = digit else { return nil }
      value = value * 10 + Int(digit - UInt8(ascii: "0"))
    }
    return value < Vocabulary.idLimit ? Int32(value) : nil
  }

  /// The bytes of base-64 text (RFC 4648, section 4, with padding), or nil for other text.
  static func base64(_ text: ArraySlice<UInt8>) -> [UInt8]? {
    guard text.count % 4 == 0 else { return nil }
    let padding = text.reversed().prefix { $0 == UInt8(ascii: "=") }.count
    guard padding <= 2 else { return nil }
    var output: [UInt8] = []
    output.reserveCapacity(text.count / 4 * 3)
    var bits: UInt32 = 0
    var count = 0
    for byte in text.dropLast(padding) {
      let value = digits[Int(byte)]
      guard value < 64 else { return nil }
      bits = bits << 6 | UInt32(value)
      count += 1
      if count % 4 == 0 {
        output.append(UInt8(truncatingIfNeeded: bits >> 16))
        output.append(UInt8(truncatingIfNeeded: bits >> 8))
        output.append(UInt8(truncatingIfNeeded: bits))
      }
    }
    switch padding {
    case 1:
      output.append(UInt8(truncatingIfNeeded: bits >> 10))
      output.append(UInt8(truncatingIfNeeded: bits >> 2))
    case 2: output.append(UInt8(truncatingIfNeeded: bits >> 4))
    default: break
    }
    return output
  }

  /// The value of each base-64 digit, 255 for other bytes.
  private static let digits: [UInt8] = {
    var table = [UInt8](repeating: 255, count: 256)
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for (value, letter) in letters.utf8.enumerated() { table[Int(letter)] = UInt8(value) }
    return table
  }()
}
