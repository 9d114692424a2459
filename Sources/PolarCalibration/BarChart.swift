/// Stacked bars in groups, over one labelled axis.
public struct BarChart: Sendable {
  /// One bar: its parts from the bottom up.
  public struct Bar: Sendable {
    /// What stands below it.
    public var name: String
    /// Its parts: value and colour; pale ones are drawn lighter.
    public var parts: [(name: String, value: Double, colour: Int, isPale: Bool)]

    /// A bar.
    public init(_ name: String, _ parts: [(name: String, value: Double, colour: Int, isPale: Bool)]) {
      self.name = name
      self.parts = parts
    }
  }

  /// Groups of bars with the names that stand below them.
  public var groups: [(name: String, bars: [Bar])]
  /// The vertical axis.
  public var y: ChartAxis
  /// A heading inside the drawing; none when empty.
  public var title: String

  /// A chart.
  public init(title: String = "", groups: [(name: String, bars: [Bar])], y: ChartAxis) {
    self.title = title
    self.groups = groups
    self.y = y
  }

  /// The drawing.
  public func svg(width: Double = 900, height: Double = 300, legend: Double = 150) -> SVG {
    var svg = SVG(width: width, height: height, label: "\(title) \(y.label)")
    let (left, top, bottom) = (62.0, title.isEmpty ? 12.0 : 30.0, 44.0)
    let (right, floor) = (width - legend, height - bottom)
    if !title.isEmpty { svg.text(left, 16, title, style: "title") }
    for tick in y.ticks {
      let at = floor - y.position(tick) * (floor - top)
      svg.line(left, at, right, at)
      svg.text(left - 6, at + 4, y.format(tick), anchor: "end", style: "axis")
    }
    svg.text(14, (top + floor) / 2, y.label, anchor: "middle", style: "axis", turned: true)
    let slots = groups.reduce(0) { $0 + $1.bars.count } + groups.count
    let step = (right - left) / Double(max(1, slots))
    var at = left + step / 2
    var named: [String] = []
    for group in groups {
      let middle = at + step * Double(group.bars.count) / 2
      svg.text(middle, height - 8, group.name, anchor: "middle", style: "axis")
      for bar in group.bars {
        var sum = 0.0
        for part in bar.parts {
          let (from, to) = (y.position(sum), y.position(sum + part.value))
          let style = "f\(part.colour % ChartStyle.colours)\(part.isPale ? " pale" : "")"
          svg.box(
            at + step * 0.1, floor - to * (floor - top), step * 0.8, (to - from) * (floor - top),
            style: style,
            tip: "\(group.name), \(bar.name), \(part.name): \(y.format(part.value))")
          if !named.contains(part.name) {
            let legendY = top + 10 + Double(named.count) * 18
            svg.box(right + 14, legendY - 10, 14, 11, style: style, tip: part.name)
            svg.text(right + 34, legendY, part.name)
            named.append(part.name)
          }
          sum += part.value
        }
        svg.text(at + step / 2, floor + 14, bar.name, anchor: "middle", style: "axis")
        at += step
      }
      at += step
    }
    return svg
  }
}
