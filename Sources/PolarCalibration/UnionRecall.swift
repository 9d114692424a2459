/// How well the scores of a neuron router find the union of a random batch's active neurons, by rule and size.
///
/// `scores` are `[tokens, neurons]` for the tokens `tokens` of `truth`.
struct UnionRecall: Sendable {
  /// What one rule needs at one batch size.
  struct Need: Sendable, Equatable {
    /// Sequences in the batch.
    var batch: Int
    /// Mean size of the true union, in neurons.
    var union: Double
    /// The smallest top-k of summed positive scores (the published aggregate) with the wanted recall, a multiple of
    /// the tile; nil when no k has it, since neurons without a positive score are never taken.
    var summed: Int?
    /// The largest threshold on a single token's score with the wanted recall.
    var threshold: Float
    /// Mean neurons above that threshold in any row.
    var above: Double
    /// Neurons at which the two rules are compared: ``above``, rounded up to the tile.
    var equalSize: Int
    /// Recall of the published aggregate with k = ``equalSize``.
    var summedRecall: Double
    /// Recall of a threshold with a mean of ``equalSize`` neurons.
    var thresholdRecall: Double
    /// Precision of the threshold rule at the wanted recall.
    var precision: Double
  }

  let scores: [Float]
  let truth: ActivationBits
  let tokens: Range<Int>
  /// Batches that every measurement averages over.
  var batches = 128
  var seed: UInt64 = 1

  private var neurons: Int { truth.neurons }

  /// What both rules need for a mean recall of `target` of the true union in batches of `batch` tokens.
  func need(batch: Int, target: Double, tile: Int) -> Need {
    let random = RandomBatches(of: tokens, size: batch, count: batches, seed: seed)
    var state = Totals(neurons: neurons)
    for rows in random.batches { add(rows, to: &state) }
    return state.need(batch: batch, target: target, tile: tile)
  }

  private func add(_ rows: ArraySlice<Int>, to totals: inout Totals) {
    var union = [UInt64](repeating: 0, count: truth.wordsPerToken)
    var sums = [Float](repeating: 0, count: neurons)
    var peaks = [Float](repeating: -.infinity, count: neurons)
    scores.withUnsafeBufferPointer { scores in
      sums.withUnsafeMutableBufferPointer { sums in
        peaks.withUnsafeMutableBufferPointer { peaks in
          for row in rows {
            truth.unite(row, into: &union)
            let at = (row - tokens.lowerBound) * neurons
            for n in 0..<neurons {
              sums[n] += max(0, scores[at + n])
              peaks[n] = max(peaks[n], scores[at + n])
            }
          }
        }
      }
    }
    totals.add(union: union, sums: sums, peaks: peaks)
  }

  /// Sums over batches.
  private struct Totals {
    let neurons: Int
    private var batches = 0
    private var unionSizes = 0
    /// Recall gained by the k-th neuron of largest sum, over batches that have a union.
    private var gains: [Double]
    private var withUnion = 0
    /// Peak score of every neuron of every true union, with what finding it adds to recall.
    private var found: [(peak: Float, gain: Double)] = []
    /// Every peak score.
    private var peaks: [Float] = []

    init(neurons: Int) {
      self.neurons = neurons
      gains = Array(repeating: 0, count: neurons)
    }

    mutating func add(union: [UInt64], sums: [Float], peaks: [Float]) {
      batches += 1
      let size = union.reduce(0) { $0 + $1.nonzeroBitCount }
      unionSizes += size
      self.peaks += peaks
      guard size > 0 else { return }
      withUnion += 1
      let gain = 1 / Double(size)
      func isActive(_ neuron: Int) -> Bool { union[neuron >> 6] >> UInt64(neuron & 63) & 1 == 1 }
      for neuron in 0..<neurons where isActive(neuron) { found.append((peaks[neuron], gain)) }
      let order = (0..<neurons).filter { sums[$0] > 0 }.sorted { (sums[$0], $1) > (sums[$1], $0) }
      for (rank, neuron) in order.enumerated() where isActive(neuron) { gains[rank] += gain }
    }

    func need(batch: Int, target: Double, tile: Int) -> Need {
      let sorted = peaks.sorted(by: >)
      let byPeak = found.sorted { $0.peak > $1.peak }
      let total = Double(max(1, withUnion))
      let threshold = Self.threshold(byPeak, recall: target * Double(withUnion))
      let above = Self.count(of: sorted, above: threshold)
      let mean = Double(above) / Double(max(1, batches))
      let equal = min(neurons, max(1, (Int(mean.rounded(.up)) + tile - 1) / tile) * tile)
      let equalThreshold =
        sorted.isEmpty || equal >= neurons ? -.infinity : sorted[min(sorted.count - 1, equal * batches)]
      let truths = found.lazy.filter { $0.peak > threshold }.count
      return Need(
        batch: batch, union: Double(unionSizes) / Double(max(1, batches)),
        summed: smallest(recall: target * Double(withUnion), tile: tile),
        threshold: threshold, above: mean, equalSize: equal,
        summedRecall: withUnion == 0 ? 1 : gains[..<equal].reduce(0, +) / total,
        thresholdRecall: withUnion == 0
          ? 1 : found.lazy.filter { $0.peak > equalThreshold }.reduce(0) { $0 + $1.gain } / total,
        precision: above == 0 ? 1 : Double(truths) / Double(above))
    }

    /// The smallest multiple of the tile (or all neurons) whose gains reach `recall`.
    private func smallest(recall: Double, tile: Int) -> Int? {
      var sum = 0.0
      for (rank, gain) in gains.enumerated() {
        sum += gain
        // Sums of fractions may end a rounding error below 1.
        if sum >= recall - 1e-9 { return min(neurons, (rank / tile + 1) * tile) }
      }
      return nil
    }

    /// The largest threshold whose greater peaks gain at least `recall`; any is good when there is nothing to find.
    private static func threshold(_ byPeak: [(peak: Float, gain: Double)], recall: Double) -> Float {
      var sum = 0.0
      for (peak, gain) in byPeak {
        sum += gain
        if sum >= recall - 1e-9 { return peak.nextDown }
      }
      return byPeak.last?.peak.nextDown ?? .greatestFiniteMagnitude
    }

    /// Elements of a descending array that are greater than `threshold`.
    private static func count(of sorted: [Float], above threshold: Float) -> Int {
      var (low, high) = (0, sorted.count)
      while low < high {
        let middle = (low + high) / 2
        if sorted[middle] > threshold { low = middle + 1 } else { high = middle }
      }
      return low
    }
  }
}
