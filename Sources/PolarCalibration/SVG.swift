/// The look of all charts: colours for light and dark pages, and the classes that the fragments use.
public enum ChartStyle {
  /// Rules for a page's or an SVG's style sheet.
  public static let css = """
    :root{color-scheme:light dark;--ink:#1d2330;--paper:#fff;--faint:#667085;--grid:#dfe3ea;--heat:11,98,214;
    --c0:#0b62d6;--c1:#14804a;--c2:#b3460b;--c3:#7a3fb5;--c4:#b0266b;--c5:#5b6470;--c6:#8a6a00}
    @media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--paper:#14171d;--faint:#9aa3b2;--grid:#2c323d;
    --heat:106,168,255;--c0:#6aa8ff;--c1:#4fc98a;--c2:#f2935c;--c3:#c59bf5;--c4:#f07bb3;--c5:#a3adbb;--c6:#d9b84a}}
    svg.chart{width:100%;height:auto;font:12px system-ui,sans-serif}svg.chart text{fill:var(--ink)}
    svg.chart .axis{fill:var(--faint)}svg.chart .title{font-weight:600;font-size:13px}
    .grid{stroke:var(--grid);stroke-width:1}.line{fill:none;stroke-width:2}.dashed{stroke-dasharray:6 4}
    .c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}
    .c5{stroke:var(--c5)}.c6{stroke:var(--c6)}
    .f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}
    .f5{fill:var(--c5)}.f6{fill:var(--c6)}.pale{fill-opacity:.45}
    """

  /// Colours that ``css`` defines.
  public static let colours = 7
}

/// SVG text, assembled piece by piece.
public struct SVG {
  private var body = ""
  /// Width of the drawing.
  public let width: Double
  /// Height of the drawing.
  public let height: Double
  private let label: String

  /// An empty drawing; `label` says what it shows, for readers who do not see it.
  public init(width: Double, height: Double, label: String) {
    self.width = width
    self.height = height
    self.label = label
  }

  /// The drawing as an element of a page that has ``ChartStyle/css``.
  public var fragment: String {
    "<svg class=\"chart\" viewBox=\"0 0 \(number(width)) \(number(height))\" role=\"img\" "
      + "aria-label=\"\(Self.escape(label))\">\(body)</svg>"
  }

  /// The drawing as a file of its own.
  public var file: String {
    "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 \(number(width)) \(number(height))\" "
      + "role=\"img\" aria-label=\"\(Self.escape(label))\"><style>\(ChartStyle.css)</style>"
      + "<rect width=\"100%\" height=\"100%\" style=\"fill:var(--paper)\"/>\(body)</svg>\n"
  }

  mutating func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ style: String = "grid") {
    body +=
      "<line class=\"\(style)\" x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\"/>"
  }

  mutating func text(
    _ x: Double, _ y: Double, _ value: String, anchor: String = "start", style: String = "",
    turned: Bool = false
  ) {
    let turn = turned ? " transform=\"rotate(-90 \(number(x)) \(number(y)))\"" : ""
    body +=
      "<text class=\"\(style)\" x=\"\(number(x))\" y=\"\(number(y))\" text-anchor=\"\(anchor)\"\(turn)>"
      + "\(Self.escape(value))</text>"
  }

  mutating func polyline(_ points: [(x: Double, y: Double)], _ style: String) {
    let path = points.map { "\(number($0.x)),\(number($0.y))" }.joined(separator: " ")
    body += "<polyline class=\"\(style)\" points=\"\(path)\"/>"
  }

  mutating func dot(_ x: Double, _ y: Double, _ style: String, tip: String) {
    body +=
      "<circle class=\"\(style)\" r=\"3\" cx=\"\(number(x))\" cy=\"\(number(y))\">"
      + "<title>\(Self.escape(tip))</title></circle>"
  }

  mutating func box(
    _ x: Double, _ y: Double, _ width: Double, _ height: Double, style: String = "", fill: String? = nil,
    tip: String
  ) {
    let look = fill.map { " style=\"fill:\($0)\"" } ?? ""
    body +=
      "<rect class=\"\(style)\" x=\"\(number(x))\" y=\"\(number(y))\" width=\"\(number(max(0, width)))\" "
      + "height=\"\(number(max(0, height)))\"\(look)><title>\(Self.escape(tip))</title></rect>"
  }

  /// Puts another drawing into this one, its corner at (x, y).
  public mutating func add(_ other: SVG, x: Double, y: Double) {
    body += "<g transform=\"translate(\(number(x)) \(number(y)))\">\(other.body)</g>"
  }

  private func number(_ value: Double) -> String { QualityReport.fixed(value, 1) }

  /// Text with the special characters of HTML and XML replaced.
  static func escape(_ text: String) -> String {
    var result = ""
    for character in text {
      switch character {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      default: result.append(character)
      }
    }
    return result
  }
}
