internal import PolarCore
internal import PolarFormats
internal import PolarSparsity

/// A ReLU MLP with neuron-major weights, of which any subset of neurons can be computed.
struct NeuronMLP: BitwiseCopyable, Sendable {
  /// `[intermediate, hidden]`; gated: gate and up side by side, `[intermediate, 2 * hidden]`.
  let up: Tensor
  /// f32 `[1, intermediate]`, gated `[2, intermediate]`.
  let upBias: Tensor?
  /// The down-projection transposed, `[intermediate, hidden]`.
  let down: Tensor
  /// f32 `[hidden]`.
  let downBias: Tensor?
  /// What is not above it counts as zero (FATReLU, Kurtz et al. 2020; ProSparse); 0 is ReLU.
  let threshold: Float

  /// Loads the layers `up` (gated: gate, then up) and `down`.
  init(
    _ loader: WeightLoader, up: [String], down: String, _ config: ModelConfig
  ) throws(PolarError) {
    let neurons = config.intermediate
    threshold = config.activationThreshold
    self.up = try loader.neuronRows(up, neurons: neurons, width: config.hidden)
    self.down = try loader.neuronColumns(down, neurons: neurons, width: config.hidden)
    guard config.mlpBias else {
      upBias = nil
      downBias = nil
      return
    }
    let bias = try loader.vector(up.map { ($0 + ".bias", neurons) })
    upBias = Tensor(bias.address, rows: up.count, columns: neurons)
    downBias = try loader.vector([(down + ".bias", config.hidden)])
  }

  /// Writes the block's output to `out`; x and out `[rows, hidden]`. Scratch is not released.
  func callAsFunction(
    _ out: Tensor, _ x: Tensor, neurons: ActiveNeurons?, layer: Int, pass: borrowing ForwardPass,
    workspace: inout Workspace
  ) {
    let backend = pass.backend
    var neurons = neurons
    if neurons == nil, pass.batch.isDecode, pass.policy.looksAtActivations {
      let mark = workspace.mark()
      // [rows, intermediate]; of a gated MLP the gates alone, which are the first half of each weight row.
      let gates = workspace.take(rows: x.rows, columns: up.rows)
      backend.selectiveUp(
        gates, x, weight: up.columns(0..<x.columns), bias: upBias, threshold: threshold, neurons: nil)
      neurons = pass.policy.selectNeurons(
        NeuronContext(layer: layer, activations: gates), workspace: &workspace, on: backend)
      workspace.release(to: mark)
    }
    // [rows, intermediate], or compact [rows, capacity]
    let activated = workspace.take(rows: x.rows, columns: neurons?.capacity ?? up.rows)
    backend.selectiveUp(
      activated, x, weight: up, bias: upBias, threshold: threshold, neurons: neurons)
    pass.tap?.mlp(
      layer: layer, activations: activated, neurons: neurons, workspace: &workspace, on: backend)
    backend.selectiveDown(out, activated, weight: down, bias: downBias, neurons: neurons)
  }

  /// Bytes of scratch for `rows` rows.
  func workspaceByteCount(rows: Int) -> Int { Workspace.byteCount(rows: rows, columns: up.rows) }
}
