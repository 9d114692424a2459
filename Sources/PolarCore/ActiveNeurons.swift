/// Which MLP neurons a step computes: one list for all rows of the batch.
///
/// The list and its length live on the device, so that a step can select and compute without waiting for the host.
@frozen public struct ActiveNeurons: BitwiseCopyable, Sendable {
  /// Neuron indices, ascending and distinct: i32 `[capacity]`. Those from ``count`` on mean nothing.
  public let indices: Tensor
  /// How many indices count: i32 `[1]`, in `0 ... capacity`.
  public let count: Tensor
  /// Counters u64 `[2]` that ``Backend/selectiveUp(_:_:weight:bias:threshold:neurons:)`` adds to on a backend which records
  /// work: neurons of the list, and one. Others ignore it: there the host reads the count.
  public var tally: Address?

  /// A list in device memory.
  @inlinable public init(indices: Tensor, count: Tensor, tally: Address? = nil) {
    self.indices = indices
    self.count = count
    self.tally = tally
  }

  /// The most neurons that the list can hold: known on the host, and at most the neurons of the layer.
  @inlinable public var capacity: Int { indices.columns }
}
