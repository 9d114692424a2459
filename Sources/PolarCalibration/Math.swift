import Foundation

/// The transcendental functions that calibration uses, by one name for both widths.
enum Math {
  static func log(_ x: Float) -> Float { Foundation.log(x) }
  static func log(_ x: Double) -> Double { Foundation.log(x) }
  static func exp(_ x: Float) -> Float { Foundation.exp(x) }
  static func exp(_ x: Double) -> Double { Foundation.exp(x) }
  static func cos(_ x: Double) -> Double { Foundation.cos(x) }

  /// `1 / (1 + e^-x)` to about 1e-6, eight at a time: `e^y = 2^n 2^f` with `n` the nearest integer of `y log2(e)` and a
  /// polynomial for `2^f`, `|f| <= 1/2` (its Taylor series).
  @inline(__always)
  static func sigmoid(_ x: SIMD8<Float>) -> SIMD8<Float> {
    let y = -x.clamped(lowerBound: SIMD8(repeating: -80), upperBound: SIMD8(repeating: 80)) * 1.442_695
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    let whole = (y + 12_582_912) - 12_582_912
    let f = y - whole
    var series = SIMD8<Float>(repeating: 1.333_355_8e-3)
    for coefficient in [9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1] as [Float] {
      series = series * f + coefficient
    }
    let exponent = SIMD8<Int32>(truncatingIfNeeded: SIMD8<Int32>(whole)) &+ 127
    let power = unsafeBitCast(exponent &<< 23, to: SIMD8<Float>.self)
    return 1 / (1 + series * power)
  }
}
