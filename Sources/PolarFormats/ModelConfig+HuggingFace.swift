public import PolarCore

#if canImport(FoundationEssentials)
  public import FoundationEssentials
#else
  public import Foundation
#endif

extension ModelConfig {
  /// Reads the `config.json` of a Hugging Face checkpoint of any family of ``Architecture/all``, and validates it.
  ///
  /// Keys that are absent take the defaults of transformers' configuration classes.
  /// - Parameter path: for messages.
  /// - Throws: ``PolarError/unsupported(path:what:)`` for other model types, activations, rotary scalings and
  ///   options that change the computation; ``PolarError/configuration(field:reason:)`` for impossible
  ///   values.
  public init(huggingFace json: Data, path: String) throws(PolarError) {
    // A typed error cannot pass through Data's closure, so it goes around it.
    let parsed = json.withUnsafeBytes { bytes -> Result<JSON, PolarError> in
      Result { () throws(PolarError) in try JSON.parse(bytes, path: path) }
    }
    try self.init(huggingFace: try parsed.get(), path: path)
  }

  init(huggingFace json: JSON, path: String) throws(PolarError) {
    guard let members = json.members else { throw .malformed(path: path, reason: "not a JSON object") }
    let fields = ConfigFields(members: members, path: path)
    guard let type = try fields.text("model_type") else {
      throw .configuration(field: "model_type", reason: "missing in \(path)")
    }
    guard let architecture = Architecture.all.first(where: { $0.modelTypes.contains(type) }) else {
      let known = Architecture.all.flatMap(\.modelTypes).joined(separator: ", ")
      throw .unsupported(path: path, what: "model_type '\(type.prefix(60))' (known: \(known))")
    }
    if fields.has("quantization_config") {
      throw .unsupported(path: path, what: "quantization_config")
    }
    self = try architecture.read(fields)
    try validate()
  }

  /// Token ids of `eos_token_id` in a `generation_config.json`, which may name more than the model's config.
  static func generationEOS(_ json: JSON, path: String) throws(PolarError) -> [Int32] {
    try ConfigFields(members: json.members ?? [:], path: path).tokens("eos_token_id")
  }
}
