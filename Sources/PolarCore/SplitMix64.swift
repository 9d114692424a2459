/// A small deterministic random generator: the same seed gives the same numbers everywhere.
///
/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
public struct SplitMix64: RandomNumberGenerator, Sendable {
  private var state: UInt64

  /// A generator that starts from `seed`.
  public init(seed: UInt64) { self.state = seed }

  /// A generator whose numbers depend on `seed` and `label`, for independent streams under one seed.
  public init(seed: UInt64, label: String) {
    // FNV-1a, since `Hashable` is seeded anew by every process.
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in label.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    self.state = seed &* 0x9e37_79b9_7f4a_7c15 ^ hash
  }

  /// The next 64 random bits.
  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// A float that is uniform in (0, 1].
  public mutating func unitFloat() -> Float {
    Float((next() >> 40) + 1) * 0x1p-24
  }
}
