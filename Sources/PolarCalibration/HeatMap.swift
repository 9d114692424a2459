/// A table of values as shades of one colour, rows downwards.
public struct HeatMap: Sendable {
  /// Names of the rows' axis and the columns' axis.
  public var labels: (rows: String, columns: String)
  /// `[rows][columns]`.
  public var values: [[Double]]
  /// The value of the darkest shade.
  public var largest: Double
  /// Whether shades grow with the square root, which tells small values apart.
  public var isRooted: Bool
  /// How values are written.
  public var format: @Sendable (Double) -> String

  /// A map.
  public init(
    rows: String, columns: String, values: [[Double]], largest: Double? = nil, isRooted: Bool = false,
    format: @escaping @Sendable (Double) -> String
  ) {
    labels = (rows, columns)
    self.values = values
    self.largest = max(largest ?? values.joined().max() ?? 0, 1e-12)
    self.isRooted = isRooted
    self.format = format
  }

  /// The drawing, with a key of the shades below it.
  public func svg(width: Double = 900) -> SVG {
    let columns = values.map(\.count).max() ?? 0
    let cell = (width: (width - 70) / Double(max(1, columns)), height: values.count > 24 ? 12.0 : 18.0)
    let bottom = 12 + cell.height * Double(values.count)
    var svg = SVG(width: width, height: bottom + 64, label: "\(labels.rows) by \(labels.columns)")
    func shade(_ value: Double) -> String {
      let part = min(1, max(0, value / largest))
      return
        "rgba(var(--heat),\(QualityReport.fixed(0.04 + 0.96 * (isRooted ? part.squareRoot() : part), 3)))"
    }
    for (row, line) in values.enumerated() {
      let y = 8 + Double(row) * cell.height
      svg.text(52, y + cell.height - 5, "\(row)", anchor: "end", style: "axis")
      for (column, value) in line.enumerated() {
        svg.box(
          60 + Double(column) * cell.width, y, cell.width - 1, cell.height - 1, fill: shade(value),
          tip: "\(labels.rows) \(row), \(labels.columns) \(column): \(format(value))")
      }
    }
    let step = max(1, (columns + 31) / 32)
    for column in stride(from: 0, to: columns, by: step) {
      svg.text(
        60 + (Double(column) + 0.5) * cell.width, bottom + 12, "\(column)", anchor: "middle", style: "axis")
    }
    svg.text(width / 2 + 30, bottom + 28, labels.columns, anchor: "middle", style: "axis")
    svg.text(
      14, 8 + cell.height * Double(values.count) / 2, labels.rows, anchor: "middle", style: "axis",
      turned: true)
    for step in 0...4 {
      let value = largest * Double(step) / 4
      svg.box(60 + Double(step) * 90, bottom + 38, 22, 14, fill: shade(value), tip: format(value))
      svg.text(88 + Double(step) * 90, bottom + 50, format(value), style: "axis")
    }
    return svg
  }
}
