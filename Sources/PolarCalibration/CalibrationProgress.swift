/// How far a calibration is.
public struct CalibrationProgress: Sendable {
  /// The parts of a calibration, in order.
  public enum Stage: String, Sendable, CaseIterable {
    /// Running calibration text and recording activations; the rate is in tokens.
    case recording
    /// Training head routers; the rate is in layers.
    case training
    /// Training neuron routers and searching their budgets; the rate is in layers.
    case neurons
    /// Measuring the quality curve; the rate is in scored tokens.
    case measuring
  }

  /// The part under way.
  public var stage: Stage
  /// The fraction of the stage that is done, 0 to 1.
  public var fraction: Double
  /// Units of work per second in this stage, so far.
  public var rate: Double
  /// Seconds until the stage ends at that rate.
  public var secondsLeft: Double
}

/// Turns counts of work into progress reports.
struct ProgressMeter: Sendable {
  let stage: CalibrationProgress.Stage
  let total: Double
  let report: @Sendable (CalibrationProgress) -> Void
  let start = ContinuousClock.now

  /// Reports that `done` of the total is done.
  func update(_ done: Double) {
    let elapsed = ContinuousClock.now - start
    let seconds = Double(elapsed.components.seconds) + Double(elapsed.components.attoseconds) * 1e-18
    let rate = done / max(seconds, 1e-9)
    report(
      CalibrationProgress(
        stage: stage, fraction: total > 0 ? min(1, done / total) : 1, rate: rate,
        secondsLeft: rate > 0 ? max(0, total - done) / rate : 0))
  }
}

/// Measures the parts of a calibration.
struct Stopwatch {
  private var start = ContinuousClock.now

  /// Seconds since the last lap, or the start.
  mutating func lap() -> Double {
    let now = ContinuousClock.now
    let elapsed = (now - start).components
    start = now
    return Double(elapsed.seconds) + Double(elapsed.attoseconds) * 1e-18
  }
}
