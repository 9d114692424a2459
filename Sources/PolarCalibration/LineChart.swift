/// Lines over two labelled axes, with a legend to the right.
public struct LineChart: Sendable {
  /// One line.
  public struct Series: Sendable {
    /// What the legend calls it.
    public var name: String
    /// Points, by ascending x.
    public var points: [(x: Double, y: Double)]
    /// One of ``ChartStyle/colours``.
    public var colour: Int
    /// Whether the line is dashed.
    public var isDashed: Bool

    /// A line.
    public init(_ name: String, _ points: [(x: Double, y: Double)], colour: Int, isDashed: Bool = false) {
      self.name = name
      self.points = points
      self.colour = colour % ChartStyle.colours
      self.isDashed = isDashed
    }
  }

  /// The horizontal axis.
  public var x: ChartAxis
  /// The vertical axis.
  public var y: ChartAxis
  /// The lines.
  public var series: [Series]
  /// A heading inside the drawing; none when empty.
  public var title: String
  /// A value of y that is marked across, such as 1 for a ratio.
  public var mark: Double?

  /// A chart.
  public init(title: String = "", x: ChartAxis, y: ChartAxis, series: [Series], mark: Double? = nil) {
    self.title = title
    self.x = x
    self.y = y
    self.series = series
    self.mark = mark
  }

  /// The drawing.
  public func svg(width: Double = 900, height: Double = 360, legend: Double = 170) -> SVG {
    var svg = SVG(width: width, height: height, label: "\(title) \(y.label) by \(x.label)")
    let (left, top, bottom) = (62.0, title.isEmpty ? 12.0 : 30.0, 44.0)
    let (right, floor) = (width - legend, height - bottom)
    func place(_ point: (x: Double, y: Double)) -> (x: Double, y: Double) {
      (left + x.position(point.x) * (right - left), floor - y.position(point.y) * (floor - top))
    }
    if !title.isEmpty { svg.text(left, 16, title, style: "title") }
    for tick in y.ticks {
      let at = place((x.lower, tick)).y
      svg.line(left, at, right, at)
      svg.text(left - 6, at + 4, y.format(tick), anchor: "end", style: "axis")
    }
    for tick in x.ticks {
      let at = place((tick, y.lower)).x
      svg.line(at, top, at, floor)
      svg.text(at, floor + 16, x.format(tick), anchor: "middle", style: "axis")
    }
    if let mark {
      let at = place((x.lower, mark)).y
      svg.line(left, at, right, at, "line c5")
    }
    svg.text((left + right) / 2, height - 8, x.label, anchor: "middle", style: "axis")
    svg.text(14, (top + floor) / 2, y.label, anchor: "middle", style: "axis", turned: true)
    var legendY = top + 10
    for line in series where !line.points.isEmpty {
      let style = "line c\(line.colour)\(line.isDashed ? " dashed" : "")"
      svg.polyline(line.points.map(place), style)
      for point in line.points {
        let at = place(point)
        svg.dot(
          at.x, at.y, "line c\(line.colour)",
          tip: "\(line.name); \(x.label) \(x.format(point.x)): \(y.format(point.y))")
      }
      if legend > 60 {
        svg.line(right + 14, legendY - 4, right + 40, legendY - 4, style)
        svg.text(right + 46, legendY, line.name)
        legendY += 18
      }
    }
    return svg
  }
}
