import PolarCore

/// Recorded decode steps, one for each bucket of batch sizes.
///
/// A step of n rows runs as the next larger bucket, filled up with padding rows that read and write nothing. A bucket's first
/// step is issued op by op, which sizes all working memory; the second one is recorded, and all from then on are replays.
struct StepGraphs {
  /// A recorded step.
  struct Step {
    let work: any RecordedWork
    /// Logits f32 `[bucket, vocabulary]` of a replay.
    let logits: Tensor
  }

  private enum State {
    case warm
    case recorded(Step)
  }

  private var states: [Int: State] = [:]

  /// The rows that `rows` rows are filled up to (see ``RowBucket``).
  static func bucket(rows: Int, most: Int) -> Int { min(RowBucket.size(holding: rows), most) }

  /// The recorded step of a bucket.
  func step(_ bucket: Int) -> Step? {
    if case .recorded(let step) = states[bucket] { return step }
    return nil
  }

  /// Whether a bucket's first step has run.
  func isWarm(_ bucket: Int) -> Bool { states[bucket] != nil }

  /// Notes that a bucket's first step has run.
  mutating func warm(_ bucket: Int) { states[bucket] = .warm }

  /// Keeps a recorded step.
  mutating func keep(_ step: Step, _ bucket: Int) { states[bucket] = .recorded(step) }

  /// Forgets all recordings.
  mutating func removeAll() { states = [:] }

  /// Buckets that are recorded.
  var recorded: [Int] {
    states.compactMap { if case .recorded = $0.value { $0.key } else { nil } }.sorted()
  }
}
