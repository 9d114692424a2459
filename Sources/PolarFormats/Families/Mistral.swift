internal import PolarCore

extension ModelConfig.Architecture {
  /// Mistral 7B and its kin (Jiang et al. 2023): Llama's blocks, in which a query attends to the last `sliding_window`
  /// tokens only (all of them where that is `null`, as from version 0.2 on).
  public static let mistral: Self = Self(
    name: "mistral", modelTypes: ["mistral"], blocks: .llama, gguf: nil
  ) { fields throws(PolarError) in
    var config = try fields.llamaBlocks(.mistral, kvHeads: 8, context: 131_072)
    // transformers ignores the key in this family; a file that has it means another model.
    if fields.has("layer_types") {
      throw .unsupported(path: fields.path, what: "layer_types in model_type 'mistral'")
    }
    if let window = try fields.int("sliding_window", absent: 4096) {
      config.windows = Array(repeating: window, count: max(0, min(config.layers, 1024)))
    }
    return config
  }
}
