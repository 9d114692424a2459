public import PolarCore

/// Watches a forward pass: what recording, golden tests and quality reports plug into.
public protocol ForwardTap: AnyObject {
  /// Called after each layer's attention with its output f32 `[rows, heads * headDim]`, before the out-projection.
  /// What it takes from `workspace` must be released before it returns.
  func attention(
    _ context: AttentionContext, output: Tensor, workspace: inout Workspace, on backend: any Backend)
  /// Called in each layer with what its MLP's down-projection reads, after the activation: f32 `[rows, allNeurons]` where
  /// `neurons` is nil, else compact, the first `neurons.count` columns. With ReLU a neuron is active where that is not
  /// zero (it may be negative when gated). It follows ``attention(_:output:workspace:on:)`` of
  /// the same layer, whose context has the batch and the router's input.
  /// What it takes from `workspace` must be released before it returns.
  func mlp(
    layer: Int, activations: Tensor, neurons: ActiveNeurons?, workspace: inout Workspace,
    on backend: any Backend)
  /// Called with the residual stream f32 `[rows, hidden]` at the entry of each layer (`0 ..< layers`), and once with
  /// `layer == layers` after the final norm: the `hidden_states` of Hugging Face transformers.
  func hiddenState(layer: Int, _ state: Tensor, on backend: any Backend)
}

extension ForwardTap {
  /// Ignores hidden states.
  public func hiddenState(layer: Int, _ state: Tensor, on backend: any Backend) {}
  /// Ignores attention.
  public func attention(
    _ context: AttentionContext, output: Tensor, workspace: inout Workspace, on backend: any Backend
  ) {}
  /// Ignores the MLP.
  public func mlp(
    layer: Int, activations: Tensor, neurons: ActiveNeurons?, workspace: inout Workspace,
    on backend: any Backend
  ) {}
}
