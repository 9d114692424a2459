import Foundation
import PolarCore

/// Where progress and errors go: standard error, so that standard output holds results alone.
struct ProgressPrinter: ~Copyable {
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private let start = ContinuousClock.now
  private var lastPrint: ContinuousClock.Instant?
  private var lastStage = ""
  private var lastTenth = -1

  /// Shows that `fraction` (0...1) of `stage` is done. On a terminal one line is rewritten at most ten times a second;
  /// otherwise there is a plain line per stage and tenth.
  mutating func report(_ stage: String, fraction: Double, detail: String = "") {
    let fraction = min(1, max(0, fraction))
    let now = ContinuousClock.now
    if isTerminal {
      if stage == lastStage, fraction < 1, let lastPrint, now - lastPrint < .milliseconds(100) { return }
      let width = 24
      let filled = Int(fraction * Double(width))
      let bar = String(repeating: "=", count: filled) + String(repeating: " ", count: width - filled)
      let newline = fraction >= 1 ? "\n" : ""
      write("\r\u{1B}[K\(stage) [\(bar)] \(Int(fraction * 100))% \(detail)\(newline)")
    } else {
      let tenth = Int(fraction * 10)
      if stage == lastStage, tenth == lastTenth { return }
      lastTenth = tenth
      write("\(stage): \(Int(fraction * 100))% \(detail)\n")
    }
    lastStage = stage
    lastPrint = now
  }

  /// A plain line.
  func note(_ text: String) { write(text + "\n") }

  // Work goes on where nobody can be told of it.
  private func write(_ text: String) { _ = writeAll(text, to: STDERR_FILENO) }
}

/// Writes text to standard output at once, without a line end.
/// - Throws: ``PolarError/file(path:reason:)`` when it is closed or full.
func emit(_ text: String) throws(PolarError) {
  if let code = writeAll(text, to: STDOUT_FILENO) { throw outputFault(code) }
}

/// Writes out what `print` has collected.
/// - Throws: as ``emit(_:)``.
func flushOutput() throws(PolarError) {
  if fflush(nil) != 0 { throw outputFault(errno) }
}

private func outputFault(_ code: Int32) -> PolarError {
  .file(path: "standard output", reason: "cannot be written: \(String(cString: strerror(code)))")
}

/// Writes all of `text`; returns the system's error number if that fails.
private func writeAll(_ text: String, to descriptor: Int32) -> Int32? {
  let bytes = Array(text.utf8)
  var done = 0
  while done < bytes.count {
    let written = bytes[done...].withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
    if written >= 0 { done += written } else if errno != EINTR { return errno }
  }
  return nil
}

/// A number with a fixed count of decimals.
func fixed(_ value: Double, _ decimals: Int) -> String {
  String(format: "%.\(decimals)f", value)
}

/// Bytes in the largest fitting binary unit.
func bytesText(_ bytes: Int) -> String {
  let units = ["B", "KiB", "MiB", "GiB", "TiB"]
  var value = Double(bytes)
  var unit = 0
  while value >= 1024, unit < units.count - 1 {
    value /= 1024
    unit += 1
  }
  return unit == 0 ? "\(bytes) B" : "\(fixed(value, value < 10 ? 2 : 1)) \(units[unit])"
}

/// Columns of text, padded to their widest cell; numbers to the right.
struct TextTable {
  private var rows: [[String]]

  /// A table with a heading row.
  init(_ heading: [String]) { rows = [heading] }

  /// Adds a row with as many cells as the heading.
  mutating func add(_ cells: [String]) { rows.append(cells) }

  /// The table's lines.
  var text: String {
    let columns = rows[0].count
    let widths = (0..<columns).map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      row.enumerated().map { column, cell in
        let padding = String(repeating: " ", count: widths[column] - cell.count)
        return column == 0 ? cell + padding : padding + cell
      }.joined(separator: "  ")
    }.joined(separator: "\n")
  }
}
