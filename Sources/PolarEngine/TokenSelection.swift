/// Narrows a list of candidate tokens to the most likely ones in linear time, without sorting them.
///
/// Order: greater weight first, lower id first among equals, so a cut never depends on chance.
struct TokenSelection {
  let weights: UnsafeBufferPointer<Float>
  let candidates: UnsafeMutableBufferPointer<Int32>
  /// Candidates that are left, at the front of the list, in no particular order.
  private(set) var count: Int
  /// Picks pivots; its own, so that a request's random numbers do not depend on the selection's work.
  private var pivots = RandomStream(seed: 0)

  init(weights: UnsafeBufferPointer<Float>, candidates: UnsafeMutableBufferPointer<Int32>, count: Int) {
    self.weights = weights
    self.candidates = candidates
    self.count = count
  }

  /// Sum of the weights that are left.
  var mass: Double {
    var sum = 0.0
    for index in 0..<count { sum += Double(weights[Int(candidates[index])]) }
    return sum
  }

  /// Keeps the `limit` most likely.
  mutating func keepMostLikely(_ limit: Int) {
    guard limit < count else { return }
    var low = 0
    var high = count
    // Everything before `low` is kept, everything from `high` on is not.
    while low < high {
      let (split, _) = partition(low..<high)
      if split <= limit { low = split } else { high = split - 1 }
      if low == limit || high == limit { break }
    }
    count = limit
  }

  /// Keeps the fewest most likely whose weights add up to `target`; all if they do not.
  mutating func keepMass(_ target: Double) {
    var low = 0
    var high = count
    var kept = 0.0
    while low < high {
      let (split, upper) = partition(low..<high)
      // `split - 1` is the pivot: the least likely of the upper part.
      let pivot = Double(weights[Int(candidates[split - 1])])
      if kept + upper < target {
        kept += upper
        low = split
      } else if kept + upper - pivot >= target {
        high = split - 1
      } else {
        low = split
        break
      }
    }
    count = max(1, low)
  }

  /// Moves what ranks at or above a pivot to the front of `range`, the pivot last. Returns the end of that part and the
  /// sum of its weights.
  private mutating func partition(_ range: Range<Int>) -> (split: Int, mass: Double) {
    let last = range.upperBound - 1
    candidates.swapAt(
      range.lowerBound + Int(truncatingIfNeeded: pivots.next() % UInt64(range.count)), last)
    let pivot = candidates[last]
    let pivotWeight = weights[Int(pivot)]
    var split = range.lowerBound
    var mass = 0.0
    for index in range.lowerBound..<last {
      let candidate = candidates[index]
      let weight = weights[Int(candidate)]
      if weight > pivotWeight || (weight == pivotWeight && candidate < pivot) {
        candidates[index] = candidates[split]
        candidates[split] = candidate
        split += 1
        mass += Double(weight)
      }
    }
    candidates.swapAt(split, last)
    return (split + 1, mass + Double(pivotWeight))
  }
}

/// Xoshiro256** (Blackman and Vigna), seeded by SplitMix64: small, quick, and the same on every machine.
struct RandomStream: RandomNumberGenerator, Sendable {
  private var state: (UInt64, UInt64, UInt64, UInt64)

  init(seed: UInt64) {
    var counter = seed
    func splitMix() -> UInt64 {
      counter &+= 0x9E37_79B9_7F4A_7C15
      var value = counter
      value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
      value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
      return value ^ (value >> 31)
    }
    state = (splitMix(), splitMix(), splitMix(), splitMix())
  }

  mutating func next() -> UInt64 {
    func rotate(_ value: UInt64, _ by: UInt64) -> UInt64 { (value << by) | (value >> (64 - by)) }
    let result = rotate(state.1 &* 5, 7) &* 9
    let shifted = state.1 << 17
    state.2 ^= state.0
    state.3 ^= state.1
    state.1 ^= state.2
    state.0 ^= state.3
    state.2 ^= shifted
    state.3 = rotate(state.3, 45)
    return result
  }

  /// A number in [0, 1) with 53 random bits.
  mutating func nextUnit() -> Double { Double(next() >> 11) * 0x1p-53 }
}
