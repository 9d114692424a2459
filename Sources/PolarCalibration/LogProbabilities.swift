/// Kernels over rows of logits.
enum LogProbabilities {
  /// `log sum exp` of `count` logits.
  static func logSumExp(_ logits: UnsafePointer<Float>, count: Int) -> Float {
    var maximum = -Float.infinity
    for i in 0..<count { maximum = max(maximum, logits[i]) }
    guard maximum.isFinite else { return maximum }
    var sums = SIMD8<Float>.zero
    var i = 0
    while i + 8 <= count {
      let values = UnsafeRawPointer(logits + i).loadUnaligned(as: SIMD8<Float>.self)
      sums += exp(values - maximum)
      i += 8
    }
    var sum = sums.sum()
    while i < count {
      sum += Math.exp(logits[i] - maximum)
      i += 1
    }
    return maximum + Math.log(sum)
  }

  /// `e^x` for x at most 0, to about 1e-6 relative: `2^(x log2 e)` with a polynomial for the fraction.
  @inline(__always)
  static func exp(_ x: SIMD8<Float>) -> SIMD8<Float> {
    let t = x.clamped(lowerBound: SIMD8(repeating: -87), upperBound: .zero) * 1.442_695_04
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    let magic = SIMD8<Float>(repeating: 12_582_912)
    let shifted = t + magic
    let whole = shifted - magic
    let f = (t - whole) * 0.693_147_18
    var p = SIMD8<Float>(repeating: 1 / 720)
    p = p * f + SIMD8(repeating: 1 / 120)
    p = p * f + SIMD8(repeating: 1 / 24)
    p = p * f + SIMD8(repeating: 1 / 6)
    p = p * f + SIMD8(repeating: 0.5)
    p = p * f + SIMD8(repeating: 1)
    p = p * f + SIMD8(repeating: 1)
    // The low bits of the shifted value are that integer.
    let bits = unsafeBitCast(shifted, to: SIMD8<Int32>.self) &- unsafeBitCast(magic, to: SIMD8<Int32>.self)
    let exponent = (bits &+ 127) &<< 23
    return p * unsafeBitCast(exponent, to: SIMD8<Float>.self)
  }
}

/// A distribution in bounded form: its `kept` likeliest tokens and the mass of the rest.
///
/// The divergence from it is the Kullback-Leibler divergence over that partition, a lower bound of the full one that is
/// tight when the rest carries little mass.
struct ReferenceDistribution: Sendable {
  static let kept = 256
  let tokens: [Int32]
  let logs: [Float]
  let restLog: Float

  /// The likeliest tokens of `count` logits.
  init(_ logits: UnsafePointer<Float>, count: Int) {
    let total = LogProbabilities.logSumExp(logits, count: count)
    let kept = min(Self.kept, count)
    // A bounded list of candidates above a rising threshold finds the largest without sorting the vocabulary.
    var candidates: [(Float, Int32)] = []
    var threshold = -Float.infinity
    func shrink() {
      candidates.sort { $0.0 > $1.0 }
      candidates.removeLast(candidates.count - kept)
      threshold = candidates[kept - 1].0
    }
    for i in 0..<count where logits[i] > threshold {
      candidates.append((logits[i], Int32(i)))
      if candidates.count >= 4 * kept { shrink() }
    }
    if candidates.count > kept { shrink() }
    tokens = candidates.map(\.1)
    logs = candidates.map { $0.0 - total }
    let mass = logs.reduce(0.0) { $0 + Math.exp(Double($1)) }
    restLog = Float(Math.log(max(1 - mass, 1e-9)))
  }

  /// `KL(self || softmax(logits))` over the partition, in nats.
  func divergence(_ logits: UnsafePointer<Float>, logSumExp: Float) -> Double {
    var (sum, otherMass) = (0.0, 0.0)
    for (token, log) in zip(tokens, logs) {
      let other = Double(logits[Int(token)] - logSumExp)
      sum += Math.exp(Double(log)) * (Double(log) - other)
      otherMass += Math.exp(other)
    }
    let rest = Math.exp(Double(restLog))
    sum += rest * (Double(restLog) - Math.log(max(1 - otherMass, 1e-9)))
    return max(0, sum)
  }
}
