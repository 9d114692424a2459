internal import PolarCore
internal import PolarFormats

/// The feed-forward block: `down(activation(up(x)))`, or gated, `down(activation(gate(x)) * up(x))` (Shazeer 2020).
struct MLP: Sendable {
  /// `[intermediate, hidden]`; gated: gate rows, then up rows, `[2 * intermediate, hidden]`.
  let up: Linear
  /// `[hidden, intermediate]`.
  let down: Linear
  let activation: ModelConfig.Activation
  /// ReLU: what is not above it counts as zero (FATReLU, Kurtz et al. 2020; ProSparse).
  let threshold: Float
  let isGated: Bool
  let intermediate: Int

  /// Loads the layers `up` (gated: gate, then up) and `down`.
  init(
    _ loader: WeightLoader, up: [String], down: String, _ config: ModelConfig
  ) throws(PolarError) {
    activation = config.activation
    threshold = config.activationThreshold
    isGated = up.count == 2
    intermediate = config.intermediate
    self.up = try loader.linear(
      up.map { ($0, config.intermediate) }, inputs: config.hidden, bias: config.mlpBias)
    self.down = try loader.linear(
      down, outputs: config.hidden, inputs: config.intermediate, bias: config.mlpBias)
  }

  /// Writes the block's output to `out`; x and out `[rows, hidden]`.
  func callAsFunction(
    _ out: Tensor, _ x: Tensor, workspace: inout Workspace, on backend: any Backend
  ) {
    let mark = workspace.mark()
    let projected = workspace.take(rows: x.rows, columns: up.weight.outputs)
    up(projected, x, on: backend)
    if isGated {
      // [rows, 2 * intermediate] -> [rows, intermediate]
      let activated = workspace.take(rows: x.rows, columns: intermediate)
      if activation == .relu {
        backend.reluMul(activated, projected, threshold: threshold)
      } else {
        backend.siluMul(activated, projected)
      }
      down(out, activated, on: backend)
    } else {
      if activation == .relu { backend.relu(projected) } else { backend.gelu(projected) }
      down(out, projected, on: backend)
    }
    workspace.release(to: mark)
  }

  /// Bytes of scratch for `rows` rows.
  func workspaceByteCount(rows: Int) -> Int {
    Workspace.byteCount(rows: rows, columns: up.weight.outputs)
      + (isGated ? Workspace.byteCount(rows: rows, columns: intermediate) : 0)
  }
}
