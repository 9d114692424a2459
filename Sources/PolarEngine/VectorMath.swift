#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Passes over a row of logits, eight at a time.
enum VectorMath {
  private typealias Lane = SIMD8<Float>

  /// The largest value and the first index that holds it; nil when the row is empty or any value is NaN.
  ///
  /// One pass that keeps the largest value of each block in registers, then a look at one block.
  static func peak(_ row: UnsafeBufferPointer<Float>) -> (value: Float, index: Int)? {
    let blockSize = 1024
    var best = -Float.infinity
    var bestBlock = 0
    for start in stride(from: 0, to: row.count, by: blockSize) {
      let block = UnsafeBufferPointer(rebasing: row[start..<min(row.count, start + blockSize)])
      guard let largest = maximum(block) else { return nil }
      if largest > best { (best, bestBlock) = (largest, start) }
    }
    guard !row.isEmpty else { return nil }
    let block = UnsafeBufferPointer(rebasing: row[bestBlock..<min(row.count, bestBlock + blockSize)])
    return (best, bestBlock + firstIndex(of: best, in: block))
  }

  /// The largest value; nil when the row is empty or any value is NaN.
  static func maximum(_ row: UnsafeBufferPointer<Float>) -> Float? {
    guard !row.isEmpty else { return nil }
    var best = Lane(repeating: -.infinity)
    // Stays zero while all values are numbers: NaN != NaN.
    var broken = SIMDMask<SIMD8<Int32>>(repeating: false)
    let whole = row.count & ~7
    let raw = UnsafeRawBufferPointer(row)
    for start in stride(from: 0, to: whole, by: 8) {
      let lane = raw.loadUnaligned(fromByteOffset: start * 4, as: Lane.self)
      broken = broken .| (lane .!= lane)
      best.replace(with: lane, where: lane .> best)
    }
    var result = best.max()
    var isBroken = any(broken)
    for value in row[whole...] {
      isBroken = isBroken || value.isNaN
      if value > result { result = value }
    }
    return isBroken ? nil : result
  }

  /// The first index that holds `value`, which must be in the row.
  static func firstIndex(of value: Float, in row: UnsafeBufferPointer<Float>) -> Int {
    let wanted = Lane(repeating: value)
    let whole = row.count & ~7
    let raw = UnsafeRawBufferPointer(row)
    var index = 0
    while index < whole {
      if any(raw.loadUnaligned(fromByteOffset: index * 4, as: Lane.self) .== wanted) { break }
      index += 8
    }
    while index < row.count - 1, row[index] != value { index += 1 }
    return index
  }

  /// `out[i] = exp((row[i] - peak) * scale)`, for arguments of at most 0. Returns the sum. `out` may be `row`.
  @discardableResult
  static func exponentials(
    of row: UnsafeBufferPointer<Float>, minus peak: Float, times scale: Float,
    into out: UnsafeMutableBufferPointer<Float>
  ) -> Double {
    let whole = row.count & ~7
    let raw = UnsafeRawBufferPointer(row)
    let target = UnsafeMutableRawBufferPointer(out)
    var sum = 0.0
    for start in stride(from: 0, to: whole, by: 8) {
      let lane = raw.loadUnaligned(fromByteOffset: start * 4, as: Lane.self)
      let result = exponential((lane - peak) * scale)
      target.storeBytes(of: result, toByteOffset: start * 4, as: Lane.self)
      sum += Double(result.sum())
    }
    for index in whole..<row.count {
      let result = exponential(Lane(repeating: (row[index] - peak) * scale))[0]
      out[index] = result
      sum += Double(result)
    }
    return sum
  }

  /// `log(sum(exp(row - peak)))`.
  static func logOfSumOfExponentials(_ row: UnsafeBufferPointer<Float>, peak: Float) -> Double {
    let whole = row.count & ~7
    let raw = UnsafeRawBufferPointer(row)
    var sum = 0.0
    for start in stride(from: 0, to: whole, by: 8) {
      let lane = raw.loadUnaligned(fromByteOffset: start * 4, as: Lane.self)
      sum += Double(exponential(lane - peak).sum())
    }
    for value in row[whole...] { sum += Double(exponential(Lane(repeating: value - peak))[0]) }
    return log(sum)
  }

  /// e to the power of values of at most 0, to about 2 units in the last place; 0 below -87.
  ///
  /// `x = n ln 2 + r` with `|r| <= ln 2 / 2`: 2^n goes into the exponent bits, e^r is its Taylor polynomial.
  @inline(__always)
  private static func exponential(_ x: Lane) -> Lane {
    let tiny = x .< -87
    let clamped = x.replacing(with: Lane(repeating: -87), where: tiny)
    // Adding 1.5 * 2^23 rounds to an integer, which is then the low bits of the sum.
    let magic = Lane(repeating: 12_582_912)
    let shifted = clamped * 1.442_695_04 + magic
    let n = shifted - magic
    // ln 2 in two parts, so that n * high is exact.
    let r = (clamped - n * 0.693_359_375) + n * 2.121_944_4e-4
    var p = Lane(repeating: 1 / 720)
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = p * r + 1
    p = p * r + 1
    let exponent =
      unsafeBitCast(shifted, to: SIMD8<Int32>.self) &- unsafeBitCast(magic, to: SIMD8<Int32>.self)
    let power = unsafeBitCast((exponent &+ 127) &<< 23, to: Lane.self)
    return (p * power).replacing(with: 0, where: tiny)
  }
}
