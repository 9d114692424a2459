public import PolarCore
import PolarSparsity

/// What was recorded of one layer: for each kept token the routers' input, the labels of its selection units (none in
/// layers whose heads are always dense) and, of a ReLU MLP, which neurons fired.
///
/// Inputs lie where routers are trained, labels and activations on the host. Copies share the inputs' memory, so that only one
/// of them may be appended to.
public struct LayerSamples: Sendable {
  /// Width of the input, local features included.
  public let inputs: Int
  /// The last columns of the input that are norms of the local attention output.
  public let localFeatures: Int
  /// Labels per token.
  public let units: Int
  /// Tokens that there is room for.
  public let capacity: Int
  /// Tokens kept.
  public private(set) var count = 0
  /// Relative deviation of each unit: `[count, units]`.
  public private(set) var deviations: [Float] = []
  /// Output norm of each unit: `[count, units]`.
  public private(set) var norms: [Float] = []
  /// Which neurons fired; nil where that is not recorded.
  public private(set) var activations: ActivationBits?
  /// Where inputs lie and routers are trained.
  let ops: any TrainingOps
  private let memory: any DeviceMemory

  /// An empty store with room for `capacity` tokens; `neurons` 0 records no MLP.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``.
  public init(
    inputs: Int, localFeatures: Int = 0, units: Int, neurons: Int = 0, capacity: Int,
    on ops: any TrainingOps = HostTrainingOps()
  ) throws(PolarError) {
    self.inputs = inputs
    self.localFeatures = localFeatures
    self.units = units
    self.capacity = capacity
    self.ops = ops
    memory = try ops.allocate(byteCount: capacity * Self.inputBytes(inputs))
    deviations.reserveCapacity(capacity * units)
    norms.reserveCapacity(capacity * units)
    activations = neurons > 0 ? ActivationBits(neurons: neurons, capacity: capacity) : nil
  }

  /// Bytes that the input of one token takes where routers are trained.
  static func inputBytes(_ inputs: Int) -> Int { (inputs * 2 + 15) & ~15 }

  /// Bytes that the labels of one token take on the host.
  static func labelBytes(units: Int, neurons: Int) -> Int {
    units * 8 + ActivationBits.bytesPerToken(neurons: neurons)
  }

  /// Bytes that one token of one layer takes.
  public static func bytesPerToken(inputs: Int, units: Int, neurons: Int = 0) -> Int {
    inputBytes(inputs) + labelBytes(units: units, neurons: neurons)
  }

  /// The inputs of tokens `range`: bf16 `[range.count, inputs]`.
  func inputRows(_ range: Range<Int>) -> Tensor {
    precondition(range.lowerBound >= 0 && range.upperBound <= capacity, "no room for more tokens")
    return Tensor(
      memory.base, rows: capacity, columns: inputs, rowStride: Self.inputBytes(inputs) / 2, dtype: .bf16
    ).rows(range)
  }

  /// Appends tokens whose inputs are in ``inputRows(_:)`` already: deviations and norms `[tokens, units]`.
  mutating func append(tokens: Int, deviations: some Collection<Float>, norms: some Collection<Float>) {
    precondition(
      deviations.count == tokens * units && norms.count == tokens * units && count + tokens <= capacity,
      "shapes do not fit")
    self.deviations.append(contentsOf: deviations)
    self.norms.append(contentsOf: norms)
    count += tokens
  }

  /// Appends the activations `[neurons]` of the first token that has none yet.
  public mutating func append(activations row: UnsafeBufferPointer<Float>) {
    precondition((activations?.count ?? 0) < count, "activations without an input")
    activations?.append(row)
  }

  /// Appends packed activations (see ``ActivationBits/append(packed:)``).
  mutating func append(packed bytes: UnsafeRawBufferPointer) { activations?.append(packed: bytes) }

  /// Appends a token: input `[inputs]` (kept as bf16), deviations and norms `[units]`.
  public mutating func append(
    input: some Collection<Float>, deviations: some Collection<Float>, norms: some Collection<Float>
  ) {
    precondition(input.count == inputs, "shapes do not fit")
    let bits = input.map(BF16.bits)
    bits.withUnsafeBytes { ops.upload($0, to: inputRows(count..<count + 1).address) }
    append(tokens: 1, deviations: deviations, norms: norms)
  }
}
