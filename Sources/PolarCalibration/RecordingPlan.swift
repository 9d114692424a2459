import PolarFormats
import PolarSparsity

/// How many tokens a recording keeps of each layer, and the memory that they take.
public struct RecordingPlan: Sendable, Equatable {
  /// Tokens that will be eligible.
  public let expected: Int
  /// Tokens of each layer that are kept at most, spread evenly over the eligible ones.
  public let tokens: Int
  /// Bytes of labels and activations in the host's memory, and of inputs too where these lie there.
  public let hostBytes: Int
  /// Bytes of inputs in the device's memory; 0 where routers are trained on the host.
  public let deviceBytes: Int
  /// The most bytes that recorded inputs may take on the device; nil where routers are trained on the host.
  public let deviceLimit: Int?

  /// Keeps as many of `expected` tokens as fit.
  /// - Parameters:
  ///   - shapes: of every recorded layer.
  ///   - hostLimit: bytes of the host's memory.
  ///   - deviceLimit: bytes of the device's memory for inputs; nil keeps them on the host, within its limit.
  init(_ shapes: [RecordedShape], expected: Int, hostLimit: Int, deviceLimit: Int?) {
    let inputs = shapes.reduce(0) { $0 + LayerSamples.inputBytes($1.inputs) }
    let labels = shapes.reduce(0) { $0 + LayerSamples.labelBytes(units: $1.units, neurons: $1.neurons) }
    let perToken = (
      host: deviceLimit == nil ? labels + inputs : labels, device: deviceLimit == nil ? 0 : inputs
    )
    self.expected = expected
    tokens = min(
      expected, max(1, hostLimit / max(1, perToken.host)),
      max(1, (deviceLimit ?? .max) / max(1, perToken.device)))
    hostBytes = tokens * perToken.host
    deviceBytes = tokens * perToken.device
    self.deviceLimit = deviceLimit
  }

  /// One line for people: what is kept, and where.
  public var summary: String {
    func gigabytes(_ bytes: Int) -> String {
      // Two decimals without Foundation.
      let hundredths = (bytes + 5_000_000) / 10_000_000
      let rest = hundredths % 100
      return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest) GB"
    }
    var line = "recording \(tokens) of \(expected) tokens of each layer: \(gigabytes(hostBytes)) in memory"
    if let deviceLimit {
      line += ", \(gigabytes(deviceBytes)) on the device (at most \(gigabytes(deviceLimit)))"
    }
    return line
  }
}

/// What is recorded of a token of one layer.
struct RecordedShape: Sendable {
  /// Whether there are head routers to train.
  var routesHeads: Bool
  /// Width of the input, local features included.
  var inputs: Int
  /// The last columns of it that are norms of local attention.
  var localFeatures: Int
  /// Labels of heads.
  var units: Int
  /// Neurons whose activity is recorded.
  var neurons: Int

  /// The shapes of all layers of a model; nil where nothing is recorded but means.
  static func all(
    _ config: ModelConfig, units: SelectionUnits, denseLayers: Set<Int>, recordsNeurons: Bool
  ) -> [RecordedShape?] {
    // The norms of the two halves of every head's local output.
    let features = 2 * config.heads
    let neurons = recordsNeurons ? config.intermediate : 0
    return (0..<config.layers).map { layer in
      guard denseLayers.contains(layer) else {
        return RecordedShape(
          routesHeads: true, inputs: config.hidden + features, localFeatures: features, units: units.count,
          neurons: neurons)
      }
      return recordsNeurons
        ? RecordedShape(
          routesHeads: false, inputs: config.hidden, localFeatures: 0, units: 0, neurons: neurons) : nil
    }
  }
}
