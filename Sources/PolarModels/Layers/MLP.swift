internal import PolarCore
internal import PolarFormats
internal import PolarSparsity

/// The feed-forward block: `down(activation(up(x)))`, or gated, `down(activation(gate(x)) * up(x))` (Shazeer 2020). The
/// one place where neuron sparsity enters a model.
struct MLP: Sendable {
  /// A neuron that ReLU leaves at zero can be left out, which asks for another layout of the weights.
  private enum Form: Sendable {
    case dense(DenseMLP)
    case neurons(NeuronMLP)
  }

  private let form: Form

  /// Loads the layers `up` (gated: gate, then up) and `down`.
  init(
    _ loader: WeightLoader, up: [String], down: String, _ config: ModelConfig
  ) throws(PolarError) {
    form =
      config.activation == .relu
      ? .neurons(try NeuronMLP(loader, up: up, down: down, config))
      : .dense(try DenseMLP(loader, up: up, down: down, config))
  }

  /// Writes the block's output to `out`; x and out `[rows, hidden]`. `neurons` is what the layer's attention returned; nil
  /// computes all of them, and so does an MLP whose activation is never zero.
  func callAsFunction(
    _ out: Tensor, _ x: Tensor, neurons: ActiveNeurons?, layer: Int, pass: borrowing ForwardPass,
    workspace: inout Workspace
  ) {
    let mark = workspace.mark()
    switch form {
    case .neurons(let mlp):
      mlp(out, x, neurons: neurons, layer: layer, pass: pass, workspace: &workspace)
    case .dense(let mlp): mlp(out, x, layer: layer, pass: pass, workspace: &workspace)
    }
    workspace.release(to: mark)
    workspace.releaseKept()
  }

  /// Bytes of scratch for `rows` rows, the policy's excluded.
  func workspaceByteCount(rows: Int) -> Int {
    switch form {
    case .neurons(let mlp): mlp.workspaceByteCount(rows: rows)
    case .dense(let mlp): mlp.workspaceByteCount(rows: rows)
    }
  }
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
  }

  func callAsFunction(
    _ out: Tensor, _ x: Tensor, layer: Int, pass: borrowing ForwardPass, workspace: inout Workspace
  ) {
    let backend = pass.backend
    let projected = workspace.take(rows: x.rows, columns: up.weight.outputs)
    up(projected, x, on: backend)
    var activated = projected
    if isGated {
      // [rows, 2 * intermediate] -> [rows, intermediate]
      activated = workspace.take(rows: x.rows, columns: down.weight.inputs)
      if activation == .relu {
        backend.reluMul(activated, projected, threshold: threshold)
      } else {
        backend.siluMul(activated, projected)
      }
    } else {
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
