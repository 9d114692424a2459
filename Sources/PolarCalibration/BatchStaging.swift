import PolarCore

/// Device copies of the batches that calibration runs. Sequence `i` owns the consecutive pages
/// `i * pagesPerSequence ..< (i + 1) * pagesPerSequence`.
final class BatchStaging {
  private let backend: any Backend
  private let memory: any DeviceMemory
  private let maximumRows: Int
  private let sequences: Int
  /// Pages that each sequence owns.
  let pagesPerSequence: Int
  private var host: [Int32]

  /// Room for batches of `maximumRows` rows over `sequences` sequences of `context` tokens.
  init(maximumRows: Int, sequences: Int, context: Int, on backend: any Backend) throws(PolarError) {
    self.backend = backend
    self.maximumRows = max(maximumRows, sequences)
    self.sequences = sequences
    pagesPerSequence = (context + KVPage.tokens - 1) / KVPage.tokens
    host = Array(repeating: 0, count: 5 * self.maximumRows + sequences * pagesPerSequence)
    memory = try backend.allocate(byteCount: host.count * 4 + 64 * 6)
  }

  /// Pages of a cache that holds all sequences.
  var pages: Int { sequences * pagesPerSequence }

  /// Consecutive tokens of one sequence, from `position` on; the logits of the last row alone are wanted.
  func prefill(_ tokens: ArraySlice<Int32>, position: Int, sequence: Int) -> ForwardBatch {
    stage(
      tokens: tokens, positions: tokens.indices.map { position + $0 - tokens.startIndex },
      sequences: Array(repeating: sequence, count: tokens.count), isDecode: false)
  }

  /// One token of each sequence from `firstSequence` on, all at the same position; all logits are wanted.
  func decode(_ tokens: [Int32], position: Int, firstSequence: Int = 0) -> ForwardBatch {
    stage(
      tokens: tokens[...], positions: tokens.map { _ in position },
      sequences: tokens.indices.map { firstSequence + $0 }, isDecode: true)
  }

  private func stage(
    tokens: ArraySlice<Int32>, positions: [Int], sequences: [Int], isDecode: Bool
  ) -> ForwardBatch {
    let rows = tokens.count
    precondition(rows > 0 && rows <= maximumRows, "batch does not fit its staging memory")
    var used = 0
    func put(_ values: some Collection<Int>, rows: Int = 1) -> Tensor {
      let count = values.count
      let tensor = Tensor(
        memory.base.advanced(by: used), rows: rows, columns: count / rows, dtype: .i32)
      for (i, value) in values.enumerated() { host[i] = Int32(truncatingIfNeeded: value) }
      host.withUnsafeBytes {
        backend.upload(UnsafeRawBufferPointer(rebasing: $0[0..<count * 4]), to: tensor.address)
      }
      used += (count * 4 + 63) & ~63
      return tensor
    }
    let owners = isDecode ? sequences : [sequences[0]]
    let slots = zip(positions, sequences).map { $1 * pagesPerSequence * KVPage.tokens + $0 }
    return ForwardBatch(
      tokens: put(tokens.map(Int.init)), positions: put(positions), slots: put(slots),
      rowSequences: put(isDecode ? Array(0..<rows) : Array(repeating: 0, count: rows)),
      blockTables: put(
        owners.flatMap { owner in (0..<pagesPerSequence).map { owner * pagesPerSequence + $0 } },
        rows: owners.count),
      logitRows: put(isDecode ? Array(0..<rows) : [rows - 1]), isDecode: isDecode,
      longestContext: (positions.max() ?? 0) + 1)
  }
}
