public import PolarCore

/// What one layer of one step computes; nil is dense.
@frozen public struct Selection: BitwiseCopyable, Sendable {
  /// The heads to compute in full, per sequence.
  public var heads: ActiveHeads?
  /// The MLP neurons to compute, one list for the batch. The list comes from ``Workspace/keep(rows:columns:dtype:)``, since
  /// the layer's MLP uses it after attention has given its scratch back.
  public var neurons: ActiveNeurons?

  /// A selection of heads and neurons.
  @inlinable public init(heads: ActiveHeads? = nil, neurons: ActiveNeurons? = nil) {
    self.heads = heads
    self.neurons = neurons
  }

  /// Everything is computed.
  @inlinable public static var dense: Selection { Selection() }
}

/// What a policy may look at when it selects: the state of one layer of a decode step, just before its attention.
@frozen public struct AttentionContext: BitwiseCopyable, Sendable {
  /// Layer index.
  public let layer: Int
  /// The (normalised) block input, what q, k and v were projected from: f32 `[rows, hidden]`.
  public let input: Tensor
  /// The residual stream at the block's entry: f32 `[rows, hidden]`.
  public let residual: Tensor
  /// Queries after rotary embedding: f32 `[rows, heads * headDim]`.
  public let query: Tensor
  /// The layer's cache; K and V of these rows are already stored.
  public let kv: KVLayer
  /// The rows.
  public let batch: ForwardBatch
  /// Softmax scale.
  public let scale: Float

  /// Collects the state of one layer.
  @inlinable
  public init(
    layer: Int, input: Tensor, residual: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch,
    scale: Float
  ) {
    self.layer = layer
    self.input = input
    self.residual = residual
    self.query = query
    self.kv = kv
    self.batch = batch
    self.scale = scale
  }
}
