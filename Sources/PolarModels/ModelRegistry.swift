public import PolarCore
public import PolarFormats

/// From a configuration to a model: which class computes the blocks of a family.
public enum ModelRegistry {
  /// Builds the model that `config` describes: reads every weight from `reader` into `backend`'s memory.
  ///
  /// - Throws: ``PolarError/configuration(field:reason:)`` when the configuration is not one that can run,
  ///   ``PolarError/weight(name:reason:)`` when a tensor is missing, left over or of another shape, and
  ///   ``PolarError/outOfMemory(what:bytes:)``.
  public static func make(
    config: ModelConfig, reader: WeightReader, backend: any Backend
  ) throws(PolarError) -> any CausalLM {
    try config.validate()
    switch config.architecture.blocks {
    case .llama: return try Llama(config, reader, on: backend)
    case .opt: return try OPT(config, reader, on: backend)
    }
  }
}
