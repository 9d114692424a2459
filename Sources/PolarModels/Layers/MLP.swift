internal import PolarCore
internal import PolarFormats
internal import PolarSparsity

/// The feed-forward block: `down(activation(up(x)))`, or gated, `down(activation(gate(x)) * up(x))` (Shazeer 2020). The
/// one place where neuron sparsity enters a model.
struct MLP: Sendable {
  private let dense: DenseMLP
  /// A neuron that ReLU leaves at zero can be left out. That asks for a second copy of the weights, row by row: a panel of
  /// the first one mixes 32 neurons.
  private let sparse: NeuronMLP?

  /// Loads the layers `up` (gated: gate, then up) and `down`.
  init(
    _ loader: WeightLoader, up: [String], down: String, _ config: ModelConfig
  ) throws(PolarError) {
    dense = try DenseMLP(loader, up: up, down: down, config)
    sparse = loader.neuronSparse ? try NeuronMLP(loader, up: up, down: down, config) : nil
  }

  /// Writes the block's output to `out`; x and out `[rows, hidden]`. `neurons` is what the layer's attention returned; nil
  /// computes all of them. Choosing neurons of a model that was loaded without neuron rows is a programmer error.
  func callAsFunction(
    _ out: Tensor, _ x: Tensor, neurons: ActiveNeurons?, layer: Int, pass: borrowing ForwardPass,
    workspace: inout Workspace
  ) {
    let mark = workspace.mark()
    var neurons = neurons
    if let sparse, neurons == nil, pass.batch.isDecode, pass.policy.looksAtActivations {
      neurons = sparse.selectNeurons(x, layer: layer, pass: pass, workspace: &workspace)
    }
    if let neurons {
      guard let sparse else { preconditionFailure("neurons of a model without neuron rows") }
      sparse(out, x, neurons: neurons, layer: layer, pass: pass, workspace: &workspace)
    } else {
      dense(out, x, layer: layer, pass: pass, workspace: &workspace)
    }
    workspace.release(to: mark)
    workspace.releaseKept()
  }

  /// Bytes of scratch for `rows` rows, the policy's excluded: a compact MLP takes no more than a whole one.
  func workspaceByteCount(rows: Int) -> Int { dense.workspaceByteCount(rows: rows) }

  /// Bytes of the weights that whole steps read.
  var byteCount: Int { dense.byteCount }

  /// Bytes of the second copy of the weights.
  var neuronByteCount: Int { sparse?.byteCount ?? 0 }
}

/// An MLP that is always computed whole.
private struct DenseMLP: Sendable {
  /// `[intermediate, hidden]`; gated: gate rows, then up rows, `[2 * intermediate, hidden]`.
  let up: Linear
  /// `[hidden, intermediate]`.
  let down: Linear
  let activation: ModelConfig.Activation
  /// ReLU: what is not above it counts as zero (FATReLU, Kurtz et al. 2020; ProSparse).
  let threshold: Float
  let isGated: Bool
  /// Bytes of the weights.
  let byteCount: Int

  init(
    _ loader: WeightLoader, up: [String], down: String, _ config: ModelConfig
  ) throws(PolarError) {
    activation = config.activation
    threshold = config.activationThreshold
    isGated = up.count == 2
    self.up = try loader.linear(
      up.map { ($0, config.intermediate) }, inputs: config.hidden, bias: config.mlpBias)
    self.down = try loader.linear(
      down, outputs: config.hidden, inputs: config.intermediate, bias: config.mlpBias)
    byteCount = loader.byteCount(self.up.weight) + loader.byteCount(self.down.weight)
  }

  func callAsFunction(
    _ out: Tensor, _ x: Tensor, layer: Int, pass: borrowing ForwardPass, workspace: inout Workspace
  ) {
    let backend = pass.backend
    let projected = workspace.take(rows: x.rows, columns: up.weight.outputs)
    var activated = projected
    if isGated {
      // [rows, intermediate]
      activated = workspace.take(rows: x.rows, columns: down.weight.inputs)
      backend.linearGated(
        activated, x, weight: up.weight, bias: up.bias,
        activation: activation == .relu ? .relu(threshold: threshold) : .silu, scratch: projected)
    } else {
      up(projected, x, on: backend)
      if activation == .relu { backend.relu(projected) } else { backend.gelu(projected) }
    }
    pass.tap?.mlp(
      layer: layer, activations: activated, neurons: nil, workspace: &workspace, on: backend)
    down(out, activated, on: backend)
  }

  func workspaceByteCount(rows: Int) -> Int {
    Workspace.byteCount(rows: rows, columns: up.weight.outputs)
      + (isGated ? Workspace.byteCount(rows: rows, columns: down.weight.inputs) : 0)
  }
}
