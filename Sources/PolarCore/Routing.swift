/// How scores become a choice.
@frozen public enum ScoreChoice: BitwiseCopyable, Sendable, Equatable {
  /// The largest, this many of them; ties go to the lower index.
  case largest(Int)
  /// All that are greater than the threshold.
  case above(Float)
}

/// The matrices of one head router: `scores = weight x + bias`, and with a hidden layer
/// `+ output relu(hidden x + hiddenBias)`.
@frozen public struct HeadRouterMatrices: BitwiseCopyable, Sendable {
  /// A hidden layer beside the linear form.
  @frozen public struct HiddenLayer: BitwiseCopyable, Sendable {
    /// `[hiddenUnits, inputs]`.
    public let weight: PackedMatrix
    /// f32 `[hiddenUnits]`.
    public let bias: Tensor
    /// `[units, hiddenUnits]`.
    public let output: PackedMatrix

    /// A hidden layer of matrices in a backend's memory.
    @inlinable public init(weight: PackedMatrix, bias: Tensor, output: PackedMatrix) {
      self.weight = weight
      self.bias = bias
      self.output = output
    }
  }

  /// `[units, inputs]`.
  public let weight: PackedMatrix
  /// f32 `[units]`.
  public let bias: Tensor
  /// Nil for a linear router.
  public let hidden: HiddenLayer?

  /// A router of matrices in a backend's memory.
  @inlinable public init(weight: PackedMatrix, bias: Tensor, hidden: HiddenLayer? = nil) {
    self.weight = weight
    self.bias = bias
    self.hidden = hidden
  }

  /// Columns of the scratch that ``Backend/routeHeads(_:scores:_:router:scratch:choice:headsPerUnit:)`` takes.
  @inlinable public var scratchColumns: Int { hidden.map { $0.weight.outputs + weight.outputs } ?? 0 }
}

extension Backend {
  /// Linear layers, then ``selectTopK(_:scores:k:headsPerUnit:)`` or ``selectAbove(_:scores:threshold:headsPerUnit:)``.
  public func routeHeads(
    _ mask: Tensor, scores: Tensor, _ x: Tensor, router: HeadRouterMatrices, scratch: Tensor?,
    choice: ScoreChoice, headsPerUnit: Int
  ) {
    linear(scores, x, weight: router.weight, bias: router.bias)
    if let layer = router.hidden, let scratch {
      let hidden = scratch.columns(0..<layer.weight.outputs)
      linear(hidden, x, weight: layer.weight, bias: layer.bias)
      relu(hidden)
      let correction = scratch.columns(layer.weight.outputs..<router.scratchColumns)
      linear(correction, hidden, weight: layer.output, bias: nil)
      add(scores, correction)
    }
    switch choice {
    case .largest(let k): selectTopK(mask, scores: scores, k: k, headsPerUnit: headsPerUnit)
    case .above(let threshold):
      selectAbove(mask, scores: scores, threshold: threshold, headsPerUnit: headsPerUnit)
    }
  }

  /// A linear layer, then ``topKUnion(_:sums:scores:k:)`` or ``unionAbove(_:peaks:scores:threshold:)``.
  public func routeNeurons(
    _ neurons: ActiveNeurons, _ x: Tensor, weight: PackedMatrix, scores: Tensor, aggregate: Tensor,
    choice: ScoreChoice
  ) {
    linear(scores, x, weight: weight, bias: nil)
    switch choice {
    case .largest(let k): topKUnion(neurons, sums: aggregate, scores: scores, k: k)
    case .above(let threshold):
      unionAbove(neurons, peaks: aggregate, scores: scores, threshold: threshold)
    }
  }
}
