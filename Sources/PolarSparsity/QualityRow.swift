/// One measured point of a quality curve: teacher-forced decoding of held-out text through the serving path.
public struct QualityRow: Sendable, Equatable, Codable {
  /// ``HeadMode`` by name, or `dense`.
  public var mode: String
  /// The policy's name: `dense`, `routed`, `oracle`, `random` or `static`.
  public var policy: String
  /// The mean density that was asked for.
  public var wanted: Double
  /// The mean density over the sparse layers that was measured.
  public var got: Double
  /// Perplexity of the scored tokens.
  public var perplexity: Double
  /// Mean Kullback-Leibler divergence from the dense distribution, in nats per token.
  public var divergence: Double

  /// A measured point.
  public init(
    mode: String, policy: String, wanted: Double, got: Double, perplexity: Double, divergence: Double
  ) {
    self.mode = mode
    self.policy = policy
    self.wanted = wanted
    self.got = got
    self.perplexity = perplexity
    self.divergence = divergence
  }
}
