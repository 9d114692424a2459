public import Foundation
public import PolarCore
public import PolarFormats
public import PolarModels
public import PolarSparsity
public import PolarTokenizer

/// A model that is ready to run, with what belongs to it.
public struct LoadedModel: Sendable {
  /// What its file says of itself.
  public struct FileInfo: Sendable {
    /// Where it was loaded from.
    public let url: URL
    /// The container, like `GGUF v3` or `safetensors, 2 shards`.
    public let format: String
    /// Its tensors, by name.
    public let tensors: [TensorInfo]
    /// Bytes of all tensors in the file.
    public var byteCount: Int { tensors.reduce(0) { $0 + $1.byteCount } }
  }

  /// The network.
  public let model: any CausalLM
  /// Its tokenizer, whose ids are all in the model's vocabulary.
  public let tokenizer: Tokenizer
  /// Source of the chat template, where there is one.
  public let chatTemplate: String?
  /// Texts of the tokens that a chat template may name: `bos_token`, `eos_token` ...
  public let specialTexts: [String: String]
  /// The file.
  public let file: FileInfo
  /// The digest of the weights that sparsity profiles are bound to (see ``ModelFile/fingerprint()``).
  public let fingerprint: String

  /// Tokens that end a generation: those the model's configuration names and those the tokenizer knows.
  public var endTokens: Set<Int32> { Set(model.config.eosTokens).union(tokenizer.eosTokens) }

  /// How messages become the model's input: by its own template, or as plain turns where it has none.
  /// - Throws: ``PolarError`` with the line of a template that cannot be read.
  public func chatFormat() throws(PolarError) -> ChatFormat {
    try ChatFormat(template: chatTemplate, specialTokens: specialTexts, path: file.url.path)
  }
}

/// Opens model files.
public enum ModelLoader {
  /// Loads a GGUF file, a safetensors file or a Hugging Face folder into `backend`'s memory, with its tokenizer.
  ///
  /// The tokenizer comes first, so that what is wrong with it shows before the weights are read.
  /// - Parameters:
  ///   - precision: How wide weights are in memory; a backend that lacks a format has bf16 instead.
  ///   - neuronSparse: Whether policies may choose neurons; nil: if the model allows it (see ``ModelRegistry``).
  /// - Throws: A ``PolarError`` that names the file and what is wrong with it.
  public static func load(
    from url: URL, precision: WeightPrecision = .stored, on backend: any Backend,
    neuronSparse: Bool? = nil
  ) throws(PolarError) -> LoadedModel {
    let file = try ModelFile.open(url)
    let tokenizer = try tokenizer(of: file, at: url)
    try check(tokenizer, fits: file.config, path: url.path)
    // A GPU refuses to allocate what it lacks; the system would end the process while it fills its memory.
    if backend.availableMemory == nil, let available = KVBudget.availableMemory() {
      try checkMemory(file, precision: precision, available: available + KVBudget.freeSwap())
    }
    let model = try ModelRegistry.make(
      config: file.config, reader: try WeightReader(file, precision: precision),
      backend: backend, neuronSparse: neuronSparse)
    return LoadedModel(
      model: model, tokenizer: tokenizer, chatTemplate: file.chatTemplate,
      specialTexts: try specialTexts(of: tokenizer, file),
      file: .init(url: url, format: file.format, tensors: file.tensors),
      fingerprint: try file.fingerprint())
  }

  /// The tokenizer of an opened model: from GGUF metadata, or from the first of these beside the weights:
  /// `tokenizer.json`, `tokenizer.model` (SentencePiece or tiktoken ranks), `vocab.json` with `merges.txt`.
  /// - Throws: A ``PolarError`` that names the file and what is wrong with it.
  public static func tokenizer(of file: ModelFile, at url: URL) throws(PolarError) -> Tokenizer {
    if let gguf = file.gguf {
      let vocabulary = try gguf.vocabulary()
      var metadata = GGUFVocabulary(
        tokens: vocabulary.tokens, types: vocabulary.tokenTypes, merges: vocabulary.merges,
        pre: vocabulary.pre ?? "", bosToken: vocabulary.bos, eosToken: vocabulary.eos,
        addBOS: vocabulary.addBOS, path: url.path)
      metadata.model = vocabulary.model
      metadata.scores = vocabulary.scores
      metadata.addsSpacePrefix = vocabulary.addSpacePrefix
      return try Tokenizer(gguf: metadata)
    }
    return try tokenizer(in: file.directory)
  }

