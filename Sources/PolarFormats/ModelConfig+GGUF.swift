public import PolarCore

extension ModelConfig {
  /// Reads the metadata of a GGUF file of an architecture that ``Architecture/all`` knows, and validates it.
  ///
  /// Biases, head norms and a separate output matrix are known by their tensors, rotary divisors by `rope_freqs.weight`.
  /// - Throws: ``PolarError/unsupported(path:what:)`` for other architectures, experts, partial rotary
  ///   embeddings and other rotary scalings; ``PolarError/configuration(field:reason:)`` for missing or
  ///   impossible values.
  public init(gguf: GGUF) throws(PolarError) {
    let path = gguf.file.path
    guard let name = try gguf.string("general.architecture") else {
      throw .configuration(field: "general.architecture", reason: "missing in \(path)")
    }
    guard let architecture = Architecture.all.first(where: { $0.gguf?.name == name }) else {
      let known = Architecture.all.compactMap(\.gguf?.name).joined(separator: ", ")
      throw .unsupported(path: path, what: "architecture '\(name.prefix(60))' (known in GGUF: \(known))")
    }
    let fields = GGUFFields(gguf: gguf, prefix: name)
    if try fields.int("expert_count") ?? 0 != 0 {
      throw .unsupported(path: path, what: "mixture of experts")
    }
    let shapes = Dictionary(gguf.tensors.map { ($0.name, $0.shape) }, uniquingKeysWith: { first, _ in first })

    let hidden = try fields.required("embedding_length")
    let heads = try fields.required("attention.head_count")
    var headDim = try fields.int("attention.key_length")
    if headDim == nil { headDim = try Self.derivedHeadDim(hidden: hidden, heads: heads) }
    let headWidth = headDim ?? 0
    if let valueLength = try fields.int("attention.value_length"), valueLength != headWidth {
      throw .unsupported(path: path, what: "values of \(valueLength) beside keys of \(headWidth) per head")
    }
    if let rotated = try fields.int("rope.dimension_count"), rotated != headWidth {
      throw .unsupported(path: path, what: "rotary embeddings on \(rotated) of \(headWidth) dimensions")
    }
    guard let epsilon = try fields.number("attention.layer_norm_rms_epsilon") else {
      throw .configuration(field: "\(name).attention.layer_norm_rms_epsilon", reason: "missing in \(path)")
    }
    guard let vocabulary = shapes["token_embd.weight"]?.first else {
      throw .weight(name: "token_embd.weight", reason: "missing in \(path)")
    }
    if case .array(let tokens) = gguf.metadata["tokenizer.ggml.tokens"], tokens.count > vocabulary {
      throw .configuration(
        field: "vocabulary", reason: "\(tokens.count) tokens for \(vocabulary) embeddings in \(path)")
    }
    var endings: [Int32] = []
    for key in ["eos_token_id", "eot_token_id"] {
      if let token = try fields.token(key), !endings.contains(token) { endings.append(token) }
    }
    let layers = try fields.required("block_count")
    self.init(
      architecture: architecture, hidden: hidden, layers: layers, heads: heads,
      kvHeads: try fields.int("attention.head_count_kv") ?? heads, headDim: headWidth,
      intermediate: try fields.required("feed_forward_length"), vocabulary: vocabulary,
      context: try fields.required("context_length"), normEpsilon: Float(epsilon), activation: .silu,
      ropeTheta: try fields.number("rope.freq_base") ?? 10000, ropeScaling: try fields.ropeScaling(),
      tiedEmbeddings: shapes["output.weight"] == nil, qkvBias: shapes["blk.0.attn_q.bias"] != nil,
      outputBias: shapes["blk.0.attn_output.bias"] != nil, mlpBias: shapes["blk.0.ffn_up.bias"] != nil,
      headNorms: shapes["blk.0.attn_q_norm.weight"] != nil, windows: try fields.windows(layers: layers),
      embeddingDim: hidden, bosToken: try fields.token("bos_token_id"), eosTokens: endings)
    try validate()
  }
}

/// The metadata of one architecture.
private struct GGUFFields {
  let gguf: GGUF
  let prefix: String

  /// A number, or an array that gives the same number for every layer.
  func int(_ key: String) throws(PolarError) -> Int? {
    let full = "\(prefix).\(key)"
    guard case .array = gguf.metadata[full] else { return try gguf.integer(full) }
    let values = Set(try gguf.integers(full) ?? [])
    guard let value = values.first, values.count == 1 else {
      throw .unsupported(path: gguf.file.path, what: "\(full) that differs by layer")
    }
    return Int(value)
  }

  func required(_ key: String) throws(PolarError) -> Int {
    guard let value = try int(key) else {
      throw .configuration(field: "\(prefix).\(key)", reason: "missing in \(gguf.file.path)")
    }
    return value
  }

  func number(_ key: String) throws(PolarError) -> Double? { try gguf.number("\(prefix).\(key)") }

  func token(_ key: String) throws(PolarError) -> Int32? {
    guard let id = try gguf.integer("tokenizer.ggml.\(key)") else { return nil }
    guard let token = Int32(exactly: id) else {
      throw .configuration(field: key, reason: "\(id) is not a token id in \(gguf.file.path)")
    }
    return token
  }

  /// `attention.sliding_window` in every layer; 0 and an absent key mean none.
  func windows(layers: Int) throws(PolarError) -> [Int?] {
    guard let window = try int("attention.sliding_window"), window != 0 else { return [] }
    if gguf.metadata["\(prefix).attention.sliding_window_pattern"] != nil {
      throw .unsupported(path: gguf.file.path, what: "sliding windows in some of the layers")
    }
    return Array(repeating: window, count: max(0, min(layers, 1024)))
  }

  func ropeScaling() throws(PolarError) -> ModelConfig.RopeScaling {
    if let factors = gguf.tensors.first(where: { $0.name == GGUFNames.rotaryFactors }) {
      guard factors.encoding == .f32, factors.shape.count == 1 else {
        throw .unsupported(
          path: gguf.file.path, what: "\(GGUFNames.rotaryFactors) that is not one row of F32")
      }
      return .factors(
        try gguf.file.withBytes(factors.range) { bytes in
          (0..<factors.shape[0]).map { index in
            let bits = bytes.loadUnaligned(fromByteOffset: 4 * index, as: UInt32.self)
            return Double(Float(bitPattern: UInt32(littleEndian: bits)))
          }
        })
    }
    var factor = try number("rope.scaling.factor")
    if factor == nil { factor = try number("rope.scale_linear") }
    switch try gguf.string("\(prefix).rope.scaling.type") {
    case nil, "linear": return factor.map { $0 == 1 ? .none : .linear(factor: $0) } ?? .none
    case "none": return .none
    case .some(let type): throw .unsupported(path: gguf.file.path, what: "rope type '\(type.prefix(60))'")
    }
  }
}
