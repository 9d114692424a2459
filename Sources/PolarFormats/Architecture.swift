internal import PolarCore

extension ModelConfig {
  /// A model family: how files name it, which blocks it is made of, and how its `config.json` reads.
  ///
  /// Each family is a constant in a file of its own in `Families`, and a member of ``all``. Two are equal when their
  /// names are.
  public struct Architecture: Sendable, Equatable {
    /// The computations that exist in PolarModels.
    public enum Blocks: Sendable {
      /// RMSNorm, rotary positions, grouped-query attention and a gated MLP, each norm before its part.
      case llama
      /// LayerNorm, learned positions, multi-head attention and an MLP without a gate.
      case opt
    }

    /// How llama.cpp's GGUF files hold the family.
    public struct GGUF: Sendable {
      /// The value of `general.architecture`.
      public let name: String
      /// Whether the converter interleaves the two halves of each head in q and k, for rotary embeddings of
      /// neighbouring pairs.
      public let interleavesRotaryRows: Bool
    }

    /// The name in messages and reports.
    public let name: String
    /// Values of `model_type` in a `config.json`.
    public let modelTypes: [String]
    /// What its layers compute.
    public let blocks: Blocks
    /// nil where llama.cpp has no architecture of its own for the family.
    public let gguf: GGUF?
    /// Makes a configuration of the fields of a `config.json`; the caller validates it.
    let read: @Sendable (ConfigFields) throws(PolarError) -> ModelConfig

    /// The families that can run.
    public static let all: [Architecture] = [.llama, .mistral, .qwen2, .qwen3, .opt]

    /// Whether the two are the same family.
    public static func == (one: Architecture, other: Architecture) -> Bool { one.name == other.name }
  }
}
