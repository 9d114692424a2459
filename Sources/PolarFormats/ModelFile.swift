#if canImport(FoundationEssentials)
  public import FoundationEssentials
#else
  public import Foundation
#endif
public import PolarCore

/// One tensor of a model under its Hugging Face name.
public struct TensorInfo: Sendable, Equatable {
  /// Like `model.layers.0.self_attn.q_proj.weight`.
  public let name: String
  /// Outermost dimension first.
  public let shape: [Int]
  /// The element or block type as stored, like `BF16` or `Q4_1`.
  public let dtype: String
  /// Bytes in the file.
  public let byteCount: Int
}

/// An opened model: its configuration and where its tensors lie. Weights are read through ``WeightReader``.
public final class ModelFile: Sendable {
  /// One tensor with the file that holds it.
  struct Stored: Sendable {
    var info: TensorInfo
    var file: MappedFile
    /// Bytes within `file`.
    var range: Range<Int>
    var order: GGUFNames.RowOrder
  }

  /// The validated configuration.
  public let config: ModelConfig
  /// All tensors, sorted by name.
  public let tensors: [TensorInfo]
  /// The container in words, like `GGUF v3` or `safetensors, 2 shards`.
  public let format: String
  /// The folder that holds the model.
  public let directory: URL
  /// `tokenizer.json` beside the weights, where there is one.
  public let tokenizerJSON: URL?
  /// The GGUF file with all of its metadata; nil for safetensors.
  public let gguf: GGUF?
  /// The chat template's source, from GGUF metadata, `chat_template.jinja` or `tokenizer_config.json`.
  public let chatTemplate: String?
  /// Tensors by name.
  let stored: [String: Stored]

  private init(
    config: ModelConfig, stored: [String: Stored], format: String, directory: URL, tokenizerJSON: URL? = nil,
    gguf: GGUF? = nil, chatTemplate: String?
  ) {
    self.config = config
    self.tensors = stored.values.map(\.info).sorted { $0.name < $1.name }
    self.format = format
    self.directory = directory
    self.tokenizerJSON = tokenizerJSON
    self.gguf = gguf
    self.chatTemplate = chatTemplate
    self.stored = stored
  }

  /// Opens a `.gguf` file, a `.safetensors` file beside its `config.json`, or a folder with `config.json` and
  /// `model.safetensors` or `model.safetensors.index.json`.
  /// - Throws: a ``PolarError`` that names the file and what is wrong with it.
  public static func open(_ url: URL) throws(PolarError) -> ModelFile {
    var isDirectory = false
    guard FileManager.default.fileExists(atPath: url.path, isDirectory: &isDirectory) else {
      throw .file(path: url.path, reason: "no such file or folder")
    }
    if isDirectory { return try openFolder(url) }
    switch url.pathExtension.lowercased() {
    case "gguf": return try openGGUF(url)
    case "safetensors":
      return try openSafetensors([url], index: nil, directory: url.deletingLastPathComponent())
    default:
      throw .unsupported(
        path: url.path, what: "file type (known: .gguf, .safetensors, or a folder with config.json)")
    }
  }

  private static func openGGUF(_ url: URL) throws(PolarError) -> ModelFile {
    let gguf = try GGUF(path: url.path)
    let config = try ModelConfig(gguf: gguf)
    var stored: [String: Stored] = [:]
    for tensor in gguf.tensors where tensor.name != GGUFNames.rotaryFactors {
      // A name that is not known stays as it is, and is reported as left over if nothing reads it.
      let name = GGUFNames.huggingFace(tensor.name) ?? tensor.name
      let info = TensorInfo(
        name: name, shape: tensor.shape, dtype: tensor.encoding.rawValue, byteCount: tensor.range.count)
      let entry = Stored(
        info: info, file: gguf.file, range: tensor.range, order: GGUFNames.rowOrder(tensor.name, config))
      guard stored.updateValue(entry, forKey: name) == nil else {
        throw .malformed(path: url.path, reason: "tensor '\(name)' twice")
      }
    }
    return ModelFile(
      config: config, stored: stored, format: "GGUF v\(gguf.version)",
      directory: url.deletingLastPathComponent(),
      gguf: gguf, chatTemplate: try gguf.string("tokenizer.chat_template"))
  }

  private static func openFolder(_ directory: URL) throws(PolarError) -> ModelFile {
    guard exists(directory, "config.json") != nil else {
      throw .file(path: directory.path, reason: "no config.json in this folder")
    }
    if let single = exists(directory, "model.safetensors") {
      return try openSafetensors([single], index: nil, directory: directory)
    }
    guard let indexURL = exists(directory, "model.safetensors.index.json") else {
      throw .file(
        path: directory.path,
        reason: "neither model.safetensors nor model.safetensors.index.json in this folder")
    }
    let index = try ShardIndex(path: indexURL.path)
    var shards: [URL] = []
    for name in index.shards {
      guard let shard = exists(directory, name) else {
        throw .file(path: directory.appendingPathComponent(name).path, reason: "this shard is missing")
      }
      shards.append(shard)
    }
    return try openSafetensors(shards, index: index, directory: directory)
  }

