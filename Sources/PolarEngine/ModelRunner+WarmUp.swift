import PolarCore
import PolarModels
public import PolarSparsity

extension ModelRunner {
  /// Makes everything ready that a backend makes ready at the first use of a number of rows: algorithms of matrix products, working
  /// memory, recorded steps. Without it the first requests wait for that. For a backend that records steps, while no sequence is in
  /// the cache; on others it does nothing.
  ///
  /// - Parameter policy: that of all decode passes from now on.
  public func warmUp(policy: any SparsityPolicy = DensePolicy()) {
    guard backend.recordsWork else { return }
    for rows in RowBucket.sizes(upTo: min(maximumRows, cache.pages * KVPage.tokens)) {
      prefillOnce(rows: rows)
    }
    recordSteps(policy: policy)
  }

  /// Records the decode steps of all sizes of batches. What they select is not counted.
  public func recordSteps(policy: any SparsityPolicy = DensePolicy()) {
    guard backend.recordsWork else { return }
    for rows in RowBucket.sizes(upTo: maximumSequences) {
      // Issued, which sizes working memory, then recorded.
      for _ in 0..<2 {
        begin()
        // Which page a row is in does not matter: all write the same K and V.
        for row in 0..<rows { append(0, at: 0, pages: [Int32(row % cache.pages)]) }
        _ = compute(.decode, policy: policy, tap: nil, replaying: true)
      }
    }
    backend.synchronize()
    forgetCounts()
  }

  /// A prefill pass of `rows` rows in as few sequences as the context allows; fewer rows where that takes too many sequences.
  private func prefillOnce(rows: Int) {
    begin()
    var left = rows
    var page: Int32 = 0
    for _ in 0..<min(maximumSequences, maximumLogitRows) where left > 0 {
      let free = (cache.pages - Int(page)) * KVPage.tokens
      let count = min(left, maximumContext, free)
      guard count > 0 else { break }
      let pages = (count + KVPage.tokens - 1) / KVPage.tokens
      [Int32](repeating: 0, count: count).withUnsafeBufferPointer { tokens in
        Array(page..<page + Int32(pages)).withUnsafeBufferPointer {
          append(tokens, at: 0, pages: $0, logits: .last)
        }
      }
      left -= count
      page += Int32(pages)
    }
    _ = compute(.prefill, policy: DensePolicy(), tap: nil, replaying: false)
  }
}
