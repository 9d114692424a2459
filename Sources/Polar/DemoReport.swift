public import PolarCalibration
import PolarCore
public import PolarSparsity

extension Demo.Report {
  /// Batch sizes, ascending.
  public var batches: [Int] { Set(rows.map(\.batch)).sorted() }
  /// Modes, dense first.
  public var modes: [SparsityMode] {
    SparsityMode.allCases.filter { mode in rows.contains { $0.mode == mode } }
  }

  /// The row of a mode at a batch size.
  public func row(_ mode: SparsityMode, batch: Int) -> Demo.Row? {
    rows.first { $0.mode == mode && $0.batch == batch }
  }

  /// The polarity shift as a picture of its own: speed-up over dense by batch size, a line per mode, and below it what
  /// each mode computes.
  public var svg: SVG {
    let sparse = modes.filter { $0 != .dense }
    func lines(_ value: (Demo.Row) -> Double) -> [LineChart.Series] {
      sparse.enumerated().map { colour, mode in
        .init(
          mode.rawValue,
          batches.compactMap { batch in row(mode, batch: batch).map { (Double(batch), value($0)) } },
          colour: colour)
      }
    }
    let largest = rows.map(\.speedup).max() ?? 1
    let speed = LineChart(
      title: "Decoding speed over dense: \(model)", x: .batches(batches),
      y: .upTo(max(1.2, largest), "times as fast as dense"), series: lines(\.speedup), mark: 1)
    let neurons = LineChart(
      title: "MLP neurons computed", x: .batches(batches), y: .fraction("%"),
      series: lines(\.neurons).filter { $0.name != "heads" })
    let heads = LineChart(
      title: "Attention heads computed in full", x: .batches(batches), y: .fraction("%"),
      series: lines(\.heads).filter { $0.name != "mlp" })
    var svg = SVG(width: 900, height: 640, label: "The polarity shift: \(speed.title)")
    svg.add(speed.svg(width: 900, height: 350, legend: 110), x: 0, y: 10)
    svg.add(neurons.svg(width: 440, height: 250, legend: 100), x: 0, y: 375)
    svg.add(heads.svg(width: 440, height: 250, legend: 100), x: 460, y: 375)
    return svg
  }
}
