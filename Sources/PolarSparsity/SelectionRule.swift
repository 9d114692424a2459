public import PolarCore

/// The two complete ways of being head-sparse that a profile carries routers for.
public enum HeadMode: String, Sendable, Equatable, CaseIterable {
  /// The default: every head whose predicted deviation exceeds one threshold; the others attend locally.
  case adaptive
  /// Polar Sparsity (arXiv 2505.14884, section 4): the `k` heads of largest predicted output norm; the others are zero.
  case paper
}

/// How scores become a choice of heads.
public enum SelectionRule: Sendable, Equatable {
  /// The `max(1, round(density * units))` units of largest score in every row and layer.
  case topK(density: Double)
  /// Every unit whose score is greater than `threshold`, so that counts vary by row and layer.
  case adaptive(threshold: Float)
}

/// What a policy's unselected heads contribute, before it is bound to a layer (see ``HeadFallback``).
public enum FallbackRule: Sendable, Equatable {
  /// Nothing.
  case zero
  /// The profile's mean output of the head.
  case constant
  /// Exact attention over the first and the last pages of the sequence.
  case local(sinkPages: Int, recentPages: Int)
}

/// The fraction of selection units that is computed in full in a sparse layer.
public enum Density {
  /// Checks that `density` is greater than 0 and at most 1.
  /// - Throws: ``PolarError/request(field:reason:)`` for 0, negative, greater than 1 and NaN.
  @discardableResult
  public static func validated(_ density: Double) throws(PolarError) -> Double {
    guard density > 0, density <= 1 else {
      throw .request(field: "density", reason: "\(density) is not greater than 0 and at most 1")
    }
    return density
  }

  /// The number of units that top-k selection takes: `max(1, round(density * units))`, at most `units`.
  public static func count(_ density: Double, of units: Int) -> Int {
    min(units, max(1, Int((density * Double(units)).rounded())))
  }
}

/// What one score decides about: a query head, or a whole KV group of them.
public struct SelectionUnits: Sendable, Equatable, Codable {
  /// Scores per row and layer.
  public let count: Int
  /// Consecutive query heads that one score switches together.
  public let headsPerUnit: Int

  /// Units of `heads` query heads, `headsPerUnit` at a time.
  public init(heads: Int, headsPerUnit: Int) {
    self.count = heads / max(1, headsPerUnit)
    self.headsPerUnit = max(1, headsPerUnit)
  }

  /// The unit that pays for a model: KV groups when there are at least four of them and fewer than heads (then a
  /// group's K and V are read once for all its heads), single heads otherwise.
  public static func natural(heads: Int, kvHeads: Int) -> SelectionUnits {
    let grouped = kvHeads >= 4 && kvHeads < heads
    return SelectionUnits(heads: heads, headsPerUnit: grouped ? heads / kvHeads : 1)
  }
}
