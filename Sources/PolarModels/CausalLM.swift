public import PolarCore
public import PolarFormats
public import PolarSparsity

/// A decoder-only language model: weights bound to one backend, and the order of ops that makes logits of a batch.
public protocol CausalLM: AnyObject, Sendable {
  /// The model's typed configuration.
  var config: ModelConfig { get }

  /// Runs one batch and returns logits f32 `[batch.logitCount, vocabulary]`, which lie in `workspace`.
  ///
  /// Resets `workspace` first. Writes the K and V of all rows to `cache`. Asks `policy` in decode steps only.
  func forward(
    _ batch: ForwardBatch, cache: KVCache, policy: any SparsityPolicy, tap: (any ForwardTap)?,
    workspace: inout Workspace, on backend: any Backend
  ) -> Tensor

  /// Bytes of workspace that a forward pass of at most `rows` rows and `logitRows` logit rows takes, policy excluded.
  func workspaceByteCount(rows: Int, logitRows: Int) -> Int

  /// The attention out-projection `[hidden, heads * headDim]` of a layer, for calibration.
  func outputProjection(layer: Int) -> PackedMatrix

  /// The bias f32 `[hidden]` of that projection; nil where there is none.
  func outputBias(layer: Int) -> Tensor?

  /// Bytes of weights held in the backend's memory.
  var weightByteCount: Int { get }

  /// How many of them are the weights that whole MLPs read.
  var mlpByteCount: Int { get }

  /// How many of them are the neuron rows of MLPs, which only selective MLPs read; 0 when the model was loaded without, and
  /// then no policy may choose neurons.
  var neuronByteCount: Int { get }
}
