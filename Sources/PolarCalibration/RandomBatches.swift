import PolarCore

/// Random batches of recorded tokens: a reshuffle of all of them cut into batches, again and again (Polar Sparsity,
/// algorithm 2, on held-out tokens).
struct RandomBatches {
  private let order: [Int]
  /// Tokens of a batch.
  let size: Int

  /// About `count` batches of `size` of the tokens `range`; fewer tokens than `size` make one batch of all.
  init(of range: Range<Int>, size: Int, count: Int, seed: UInt64) {
    self.size = max(1, min(size, range.count))
    var generator = SplitMix64(seed: seed)
    var order: [Int] = []
    while !range.isEmpty, order.count < count * self.size {
      var tokens = Array(range)
      tokens.shuffle(using: &generator)
      order += tokens.prefix(tokens.count / self.size * self.size)
    }
    self.order = Array(order.prefix(count * self.size))
  }

  /// The tokens of every batch.
  var batches: some Sequence<ArraySlice<Int>> {
    stride(from: 0, to: order.count, by: size).lazy.map { order[$0..<$0 + size] }
  }

  /// Batches.
  var count: Int { order.count / size }
}
