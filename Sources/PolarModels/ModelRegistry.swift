public import PolarCore
public import PolarFormats

/// From a configuration to a model: which class computes the blocks of a family.
public enum ModelRegistry {
  /// Builds the model that `config` describes: reads every weight from `reader` into `backend`'s memory.
  ///
  /// - Parameter neuronSparse: Holds the weights of MLPs a second time, neuron by neuron in bf16 whatever the format of the
  ///   first copy, so that policies may choose neurons. ReLU models only; nil is all of those.
  /// - Throws: ``PolarError/configuration(field:reason:)`` when the configuration is not one that can run,
  ///   ``PolarError/weight(name:reason:)`` when a tensor is missing, left over or of another shape, and
  ///   ``PolarError/outOfMemory(what:bytes:)``.
  public static func make(
    config: ModelConfig, reader: WeightReader, backend: any Backend, neuronSparse: Bool? = nil
  ) throws(PolarError) -> any CausalLM {
    try config.validate()
    let neuronSparse = neuronSparse ?? (config.activation == .relu)
    guard !neuronSparse || config.activation == .relu else {
      throw .configuration(
        field: "activation", reason: "the neurons of \(config.activation.rawValue) are never zero")
    }
    switch config.architecture.blocks {
    case .llama: return try Llama(config, reader, on: backend, neuronSparse: neuronSparse)
    case .opt: return try OPT(config, reader, on: backend, neuronSparse: neuronSparse)
    }
  }

  /// Builds a model without a file, for measuring: `fill` is given the address and bytes of all weights' memory and fills it
  /// with what are sensible values as bf16 words and as f32.
  ///
  /// - Throws: ``PolarError/configuration(field:reason:)`` and ``PolarError/outOfMemory(what:bytes:)``.
  public static func makeRandom(
    config: ModelConfig, backend: any Backend, fill: (_ address: Address, _ byteCount: Int) -> Void
  ) throws(PolarError) -> any CausalLM {
    try config.validate()
    switch config.architecture.blocks {
    case .llama: return try Llama(config, filledBy: fill, on: backend)
    case .opt: return try OPT(config, filledBy: fill, on: backend)
    }
  }
}
