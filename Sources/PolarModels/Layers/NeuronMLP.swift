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

  /// Writes the block's output, computed from `neurons` alone, to `out`; x and out `[rows, hidden]`.
  func callAsFunction(
    _ out: Tensor, _ x: Tensor, neurons: ActiveNeurons, layer: Int, pass: borrowing ForwardPass,
    workspace: inout Workspace
  ) {
    let backend = pass.backend
    // Compact: [rows, capacity]
    let activated = workspace.take(rows: x.rows, columns: neurons.capacity)
    backend.selectiveUp(
      activated, x, weight: up, bias: upBias, threshold: threshold, neurons: neurons)
    pass.tap?.mlp(
      layer: layer, activations: activated, neurons: neurons, workspace: &workspace, on: backend)
    backend.selectiveDown(out, activated, weight: down, bias: downBias, neurons: neurons)
  }

  /// What the policy chooses when it sees every neuron's activation (of a gated MLP, its gate's).
  func selectNeurons(
    _ x: Tensor, layer: Int, pass: borrowing ForwardPass, workspace: inout Workspace
  ) -> ActiveNeurons? {
    let mark = workspace.mark()
    // [rows, intermediate], from the first half of each weight row where there are two.
    let gates = workspace.take(rows: x.rows, columns: up.rows)
    pass.backend.selectiveUp(
      gates, x, weight: up.columns(0..<x.columns), bias: upBias, threshold: threshold, neurons: nil)
    let neurons = pass.policy.selectNeurons(
      NeuronContext(layer: layer, activations: gates), workspace: &workspace, on: pass.backend)
    workspace.release(to: mark)
    return neurons
  }

  /// Bytes of the weights.
  var byteCount: Int {
    (up.rows * up.rowStride + down.rows * down.rowStride) * up.dtype.byteCount
  }
}
