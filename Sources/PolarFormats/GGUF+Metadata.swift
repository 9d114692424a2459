public import PolarCore

/// Typed access to metadata: nil where a key is missing, an error where it is of another type.
extension GGUF {
  private func mismatch(_ key: String, _ wanted: String) -> PolarError {
    .malformed(path: file.path, reason: "metadata '\(key)' is not \(wanted)")
  }

  /// An integer of any width.
  public func integer(_ key: String) throws(PolarError) -> Int? {
    switch metadata[key] {
    case nil: return nil
    case .unsigned(let value):
      guard let result = Int(exactly: value) else { throw mismatch(key, "an integer in range") }
      return result
    case .signed(let value): return Int(value)
    default: throw mismatch(key, "an integer")
    }
  }

  /// A finite number; integers count.
  public func number(_ key: String) throws(PolarError) -> Double? {
    switch metadata[key] {
    case nil: return nil
    case .unsigned(let value): return Double(value)
    case .signed(let value): return Double(value)
    case .float(let value):
      guard value.isFinite else { throw mismatch(key, "a finite number") }
      return value
    default: throw mismatch(key, "a number")
    }
  }

  /// A boolean.
  public func flag(_ key: String) throws(PolarError) -> Bool? {
    switch metadata[key] {
    case nil: return nil
    case .bool(let value): return value
    default: throw mismatch(key, "a boolean")
    }
  }

  /// A string.
  public func string(_ key: String) throws(PolarError) -> String? {
    switch metadata[key] {
    case nil: return nil
    case .string(let value): return value
    default: throw mismatch(key, "a string")
    }
  }

  private func array(_ key: String) throws(PolarError) -> GGUFArray? {
    switch metadata[key] {
    case nil: return nil
    case .array(let array): return array
    default: throw mismatch(key, "an array")
    }
  }

  /// An array of strings, decoded from the file.
  public func strings(_ key: String) throws(PolarError) -> [String]? {
    guard let array = try array(key) else { return nil }
    guard array.type == .string else { throw mismatch(key, "an array of strings") }
    return try file.withBytes(array.range) { bytes throws(PolarError) in
      var result: [String] = []
      result.reserveCapacity(array.count)
      var offset = 0
      for index in 0..<array.count {
        // Lengths were checked when the file was opened.
        let length = Int(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
        offset += 8
        let units = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + length])
        guard let text = String(validating: units, as: UTF8.self) else {
          throw .malformed(path: file.path, reason: "item \(index) of metadata '\(key)' is not UTF-8")
        }
        result.append(text)
        offset += length
      }
      return result
    }
  }

  /// An array of integers that fit 32 bits.
  public func integers(_ key: String) throws(PolarError) -> [Int32]? {
    guard let array = try array(key) else { return nil }
    return try file.withBytes(array.range) { bytes throws(PolarError) in
      var result: [Int32] = []
      result.reserveCapacity(array.count)
      for index in 0..<array.count {
        let value: Int32? =
          switch array.type {
          case .uint8: Int32(bytes[index])
          case .int8: Int32(Int8(bitPattern: bytes[index]))
          case .uint16: Int32(item(bytes, index, UInt16.self))
          case .int16: Int32(item(bytes, index, Int16.self))
          case .uint32: Int32(exactly: item(bytes, index, UInt32.self))
          case .int32: item(bytes, index, Int32.self)
          case .uint64: Int32(exactly: item(bytes, index, UInt64.self))
          case .int64: Int32(exactly: item(bytes, index, Int64.self))
          case .float32, .float64, .bool, .string, .array: nil
          }
        guard let value else { throw mismatch(key, "an array of 32-bit integers") }
        result.append(value)
      }
      return result
    }
  }

  /// An array of 32-bit floats.
  public func floats(_ key: String) throws(PolarError) -> [Float]? {
    guard let array = try array(key) else { return nil }
    guard array.type == .float32 else { throw mismatch(key, "an array of floats") }
    return try file.withBytes(array.range) { bytes in
      (0..<array.count).map { Float(bitPattern: item(bytes, $0, UInt32.self)) }
    }
  }

  private func item<T: FixedWidthInteger & BitwiseCopyable>(
    _ bytes: UnsafeRawBufferPointer, _ index: Int, _ type: T.Type
  ) -> T {
    T(littleEndian: bytes.loadUnaligned(fromByteOffset: index * MemoryLayout<T>.size, as: T.self))
  }

  /// What the file says of its tokenizer.
  public struct Vocabulary: Sendable, Equatable {
    /// `gpt2` is byte-level BPE, `llama` is SentencePiece.
    public var model: String
    /// The name of the pre-tokenizer, like `smollm` or `qwen2`.
    public var pre: String?
    /// Text of each id.
    public var tokens: [String]
    /// BPE merges in order of rank, the two parts separated by one space.
    public var merges: [String]
    /// Unigram scores by id; empty for BPE.
    public var scores: [Float]
    /// By id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    public var tokenTypes: [Int32]
    /// Begins a text.
    public var bos: Int32?
    /// Ends a text.
    public var eos: Int32?
    /// Stands for what has no token.
    public var unknown: Int32?
    /// Whether `bos` is put before every text.
    public var addBOS: Bool?
    /// Whether SentencePiece puts a space before the text.
    public var addSpacePrefix: Bool?
  }

  /// Decodes the tokenizer's metadata.
  /// - Throws: ``PolarError/malformed(path:reason:)`` when tokens are missing, a list has another length
  ///   than the tokens, or a special id lies outside the vocabulary.
  public func vocabulary() throws(PolarError) -> Vocabulary {
    let prefix = "tokenizer.ggml."
    guard let model = try string(prefix + "model"), let tokens = try strings(prefix + "tokens") else {
      throw .malformed(path: file.path, reason: "no tokenizer in the metadata")
    }
    func special(_ key: String) throws(PolarError) -> Int32? {
      guard let id = try integer(prefix + key) else { return nil }
      guard tokens.indices.contains(id) else {
        throw .malformed(path: file.path, reason: "\(prefix)\(key) is \(id), of \(tokens.count) tokens")
      }
      return Int32(id)
    }
    let scores = try floats(prefix + "scores") ?? []
    let types = try integers(prefix + "token_type") ?? []
    guard [0, tokens.count].contains(scores.count), [0, tokens.count].contains(types.count) else {
      throw .malformed(
        path: file.path, reason: "token scores or types are not as many as the \(tokens.count) tokens")
    }
    return Vocabulary(
      model: model, pre: try string(prefix + "pre"), tokens: tokens,
      merges: try strings(prefix + "merges") ?? [],
      scores: scores, tokenTypes: types, bos: try special("bos_token_id"), eos: try special("eos_token_id"),
      unknown: try special("unknown_token_id"), addBOS: try flag(prefix + "add_bos_token"),
      addSpacePrefix: try flag(prefix + "add_space_prefix"))
  }
}
