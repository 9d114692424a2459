public import PolarCore
public import PolarSparsity

/// Trains the neuron router of one ReLU MLP from recorded samples. The same samples, options and seed give the same
/// weights.
public struct NeuronRouterTrainer: Sendable {
  /// How neuron routers are trained.
  ///
  /// The paper's settings are a constant rate of 1e-4, batches of 64 and up to 20 epochs with the best F1 kept. Here a
  /// higher rate falls to 0 over a few epochs, so that calibration stays a matter of minutes.
  public struct Options: Sendable {
    /// Width of the bottleneck, a multiple of 8; nil is ``NeuronRouterWeights/defaultRank(hidden:)``.
    public var rank: Int?
    /// Passes over the samples.
    public var epochs = 6
    /// Samples per step.
    public var batch = 256
    /// Peak learning rate.
    public var rate: Float = 5e-3
    /// Added to the batch's fraction of active neurons to weigh the inactive ones in the loss.
    public var negativeOffset: Float = 0.005
    /// Fraction of the samples, the last ones, held out for recall, budgets and thresholds.
    public var heldOut = 0.1
    /// Where the random numbers of training start.
    public var seed: UInt64 = 1

    /// The defaults.
    public init() {}
  }

  /// A trained router and its scores on held-out tokens.
  public struct Trained: Sendable {
    /// The router, for inputs as they come.
    public var router: NeuronRouterWeights
    /// The held-out tokens.
    public var heldOut: Range<Int>
    /// Its scores on them: `[heldOut.count, neurons]`.
    public var scores: [Float]
    /// The fraction of the active neurons whose score is above 0.
    public var recall: Double
    /// The fraction of the scores above 0 whose neuron is active.
    public var precision: Double
  }

  /// The options in force.
  public let options: Options

  /// A trainer.
  public init(options: Options = Options()) { self.options = options }

  /// Trains on all but the last samples.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``, or what the device that trains reports.
  public func train(
    _ samples: LayerSamples, activations: ActivationBits, seed: UInt64
  ) throws(PolarError) -> Trained {
    precondition(activations.count == samples.count, "every sample needs its activations")
    let split = max(1, samples.count - max(1, Int(Double(samples.count) * options.heldOut)))
    let data = try TrainingData(samples, tokens: split, centred: false)
    let hidden = samples.inputs - samples.localFeatures
    var network = NeuronRouterNetwork(
      data: data, neurons: activations.neurons,
      rank: options.rank ?? NeuronRouterWeights.defaultRank(hidden: hidden), seed: seed)
    try network.descend(
      activations: activations, tokens: split, epochs: options.epochs, batch: options.batch,
      rate: options.rate, offset: options.negativeOffset, seed: seed
    )
    let heldOut = split..<samples.count
    let scores = try network.servedScores(heldOut)
    if let failure = samples.ops.failure { throw failure }
    let (recall, precision) = Self.quality(scores, activations: activations, tokens: heldOut)
    return Trained(
      router: network.folded(), heldOut: heldOut, scores: scores, recall: recall, precision: precision)
  }

  /// Recall and precision of scores above 0.
  static func quality(
    _ scores: [Float], activations: ActivationBits, tokens: Range<Int>
  ) -> (recall: Double, precision: Double) {
    var (active, above, both) = (0, 0, 0)
    let neurons = activations.neurons
    for token in tokens {
      let row = (token - tokens.lowerBound) * neurons
      for neuron in 0..<neurons {
        let (isActive, isAbove) = (activations[token, neuron], scores[row + neuron] > 0)
        active += isActive ? 1 : 0
        above += isAbove ? 1 : 0
        both += isActive && isAbove ? 1 : 0
      }
    }
    return (
      active == 0 ? 1 : Double(both) / Double(active), above == 0 ? 1 : Double(both) / Double(above)
    )
  }
}
