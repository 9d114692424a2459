import PolarCore

/// Builds a vocabulary with its merges; the steps that all file formats share.
struct VocabularyBuilder {
  let path: String
  var vocabulary: Vocabulary

  /// End marks of the known families.
  static let endMarks = [
    "</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<|end|>",
    "<end_of_turn>", "<eos>",
  ]

  /// The vocabulary of an object of spellings and ids.
  /// - Parameter text: the bytes that a spelling stands for; nil for the byte alphabet.
  init(
    _ view: JSONView, text: (_ spelling: [UInt8]) -> [UInt8]? = { _ in nil }
  ) throws(PolarError) {
    let members = try view.members()
    path = view.path
    vocabulary = Vocabulary(capacity: members.count, bytes: members.reduce(0) { $0 + Int($1.key.count) })
    for member in members {
      let spelling = Array(view.document.bytes(member.key))
      guard let id = Vocabulary.tokenID(member.value) else {
        let name = String(decoding: spelling, as: UTF8.self)
        throw view.malformed("the id of '\(name)' is not a whole number below 2^24")
      }
      try insert(spelling, id: id, text: text(spelling))
    }
    try checkNotEmpty()
  }

  /// The vocabulary of a list of spellings.
  /// - Parameter text: the bytes that the token of an id stands for; nil for the byte alphabet.
  init(
    _ tokens: [[UInt8]], path: String, text: (_ id: Int, _ spelling: [UInt8]) -> [UInt8]?
  ) throws(PolarError) {
    guard tokens.count <= Vocabulary.idLimit else {
      throw .unsupported(path: path, what: "a vocabulary of more than 2^24 tokens")
    }
    self.path = path
    vocabulary = Vocabulary(capacity: tokens.count, bytes: tokens.reduce(0) { $0 + $1.count })
    for (id, token) in tokens.enumerated() {
      try insert(token, id: Int32(id), text: text(id, token))
    }
    try checkNotEmpty()
  }

  private func checkNotEmpty() throws(PolarError) {
    if vocabulary.count == 0 { throw .malformed(path: path, reason: "the vocabulary is empty") }
  }

  /// Adds a token.
  mutating func insert(_ spelling: [UInt8], id: Int32, text: [UInt8]? = nil) throws(PolarError) {
    if let reason = vocabulary.insert(spelling, id: id, text: text) {
      throw .malformed(path: path, reason: "vocabulary: \(reason)")
    }
  }

  /// The table of `count` merges; `pair` gives the spellings of each, or nil where it is not a pair.
  func merges(
    count: Int, pair: (Int) throws(PolarError) -> (ArraySlice<UInt8>, ArraySlice<UInt8>)?
  ) throws(PolarError) -> MergeTable {
    var table = MergeTable(capacity: count)
    for rank in 0..<count {
      guard let (left, right) = try pair(rank), !left.isEmpty, !right.isEmpty else {
        throw .malformed(path: path, reason: "merge \(rank) is not a pair of tokens")
      }
      let ids = (
        try id(of: left, merge: rank), try id(of: right, merge: rank), try id(of: left + right, merge: rank)
      )
      table.set(ids.0, ids.1, rank: rank, id: ids.2)
    }
    return table
  }

  private func id(of spelling: ArraySlice<UInt8>, merge rank: Int) throws(PolarError) -> Int32 {
    guard let id = vocabulary.id(of: spelling) else {
      let name = String(decoding: spelling, as: UTF8.self)
      throw .malformed(path: path, reason: "merge \(rank) needs the token '\(name)', which is not there")
    }
    return id
  }

  /// The two halves of a merge that is written "left right".
  static func halves(_ line: ArraySlice<UInt8>) -> (ArraySlice<UInt8>, ArraySlice<UInt8>)? {
    guard let space = line.firstIndex(of: 0x20) else { return nil }
    let right = line[(space + 1)...]
    return right.contains(0x20) ? nil : (line[..<space], right)
  }
}

/// GPT-2's pair of files.
enum VocabularyFiles {
  static func read(vocabJSON: [UInt8], merges: String, path: String) throws(PolarError) -> Tokenizer.Parts {
    let view = JSONView(try JSONDocument(vocabJSON, path: path), path: path)
    let builder = try VocabularyBuilder(view)
    let lines = Array(merges.utf8).split(separator: 0x0A).map { $0.last == 0x0D ? $0.dropLast() : $0 }
      .filter { !$0.isEmpty && !$0.starts(with: "#version".utf8) }
    let table = try builder.merges(count: lines.count) { VocabularyBuilder.halves(lines[$0]) }
    let encoder = BytePairEncoder(
      vocabulary: builder.vocabulary,
      alphabet: .spelledBytes(ByteAlphabet.spellings.map { builder.vocabulary.id(of: $0[...]) ?? -1 }),
      merges: table)
    var parts = Tokenizer.Parts(
      vocabulary: builder.vocabulary, model: .bytePairs(encoder),
      preTokenizer: PreTokenizer(stages: [.init(scanner: .gpt2)]))
    func add(_ token: String) -> Int32? {
      guard let id = builder.vocabulary.id(of: Array(token.utf8)[...]) else { return nil }
      parts.added.append(AddedToken(id: id, content: Array(token.utf8), isSpecial: true))
      return id
    }
    if builder.vocabulary.id(of: Array("<pad>".utf8)[...]) != nil, let end = add("</s>") {
      _ = add("<pad>")
      parts.bosToken = end
      parts.prefix = [end]
      parts.eosTokens = [end]
    } else if let end = add("<|endoftext|>") {
      parts.bosToken = end
      parts.eosTokens = [end]
    }
    return parts
  }
}
