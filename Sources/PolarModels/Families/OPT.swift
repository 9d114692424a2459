internal import PolarCore
internal import PolarFormats
internal import PolarSparsity

/// OPT (Zhang et al. 2022): learned positions, layer norms and biases. All sizes normalise before attention and MLP,
/// except 350m, which normalises after them, has no final norm, and embeds tokens in fewer dimensions than `hidden`.
final class OPT: CausalLM {
  let config: ModelConfig
  private let weights: Weights
  private let parts: Parts

  /// The position table starts with two rows that no token uses.
  private static let positionOffset = 2

  private struct Block: Sendable {
    let attentionNorm: LayerNorm
    let attention: Attention
    let mlpNorm: LayerNorm
    let mlp: MLP
  }

  private struct Parts: Sendable {
    let tokens: Embedding
    let positions: Embedding
    /// `[hidden, embeddingDim]`
    let projectIn: Linear?
    let blocks: [Block]
    let finalNorm: LayerNorm?
    /// `[embeddingDim, hidden]`
    let projectOut: Linear?
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

    embed(residual, positions: delta, batch, &workspace, backend)
    for layer in parts.blocks.indices {
      let block = parts.blocks[layer]
      tap?.hiddenState(layer: layer, residual, on: backend)
      if config.normBefore {
        block.attentionNorm(normed, residual, on: backend)
        let neurons = block.attention(
          delta, input: normed, residual: residual, pass: pass, workspace: &workspace)
        backend.add(residual, delta)
        block.mlpNorm(normed, residual, on: backend)
        block.mlp(
          delta, normed, neurons: neurons, layer: layer, pass: pass, workspace: &workspace)
        backend.add(residual, delta)
      } else {
        let neurons = block.attention(
          delta, input: residual, residual: residual, pass: pass, workspace: &workspace)
        backend.add(residual, delta)
        block.attentionNorm(residual, residual, on: backend)
        block.mlp(
          delta, residual, neurons: neurons, layer: layer, pass: pass, workspace: &workspace)
        backend.add(residual, delta)
        block.mlpNorm(residual, residual, on: backend)
      }
    }
    if let tap {
      parts.finalNorm?(normed, residual, on: backend)
      tap.hiddenState(
        layer: config.layers, parts.finalNorm == nil ? residual : normed, on: backend)
    }

    var last = workspace.take(rows: batch.logitCount, columns: config.hidden)
    if batch.logitCount > 0 {
      backend.gatherRows(last, residual, indices: batch.logitRows)
      parts.finalNorm?(last, last, on: backend)
    }
    if let projectOut = parts.projectOut {
      let projected = workspace.take(rows: batch.logitCount, columns: config.embeddingDim)
      if batch.logitCount > 0 { projectOut(projected, last, on: backend) }
      last = projected
    }
    return parts.head(last, workspace: &workspace, on: backend)
  }

  /// Token plus position embedding into `out`; `positions` is scratch; both `[rows, hidden]`.
  private func embed(
    _ out: Tensor, positions: Tensor, _ batch: ForwardBatch, _ workspace: inout Workspace,
    _ backend: any Backend
  ) {
    if let projectIn = parts.projectIn {
      let mark = workspace.mark()
      let narrow = workspace.take(rows: batch.rows, columns: config.embeddingDim)
      parts.tokens(narrow, indices: batch.tokens, on: backend)
      projectIn(out, narrow, on: backend)
      workspace.release(to: mark)
    } else {
      parts.tokens(out, indices: batch.tokens, on: backend)
    }
    parts.positions(positions, indices: batch.positions, on: backend)
    backend.add(out, positions)
  }

  func workspaceByteCount(rows: Int, logitRows: Int) -> Int {
    let blocks =
      parts.blocks.first.map {
        max($0.attention.workspaceByteCount(rows: rows), $0.mlp.workspaceByteCount(rows: rows))
      } ?? 0
    let narrow = parts.projectIn == nil ? 0 : config.embeddingDim
    let head =
      Workspace.byteCount(rows: logitRows, columns: config.hidden)
      + Workspace.byteCount(rows: logitRows, columns: narrow)
      + parts.head.workspaceByteCount(rows: logitRows)
    return 3 * Workspace.byteCount(rows: rows, columns: config.hidden)
      + max(Workspace.byteCount(rows: rows, columns: narrow), blocks, head)
  }

  private static func parts(
    _ config: ModelConfig, _ loader: WeightLoader
  ) throws(PolarError) -> Parts {
    let (hidden, embedding, prefix) = (config.hidden, config.embeddingDim, "model.decoder")
    let table = try loader.matrix(
      prefix + ".embed_tokens.weight", outputs: config.vocabulary, inputs: embedding)
    let positions = try loader.matrix(
      prefix + ".embed_positions.weight", outputs: config.context, inputs: hidden,
      skippedRows: positionOffset)
    var (projectIn, projectOut): (Linear?, Linear?)
    if embedding != hidden {
      projectIn = try loader.linear(
        prefix + ".project_in", outputs: hidden, inputs: embedding, bias: false)
      projectOut = try loader.linear(
        prefix + ".project_out", outputs: embedding, inputs: hidden, bias: false)
    }
    var blocks: [Block] = []
    for layer in 0..<config.layers {
      let prefix = "\(prefix).layers.\(layer)"
      blocks.append(
        Block(
          attentionNorm: try LayerNorm(loader, prefix + ".self_attn_layer_norm", config),
          attention: try Attention(
            loader, prefix + ".self_attn", output: "out_proj", layer: layer, rotary: nil, config),
          mlpNorm: try LayerNorm(loader, prefix + ".final_layer_norm", config),
          mlp: try MLP(loader, up: [prefix + ".fc1"], down: prefix + ".fc2", config)))
    }
    return Parts(
      tokens: Embedding(table: table), positions: Embedding(table: positions),
      projectIn: projectIn, blocks: blocks,
      finalNorm: config.finalNorm
        ? try LayerNorm(loader, prefix + ".final_layer_norm", config) : nil,
      projectOut: projectOut, head: try LMHead(loader, tiedTo: table, config))
  }
}
