internal import PolarCore
internal import PolarFormats
internal import PolarSparsity

/// Llama, Mistral, Qwen2 and Qwen3: pre-norm blocks with RMSNorm, rotary positions, grouped-query attention and a gated
/// MLP (Touvron et al. 2023). The families differ in what their configurations say: biases, norms on q and k, windows,
/// the scaling of frequencies, the activation.
final class Llama: CausalLM {
  let config: ModelConfig
  private let weights: Weights
  private let parts: Parts

  private struct Block: Sendable {
    let attentionNorm: RMSNorm
    let attention: Attention
    let mlpNorm: RMSNorm
    let mlp: MLP
  }

  private struct Parts: Sendable {
    let embedding: Embedding
    let blocks: [Block]
    let finalNorm: RMSNorm
    let head: LMHead
  }

  /// Reads the weights under their Hugging Face names.
  init(
    _ config: ModelConfig, _ reader: WeightReader, on backend: any Backend, neuronSparse: Bool
  ) throws(PolarError) {
    self.config = config
    (weights, parts) = try Weights.load(reader, on: backend, neuronSparse: neuronSparse) {
      loader throws(PolarError) in
      try Self.parts(config, loader)
    }
  }

  /// Random weights (see ``ModelRegistry/makeRandom(config:backend:fill:)``).
  init(_ config: ModelConfig, filledBy fill: (Address, Int) -> Void, on backend: any Backend)
    throws(PolarError)
  {
    self.config = config
    (weights, parts) = try Weights.make(
      filledBy: fill, on: backend, neuronSparse: config.activation == .relu
    ) { loader throws(PolarError) in
      try Self.parts(config, loader)
    }
  }

  var weightByteCount: Int { weights.byteCount }
  var mlpByteCount: Int { parts.blocks.reduce(0) { $0 + $1.mlp.byteCount } }
  var neuronByteCount: Int { parts.blocks.reduce(0) { $0 + $1.mlp.neuronByteCount } }

  func outputProjection(layer: Int) -> PackedMatrix { parts.blocks[layer].attention.output.weight }

  func outputBias(layer: Int) -> Tensor? { parts.blocks[layer].attention.output.bias }

  func forward(
    _ batch: ForwardBatch, cache: KVCache, policy: any SparsityPolicy, tap: (any ForwardTap)?,
    workspace: inout Workspace, on backend: any Backend
  ) -> Tensor {
    workspace.reset()
    let pass = ForwardPass(batch: batch, cache: cache, policy: policy, tap: tap, backend: backend)
    // All f32 [rows, hidden]: the residual stream, its normalised copy, and what a block adds to it.
    let residual = workspace.take(rows: batch.rows, columns: config.hidden)
    let normed = workspace.take(rows: batch.rows, columns: config.hidden)
    let delta = workspace.take(rows: batch.rows, columns: config.hidden)

    parts.embedding(residual, indices: batch.tokens, on: backend)
    for layer in parts.blocks.indices {
      let block = parts.blocks[layer]
      if layer == 0 {
        block.attentionNorm(normed, residual, on: backend)
      } else {
        block.attentionNorm(normed, residual: residual, adding: delta, on: backend)
      }
      tap?.hiddenState(layer: layer, residual, on: backend)
      let neurons = block.attention(
        delta, input: normed, residual: residual, pass: pass, workspace: &workspace)
      block.mlpNorm(normed, residual: residual, adding: delta, on: backend)
      block.mlp(delta, normed, neurons: neurons, layer: layer, pass: pass, workspace: &workspace)
    }
    backend.add(residual, delta)
    if let tap {
      parts.finalNorm(normed, residual, on: backend)
      tap.hiddenState(layer: config.layers, normed, on: backend)
    }

    let last = workspace.take(rows: batch.logitCount, columns: config.hidden)
    if batch.logitCount > 0 {
      backend.gatherRows(last, residual, indices: batch.logitRows)
      parts.finalNorm(last, last, on: backend)
    }
    return parts.head(last, workspace: &workspace, on: backend)
  }

  func workspaceByteCount(rows: Int, logitRows: Int) -> Int {
    let blocks =
      parts.blocks.first.map {
        max($0.attention.workspaceByteCount(rows: rows), $0.mlp.workspaceByteCount(rows: rows))
      } ?? 0
    let head =
      Workspace.byteCount(rows: logitRows, columns: config.hidden)
      + parts.head.workspaceByteCount(rows: logitRows)
    return 3 * Workspace.byteCount(rows: rows, columns: config.hidden) + max(blocks, head)
  }

  private static func parts(
    _ config: ModelConfig, _ loader: WeightLoader
  ) throws(PolarError) -> Parts {
    let table = try loader.matrix(
      "model.embed_tokens.weight", outputs: config.vocabulary, inputs: config.hidden)
    let rotary = RotaryEmbedding(loader, config)
    var blocks: [Block] = []
    for layer in 0..<config.layers {
      let prefix = "model.layers.\(layer)"
      blocks.append(
        Block(
          attentionNorm: try RMSNorm(loader, prefix + ".input_layernorm", config),
          attention: try Attention(
            loader, prefix + ".self_attn", output: "o_proj", layer: layer, rotary: rotary, config),
          mlpNorm: try RMSNorm(loader, prefix + ".post_attention_layernorm", config),
          mlp: try MLP(
            loader, up: [prefix + ".mlp.gate_proj", prefix + ".mlp.up_proj"],
            down: prefix + ".mlp.down_proj", config)))
    }
    return Parts(
      embedding: Embedding(table: table), blocks: blocks,
      finalNorm: try RMSNorm(loader, "model.norm", config),
      head: try LMHead(loader, tiedTo: table, config))
  }
}
