internal import PolarCore
internal import PolarFormats
internal import PolarSparsity

/// Causal self-attention over the paged cache: the one place where head sparsity enters a model.
struct Attention: BitwiseCopyable, Sendable {
  let layer: Int
  /// q, k and v rows one after the other: `[(heads + 2 * kvHeads) * headDim, hidden]`.
  let qkv: Linear
  /// `[hidden, heads * headDim]`.
  let output: Linear
  /// Norms of each head of q and k (Dehghani et al. 2023), where the family has them.
  let queryNorm: RMSNorm?
  let keyNorm: RMSNorm?
  /// nil where positions are learned.
  let rotary: RotaryEmbedding?
  let heads: Int
  let kvHeads: Int
  let headDim: Int

  /// Softmax scale.
  let scale: Float

  /// Loads `prefix.q_proj`, `k_proj`, `v_proj`, `q_norm` and `k_norm` where there are such, and the out-projection
  /// `prefix.<output>`.
  init(
    _ loader: WeightLoader, _ prefix: String, output: String, layer: Int, rotary: RotaryEmbedding?,
    _ config: ModelConfig
  ) throws(PolarError) {
    let (queries, keys) = (config.heads * config.headDim, config.kvHeads * config.headDim)
    qkv = try loader.linear(
      [(prefix + ".q_proj", queries), (prefix + ".k_proj", keys), (prefix + ".v_proj", keys)],
      inputs: config.hidden, bias: config.qkvBias)
    self.output = try loader.linear(
      prefix + "." + output, outputs: config.hidden, inputs: queries, bias: config.outputBias)
    (queryNorm, keyNorm) =
      config.headNorms
      ? (
        try RMSNorm(loader, prefix + ".q_norm", width: config.headDim, config),
        try RMSNorm(loader, prefix + ".k_norm", width: config.headDim, config)
      ) : (nil, nil)
    self.layer = layer
    self.rotary = rotary
    heads = config.heads
    kvHeads = config.kvHeads
    headDim = config.headDim
    scale = 1 / Float(config.headDim).squareRoot()
  }

  /// Writes the block's output to `out`.
  ///
  /// `input` is what q, k and v are projected from, `residual` the residual stream at the block's entry (the same
  /// tensor where a model normalises after the block); all f32 `[rows, hidden]`. K and V of every row and head are
  /// stored. In a decode step `pass.policy` chooses the heads; prefill is dense. Returns the neurons that it chose for the
  /// same layer's MLP, nil for all of them.
  func callAsFunction(
    _ out: Tensor, input: Tensor, residual: Tensor, pass: borrowing ForwardPass,
    workspace: inout Workspace
  ) -> ActiveNeurons? {
    let mark = workspace.mark()
    let backend = pass.backend
    let batch = pass.batch
    let kv = pass.cache.layers[layer]
    let queryColumns = heads * headDim
    let keyColumns = kvHeads * headDim

    // [rows, (heads + 2 * kvHeads) * headDim]: queries, keys and values side by side, used as strided views.
    let projected = workspace.take(rows: input.rows, columns: queryColumns + 2 * keyColumns)
    qkv(projected, input, on: backend)
    let query = projected.columns(0..<queryColumns)
    let key = projected.columns(queryColumns..<queryColumns + keyColumns)
    let value = projected.columns(queryColumns + keyColumns..<queryColumns + 2 * keyColumns)
    queryNorm?(heads: heads, of: query, on: backend)
    keyNorm?(heads: kvHeads, of: key, on: backend)
    if let rotary {
      backend.rotaryStoreKV(
        kv, projected, heads: heads, positions: batch.positions,
        inverseFrequencies: rotary.inverseFrequencies, slots: batch.slots)
    } else {
      backend.storeKV(kv, key: key, value: value, slots: batch.slots)
    }

    let attended = workspace.take(rows: input.rows, columns: queryColumns)  // [rows, heads * headDim]
    let context = AttentionContext(
      layer: layer, input: input, residual: residual, query: query, kv: kv, batch: batch, scale: scale)
    var neurons: ActiveNeurons?
    if batch.isDecode {
      neurons = decode(attended, context, policy: pass.policy, workspace: &workspace, on: backend)
    } else {
      backend.prefillAttention(
        attended, query: query, kv: kv, batch: batch, scale: scale, span: .full)
    }
    pass.tap?.attention(context, output: attended, workspace: &workspace, on: backend)
    output(out, attended, on: backend)
    workspace.release(to: mark)
    return neurons
  }

  /// Chooses heads and attends; returns the neurons that the policy chooses for the layer's MLP, meanwhile where it can.
  private func decode(
    _ attended: Tensor, _ context: AttentionContext, policy: any SparsityPolicy, workspace: inout Workspace,
    on backend: any Backend
  ) -> ActiveNeurons? {
    func attend(_ heads: ActiveHeads?) {
      backend.decodeAttention(
        attended, query: context.query, kv: context.kv, batch: context.batch, scale: scale, heads: heads)
    }
    guard let parts = policy.parts else {
      let selection = policy.select(context, workspace: &workspace, on: backend)
      attend(selection.heads)
      return selection.neurons
    }
    var neurons: ActiveNeurons?
    let scratch = parts.neurons.workspaceByteCount(rows: context.input.rows)
    backend.overlap(
      side: { neurons = parts.neurons.select(context, workspace: &workspace, on: backend).neurons },
      main: {
        // What the side took and gave back is in use until both are done. (What it keeps lies elsewhere.)
        _ = workspace.take(columns: max(0, scratch - workspace.keptByteCount), dtype: .u8)
        attend(parts.heads.select(context, workspace: &workspace, on: backend).heads)
      })
    return neurons
  }

  /// Bytes of scratch for `rows` rows, the policy's excluded.
  func workspaceByteCount(rows: Int) -> Int {
    Workspace.byteCount(rows: rows, columns: (heads + 2 * kvHeads) * headDim)
      + Workspace.byteCount(rows: rows, columns: heads * headDim)
  }
}
