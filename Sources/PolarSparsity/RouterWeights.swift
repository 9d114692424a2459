/// One layer's head router on the host: scores of the selection units from the normalised block input, followed, where
/// `localFeatures > 0`, by the norms of that many equal pieces of the heads' local attention output (a head that a
/// sink has caught has nearly none, and this is what the block input says least about).
///
/// `scores = weight x + bias + outputWeight relu(hiddenWeight x + hiddenBias)`, the last term only when
/// `hiddenUnits > 0`. The linear form is Polar Sparsity's (section 4.2); the hidden layer is an addition.
public struct RouterWeights: Sendable, Equatable {
  /// Width of the input, local features included.
  public let inputs: Int
  /// The last columns of the input that are norms of the local attention output.
  public let localFeatures: Int
  /// Number of scores.
  public let units: Int
  /// Width of the hidden layer; 0 for a linear router.
  public let hiddenUnits: Int
  /// Row-major `[units, inputs]`.
  public var weight: [Float]
  /// `[units]`.
  public var bias: [Float]
  /// Row-major `[hiddenUnits, inputs]`.
  public var hiddenWeight: [Float]
  /// `[hiddenUnits]`.
  public var hiddenBias: [Float]
  /// Row-major `[units, hiddenUnits]`.
  public var outputWeight: [Float]

  /// A router of zeros.
  public init(inputs: Int, units: Int, hiddenUnits: Int = 0, localFeatures: Int = 0) {
    self.inputs = inputs
    self.localFeatures = localFeatures
    self.units = units
    self.hiddenUnits = hiddenUnits
    weight = Array(repeating: 0, count: units * inputs)
    bias = Array(repeating: 0, count: units)
    hiddenWeight = Array(repeating: 0, count: hiddenUnits * inputs)
    hiddenBias = Array(repeating: 0, count: hiddenUnits)
    outputWeight = Array(repeating: 0, count: units * hiddenUnits)
  }

  /// A router that scores every input alike.
  public init(constant scores: [Float], inputs: Int) {
    self.init(inputs: inputs, units: scores.count)
    bias = scores
  }

  /// Scores of one input, in plain float arithmetic: the executable definition.
  public func scores(of input: UnsafeBufferPointer<Float>) -> [Float] {
    var hidden = hiddenBias
    for unit in 0..<hiddenUnits {
      for i in 0..<inputs { hidden[unit] += hiddenWeight[unit * inputs + i] * input[i] }
      hidden[unit] = max(0, hidden[unit])
    }
    var scores = bias
    for unit in 0..<units {
      for i in 0..<inputs { scores[unit] += weight[unit * inputs + i] * input[i] }
      for j in 0..<hiddenUnits { scores[unit] += outputWeight[unit * hiddenUnits + j] * hidden[j] }
    }
    return scores
  }
}
