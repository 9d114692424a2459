/// One axis of a chart.
public struct ChartAxis: Sendable {
  /// What is shown, with its unit.
  public var label: String
  /// Where numbers stand.
  public var ticks: [Double]
  /// The least value shown.
  public var lower: Double
  /// The greatest value shown.
  public var upper: Double
  /// Whether equal ratios are equal distances.
  public var isLogarithmic: Bool
  /// How numbers are written.
  public var format: @Sendable (Double) -> String

  /// An axis.
  public init(
    _ label: String, _ range: ClosedRange<Double>, ticks: [Double], isLogarithmic: Bool = false,
    format: @escaping @Sendable (Double) -> String = { QualityReport.fixed($0, 0) }
  ) {
    self.label = label
    self.ticks = ticks
    lower = range.lowerBound
    upper = range.upperBound
    self.isLogarithmic = isLogarithmic
    self.format = format
  }

  /// An axis from 0 to about `largest` with round ticks.
  public static func upTo(
    _ largest: Double, _ label: String, format: (@Sendable (Double) -> String)? = nil
  ) -> ChartAxis {
    var step = 1.0
    let wanted = max(largest, 1e-9) / 5
    while step > wanted { step /= 10 }
    while step * 10 <= wanted { step *= 10 }
    step *= [1, 2, 5, 10].first { step * $0 >= wanted } ?? 10
    let count = Int((max(largest, 1e-9) / step).rounded(.up))
    let digits = step >= 1 ? 0 : step >= 0.1 ? 1 : step >= 0.01 ? 2 : step >= 0.001 ? 3 : 4
    return ChartAxis(
      label, 0...step * Double(count), ticks: (0...count).map { Double($0) * step },
      format: format ?? { QualityReport.fixed($0, digits) })
  }

  /// Per cent from 0 to 100; values are fractions.
  public static func fraction(_ label: String) -> ChartAxis {
    ChartAxis(label, 0...1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1]) { QualityReport.fixed($0 * 100, 0) }
  }

  /// Layers `0 ..< count`.
  static func layers(_ count: Int) -> ChartAxis {
    let step = max(1, (count + 15) / 16)
    return ChartAxis(
      "layer", 0...Double(max(1, count - 1)), ticks: stride(from: 0, to: count, by: step).map(Double.init))
  }

  /// Batch sizes, evenly spaced by their logarithm.
  public static func batches(_ sizes: [Int]) -> ChartAxis {
    let values = sizes.map(Double.init)
    let upper = values.last ?? 1
    return ChartAxis(
      "sequences in the batch", (values.first ?? 1)...(upper > (values.first ?? 1) ? upper : upper + 1),
      ticks: values, isLogarithmic: true)
  }

  /// Where a value lies between lower (0) and upper (1); values outside are moved to the ends.
  func position(_ value: Double) -> Double {
    let clamped = min(max(value, lower), upper)
    if isLogarithmic { return Math.log(clamped / lower) / Math.log(upper / lower) }
    return (clamped - lower) / max(upper - lower, 1e-12)
  }
}
