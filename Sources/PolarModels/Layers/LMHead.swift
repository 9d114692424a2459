internal import PolarCore
internal import PolarFormats

/// Turns final hidden states into logits over the vocabulary.
struct LMHead: BitwiseCopyable, Sendable {
  /// `[vocabulary, dimension]`; the token embedding table itself where the two are tied.
  let table: PackedMatrix

  /// Loads `lm_head`, or takes `embedding` where the two are tied.
  init(
    _ loader: WeightLoader, tiedTo embedding: PackedMatrix, _ config: ModelConfig
  ) throws(PolarError) {
    table =
      config.tiedEmbeddings
      ? embedding
      : try loader.matrix(
        "lm_head.weight", outputs: config.vocabulary, inputs: embedding.inputs)
  }

  /// Logits f32 `[rows, vocabulary]` of hidden states `[rows, dimension]`, in `workspace`.
  func callAsFunction(
    _ hidden: Tensor, workspace: inout Workspace, on backend: any Backend
  ) -> Tensor {
    let logits = workspace.take(rows: hidden.rows, columns: table.outputs)
    if hidden.rows > 0 { backend.linear(logits, hidden, weight: table, bias: nil) }
    return logits
  }

  /// Bytes of the logits of `rows` rows.
  func workspaceByteCount(rows: Int) -> Int {
    Workspace.byteCount(rows: rows, columns: table.outputs)
  }
}
