public import PolarCore
public import PolarFormats

/// The families that can run.
public enum ModelRegistry {
  /// Builds the model that `config` describes: reads every weight from `reader` into `backend`'s memory.
  ///
  /// Throws ``PolarError/configuration(field:reason:)`` when the family cannot be what the configuration says,
  /// ``PolarError/weight(name:reason:)`` when a tensor is missing, left over or of another shape, and
  /// ``PolarError/outOfMemory(what:bytes:)``.
  public static func make(
    config: ModelConfig, reader: WeightReader, backend: any Backend
  ) throws(PolarError) -> any CausalLM {
    switch config.architecture {
    case .llama, .qwen2: try Llama(config, reader, on: backend)
    case .opt: try OPT(config, reader, on: backend)
    }
  }
}
