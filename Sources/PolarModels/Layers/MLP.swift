internal import PolarCore
internal import PolarFormats

/// The feed-forward block: `down(activation(up(x)))`, or gated, `down(silu(gate(x)) * up(x))` (Shazeer 2020).
struct MLP: Sendable {
  /// `[intermediate, hidden]`; gated: gate rows, then up rows, `[2 * intermediate, hidden]`.
  let up: Linear
  /// `[hidden, intermediate]`.
  let down: Linear
  let activation: ModelConfig.Activation
  let intermediate: Int

  /// Loads the layers `up` (gated: gate, then up) and `down`.
  init(
    _ loader: WeightLoader, up: [String], down: String, _ config: ModelConfig
  ) throws(PolarError) {
    activation = config.activation
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
    switch activation {
    case .silu:
      // [rows, 2 * intermediate] -> [rows, intermediate]
      let activated = workspace.take(rows: x.rows, columns: intermediate)
      backend.siluMul(activated, projected)
      down(out, activated, on: backend)
    case .relu:
      backend.relu(projected)
      down(out, projected, on: backend)
    case .gelu:
      backend.gelu(projected)
      down(out, projected, on: backend)
    }
    workspace.release(to: mark)
  }

  /// Bytes of scratch for `rows` rows.
  func workspaceByteCount(rows: Int) -> Int {
    let gated = activation == .silu
    return Workspace.byteCount(rows: rows, columns: up.weight.outputs)
      + (gated ? Workspace.byteCount(rows: rows, columns: intermediate) : 0)
  }
}