  private static func openSafetensors(
    _ urls: [URL], index: ShardIndex?, directory: URL
  ) throws(PolarError) -> ModelFile {
    guard let configURL = exists(directory, "config.json") else {
      throw .file(path: directory.path, reason: "no config.json in this folder")
    }
    var config = try ModelConfig(
      huggingFace: try JSON.parse(file: configURL.path, limit: 16 << 20), path: configURL.path)
    if let url = exists(directory, "generation_config.json") {
      let json = try JSON.parse(file: url.path, limit: 16 << 20)
      for token in try ModelConfig.generationEOS(json, path: url.path) where !config.eosTokens.contains(token)
      {
        config.eosTokens.append(token)
      }
      try config.validate()
    }
    var stored: [String: Stored] = [:]
    for url in urls {
      let shard = try Safetensors(path: url.path)
      try index?.check(shard, named: url.lastPathComponent)
      for (name, entry) in shard.tensors {
        let name = canonical(name, config)
        let info = TensorInfo(
          name: name, shape: entry.shape, dtype: entry.dtype, byteCount: entry.range.count)
        let tensor = Stored(info: info, file: shard.file, range: entry.range, order: .asStored)
        guard stored.updateValue(tensor, forKey: name) == nil else {
          throw .malformed(path: url.path, reason: "tensor '\(name)' is there twice")
        }
      }
    }
    return ModelFile(
      config: config, stored: stored,
      format: urls.count == 1 ? "safetensors" : "safetensors, \(urls.count) shards",
      directory: directory, tokenizerJSON: exists(directory, "tokenizer.json"),
      chatTemplate: try chatTemplate(directory))
  }

  /// OPT checkpoints come with the prefix `decoder.` or `model.decoder.`; the latter is the one used here.
  private static func canonical(_ name: String, _ config: ModelConfig) -> String {
    config.architecture == .opt && name.hasPrefix("decoder.") ? "model." + name : name
  }

  private static func exists(_ directory: URL, _ name: String) -> URL? {
    let url = directory.appendingPathComponent(name)
    return FileManager.default.fileExists(atPath: url.path) ? url : nil
  }

  private static func chatTemplate(_ directory: URL) throws(PolarError) -> String? {
    if let url = exists(directory, "chat_template.jinja") {
      let file = try MappedFile(path: url.path)
      return try file.string(0..<file.byteCount)
    }
    guard let url = exists(directory, "tokenizer_config.json") else { return nil }
    let template = try JSON.parse(file: url.path).members?["chat_template"]
    if let text = template?.text { return text }
    // Models with several templates list them by name.
    return template?.items?.first { $0.members?["name"]?.text == "default" }?.members?["template"]?.text
  }
}

/// `model.safetensors.index.json`: which shard holds which tensor.
struct ShardIndex {
  private let path: String
  private let shardOf: [String: String]
  /// File names of all shards, sorted.
  let shards: [String]

  init(path: String) throws(PolarError) {
    guard let map = try JSON.parse(file: path).members?["weight_map"]?.members, !map.isEmpty else {
      throw .malformed(path: path, reason: "no weight_map")
    }
    var shardOf: [String: String] = [:]
    for (tensor, value) in map {
      guard let shard = value.text else {
        throw .malformed(path: path, reason: "the shard of '\(tensor.prefix(120))' is not a name")
      }
      // A shard is a plain file name: an index must not reach outside of its folder.
      guard shard.hasSuffix(".safetensors"), !shard.hasPrefix("."), !shard.contains("/"),
        !shard.contains("\\"),
        !shard.unicodeScalars.contains("\0")
      else {
        throw .malformed(
          path: path, reason: "'\(shard.prefix(120))' is not the name of a shard in this folder")
      }
      shardOf[tensor] = shard
    }
    self.path = path
    self.shardOf = shardOf
    self.shards = Set(shardOf.values).sorted()
  }

  /// Checks that `shard` holds what the index says, no less and no more.
  func check(_ shard: Safetensors, named name: String) throws(PolarError) {
    for tensor in shard.tensors.keys.sorted() {
      guard let owner = shardOf[tensor] else {
        throw .malformed(path: path, reason: "tensor '\(tensor.prefix(120))' of \(name) is not in the index")
      }
      guard owner == name else {
        throw .malformed(path: path, reason: "tensor '\(tensor.prefix(120))' of \(owner) is also in \(name)")
      }
    }
    for (tensor, owner) in shardOf where owner == name && shard.tensors[tensor] == nil {
      throw .malformed(path: path, reason: "tensor '\(tensor.prefix(120))' is not in its shard \(name)")
    }
  }
}
