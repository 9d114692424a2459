/// Finds what a density costs: thresholds that select it, and how much of the truth a selection finds.
public enum ThresholdSearch {
  /// The thresholds on `scores` (of all sparse layers together) that select each mean density: a score greater than the
  /// threshold is selected.
  public static func thresholds(scores: [Float], densities: [Double]) -> [Float] {
    let sorted = scores.sorted(by: >)
    return densities.map { density in
      guard !sorted.isEmpty else { return 0 }
      let count = Int((density * Double(sorted.count)).rounded())
      if count >= sorted.count { return sorted[sorted.count - 1] - 1 }
      if count == 0 { return sorted[0] }
      return (sorted[count - 1] + sorted[count]) / 2
    }
  }

  /// The fraction of the truly `count` largest labels of each row `[units]` that the `count` largest scores select.
  public static func recall(
    scores: [Float], labels: ArraySlice<Float>, units: Int, count: Int
  ) -> Double {
    let rows = scores.count / max(1, units)
    guard rows > 0, count > 0 else { return 0 }
    var found = 0
    for row in 0..<rows {
      let truth = largest(count, of: labels.dropFirst(row * units).prefix(units))
      let chosen = largest(count, of: scores[row * units..<(row + 1) * units])
      found += truth.lazy.filter { chosen.contains($0) }.count
    }
    return Double(found) / Double(rows * count)
  }

  /// Offsets of the `count` largest values; ties go to the lower offset.
  static func largest(_ count: Int, of values: ArraySlice<Float>) -> [Int] {
    let order = values.indices.sorted { (values[$0], $1) > (values[$1], $0) }
    return order.prefix(count).map { $0 - values.startIndex }
  }
}