  /// The tokenizer of a folder in Hugging Face layout.
  /// - Throws: A ``PolarError`` that names the file and what is wrong with it.
  public static func tokenizer(in directory: URL) throws(PolarError) -> Tokenizer {
    func existing(_ name: String) -> URL? {
      let url = directory.appendingPathComponent(name)
      return FileManager.default.fileExists(atPath: url.path) ? url : nil
    }
    if let json = existing("tokenizer.json") {
      return try Tokenizer(json: try read(json), path: json.path)
    }
    if let model = existing("tokenizer.model") {
      let settings = try settings(in: directory)
      return try Tokenizer(model: try read(model), settings: settings, path: model.path)
    }
    guard let vocabulary = existing("vocab.json"), let merges = existing("merges.txt") else {
      throw .file(
        path: directory.path,
        reason: "none of tokenizer.json, tokenizer.model, or vocab.json with merges.txt in this folder")
    }
    return try Tokenizer(
      vocabJSON: try read(vocabulary), merges: String(decoding: try read(merges), as: UTF8.self),
      path: vocabulary.path)
  }

  /// What `tokenizer_config.json` of a folder says; nothing where there is none.
  private static func settings(in directory: URL) throws(PolarError) -> TokenizerSettings {
    let config = directory.appendingPathComponent("tokenizer_config.json")
    guard FileManager.default.fileExists(atPath: config.path) else { return TokenizerSettings() }
    return try TokenizerSettings(json: try read(config), path: config.path)
  }

  /// The texts of special tokens as the folder's settings have them, else as the tokenizer has them.
  private static func specialTexts(of tokenizer: Tokenizer, _ file: ModelFile) throws(PolarError) -> [String:
    String]
  {
    func text(_ id: Int32?) -> String? { id.map { String(decoding: tokenizer.bytes(of: $0), as: UTF8.self) } }
    var texts: [String: String] = [:]
    texts["bos_token"] = text(tokenizer.bosToken)
    texts["eos_token"] = text(tokenizer.eosTokens.first)
    if file.gguf == nil, file.chatTemplate != nil {
      texts.merge(try settings(in: file.directory).specialTexts) { $1 }
    }
    return texts
  }

  /// Refuses a tokenizer that can make ids the model has no embedding for.
  static func check(
    _ tokenizer: Tokenizer, fits config: ModelConfig, path: String
  ) throws(PolarError) {
    guard tokenizer.vocabularySize <= config.vocabulary else {
      throw .malformed(
        path: path,
        reason: "the vocabulary of the model (\(config.vocabulary)) is smaller than an id of its "
          + "tokenizer (\(tokenizer.vocabularySize - 1))")
    }
  }

  /// Refuses a model whose weights `available` bytes of this machine's memory and swap cannot hold.
  static func checkMemory(
    _ file: ModelFile, precision: WeightPrecision, available: Int
  ) throws(PolarError) {
    // The least that they can take: scales left aside, f32 rounded to 16 bits.
    let bits: Int? =
      switch precision {
      case .stored: nil
      case .bf16, .f16: 16
      case .int8: 8
      case .q4: 4
      }
    var least = 0
    for tensor in file.tensors where !(file.config.tiedEmbeddings && tensor.name == "lm_head.weight") {
      let values = tensor.shape.reduce(1, *)
      least += bits.map { values * $0 / 8 } ?? min(tensor.byteCount, values * 2)
    }
    guard least <= available else {
      throw .outOfMemory(
        what: "the model (--weights int8 and q4 are smaller than bf16), with \(available) bytes free,",
        bytes: least)
    }
  }

  private static func read(_ url: URL) throws(PolarError) -> Data {
    do {
      return try Data(contentsOf: url, options: .mappedIfSafe)
    } catch {
      throw .file(path: url.path, reason: "cannot be read")
    }
  }
}

extension StreamingDecoder: TokenTextStream {}

extension Engine {
  /// An engine for a loaded model: its end tokens, and text by its tokenizer (special tokens left out).
  ///
  /// - Parameters:
  ///   - loaded: The model that `runner` runs.
  ///   - runner: The engine owns it from now on.
  ///   - policy: What decode steps compute.
  ///   - rowsPerStep: The most rows of a step; all of the runner's if nil.
  public init(
    _ loaded: LoadedModel, runner: sending ModelRunner, policy: any SparsityPolicy = DensePolicy(),
    rowsPerStep: Int? = nil
  ) throws(PolarError) {
    let tokenizer = loaded.tokenizer
    try self.init(
      runner: runner, policy: policy, rowsPerStep: rowsPerStep, endTokens: loaded.endTokens,
      text: { StreamingDecoder(tokenizer: tokenizer, skipSpecialTokens: true) })
  }
}
