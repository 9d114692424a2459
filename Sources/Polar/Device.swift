public import Foundation
public import PolarBench
import PolarCPU
public import PolarCore
import PolarReference
public import PolarSparsity

/// Where a model runs. This target is the only one that names concrete backends.
public enum Device: Sendable, Equatable {
  /// The best that the machine has.
  case automatic
  /// The CPU, with this many threads (all cores when nil).
  case cpu(threads: Int? = nil)
  /// The slow, obvious f32 backend that others are checked against.
  case reference

  /// The device's backend.
  /// - Throws: ``PolarError/configuration(field:reason:)`` for a thread count that makes no sense.
  public func makeBackend() throws(PolarError) -> any Backend {
    switch self {
    case .automatic: try CPUBackend()
    case .cpu(let threads): try CPUBackend(threads: threads)
    case .reference: ReferenceBackend()
    }
  }

  /// Measures what the CPU can do at best; takes about a second.
  public static func measureLimits(threads: Int? = nil) throws(PolarError) -> MachineLimits {
    let backend = try CPUBackend(threads: threads)
    return MachineLimits(
      readBandwidth: backend.measuredReadBandwidth(), arithmeticPeak: backend.measuredFMAPeak())
  }
}

/// Which profile a model decodes with, and how.
public struct SparsitySetting: Sendable {
  /// The profile's file.
  public var profile: URL
  /// Mean density of heads over the sparse layers, in (0, 1]; the profile's own when nil.
  public var density: Double?
  /// What is sparse; as the profile says when nil.
  public var mode: SparsityMode?
  /// How heads are chosen and what the others do.
  public var heads: HeadMode

  /// A setting.
  public init(
    profile: URL, mode: SparsityMode? = nil, density: Double? = nil, heads: HeadMode = .adaptive
  ) {
    self.profile = profile
    self.mode = mode
    self.density = density
    self.heads = heads
  }
}
