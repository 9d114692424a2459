import Foundation

/// The transcendental functions that calibration uses, by one name for both widths.
enum Math {
  static func log(_ x: Float) -> Float { Foundation.log(x) }
  static func log(_ x: Double) -> Double { Foundation.log(x) }
  static func exp(_ x: Float) -> Float { Foundation.exp(x) }
  static func exp(_ x: Double) -> Double { Foundation.exp(x) }
  static func cos(_ x: Double) -> Double { Foundation.cos(x) }
}
