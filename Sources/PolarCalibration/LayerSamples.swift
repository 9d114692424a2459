/// What was recorded of one layer: for each kept token the routers' input, the labels of its selection units (none in
/// layers whose heads are always dense) and, of a ReLU MLP, which neurons fired.
public struct LayerSamples: Sendable {
  /// Width of the input, local features included.
  public let inputs: Int
  /// The last columns of the input that are norms of the local attention output.
  public let localFeatures: Int
  /// Labels per token.
  public let units: Int
  /// Tokens kept.
  public private(set) var count = 0
  private var bits: [UInt16] = []
  /// Relative deviation of each unit: `[count, units]`.
  public private(set) var deviations: [Float] = []
  /// Output norm of each unit: `[count, units]`.
  public private(set) var norms: [Float] = []
  /// Which neurons fired; nil where that is not recorded.
  public private(set) var activations: ActivationBits?

  /// An empty store with room for `capacity` tokens; `neurons` 0 records no MLP.
  public init(inputs: Int, localFeatures: Int = 0, units: Int, neurons: Int = 0, capacity: Int) {
    self.inputs = inputs
    self.localFeatures = localFeatures
    self.units = units
    bits.reserveCapacity(capacity * inputs)
    deviations.reserveCapacity(capacity * units)
    norms.reserveCapacity(capacity * units)
    activations = neurons > 0 ? ActivationBits(neurons: neurons, capacity: capacity) : nil
  }

  /// Bytes that one token of one layer takes.
  public static func bytesPerToken(inputs: Int, units: Int, neurons: Int = 0) -> Int {
    inputs * 2 + units * 8 + ActivationBits.bytesPerToken(neurons: neurons)
  }

  /// Appends the activations `[neurons]` of the first token that has none yet.
  public mutating func append(activations row: UnsafeBufferPointer<Float>) {
    precondition((activations?.count ?? 0) < count, "activations without an input")
    activations?.append(row)
  }

  /// Appends a token: input `[inputs]` (kept as bf16), deviations and norms `[units]`.
  public mutating func append(
    input: some Collection<Float>, deviations: some Collection<Float>, norms: some Collection<Float>
  ) {
    precondition(
      input.count == inputs && deviations.count == units && norms.count == units, "shapes do not fit")
    bits.append(
      contentsOf: input.lazy.map { UInt16(truncatingIfNeeded: ($0.bitPattern &+ 0x8000) >> 16) })
    self.deviations.append(contentsOf: deviations)
    self.norms.append(contentsOf: norms)
    count += 1
  }

  /// Writes the first `columns` of token `index`'s input to `target`, shifted by `mean` and scaled by `scale`.
  @inline(__always)
  func copyInput(
    _ index: Int, columns: Int, to target: UnsafeMutablePointer<Float>, mean: UnsafePointer<Float>,
    scale: UnsafePointer<Float>
  ) {
    bits.withUnsafeBufferPointer { bits in
      let row = bits.baseAddress! + index * inputs
      for i in 0..<columns { target[i] = (Float(bitPattern: UInt32(row[i]) << 16) - mean[i]) * scale[i] }
    }
  }

  /// Mean and reciprocal standard deviation of every input over tokens `range`.
  func moments(_ range: Range<Int>) -> (mean: [Float], scale: [Float]) {
    var sum = [Float](repeating: 0, count: inputs)
    var square = [Float](repeating: 0, count: inputs)
    var row = [Float](repeating: 0, count: inputs)
    let zero = [Float](repeating: 0, count: inputs)
    let one = [Float](repeating: 1, count: inputs)
    // A few thousand evenly spaced tokens give moments that are good to a few per cent, which is all scaling needs.
    let step = max(1, range.count / 4096)
    var taken: Float = 0
    for index in stride(from: range.lowerBound, to: range.upperBound, by: step) {
      row.withUnsafeMutableBufferPointer {
        copyInput(index, columns: inputs, to: $0.baseAddress!, mean: zero, scale: one)
      }
      for i in 0..<inputs {
        sum[i] += row[i]
        square[i] += row[i] * row[i]
      }
      taken += 1
    }
    let mean = sum.map { $0 / max(1, taken) }
    let scale = (0..<inputs).map { i -> Float in
      let variance = square[i] / max(1, taken) - mean[i] * mean[i]
      return variance > 1e-10 ? 1 / variance.squareRoot() : 1
    }
    return (mean, scale)
  }
}
