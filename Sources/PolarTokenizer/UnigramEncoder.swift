/// The most likely segmentation under a unigram language model (Kudo 2018, section 3.1): one pass of Viterbi's
/// algorithm over the text, forward over all pieces that begin at each scalar.
struct UnigramEncoder: Sendable {
  /// Sums of log probabilities: their precision decides between segmentations that are equally likely.
  enum Precision: Sendable {
    /// As SentencePiece keeps them.
    case single
    /// As Hugging Face `tokenizers` keeps them.
    case double
  }

  /// The best way to reach a place of the text.
  private struct Arrival {
    var score: Double = 0
    /// Where the last piece begins, -1 while the place has not been reached.
    var start: Int32 = -1
    var id: Int32 = -1
  }

  /// The longest text in bytes.
  static let textLimit = Int(Int32.max) - 1

  /// Marks a scalar that is no piece.
  private static let unknownScalar: Int32 = -2

  private let trie: PieceTrie
  /// The log probability of each id.
  private let scores: [Double]
  /// The log probability of a scalar that is no piece.
  private let unknownScore: Double
  private let unknownToken: Int32
  private let precision: Precision
  /// The tokens `<0x00>` to `<0xFF>`, or none without byte fallback; -1 where one is missing.
  private let byteTokens: [Int32]

  /// - Parameters:
  ///   - pieces: what text is cut into: spelling, id.
  ///   - scores: the log probability of each id.
  ///   - unknownScore: that of a scalar that is no piece.
  init(
    pieces: [(bytes: [UInt8], value: Int32)], scores: [Double], unknownScore: Double, unknownToken: Int32,
    precision: Precision, byteTokens: [Int32]
  ) {
    trie = PieceTrie(pieces)
    self.scores = scores
    self.unknownScore = unknownScore
    self.unknownToken = unknownToken
    self.precision = precision
    self.byteTokens = byteTokens
  }

  /// Appends the ids of `text[range]`, well-formed UTF-8.
  func encode(_ text: [UInt8], _ range: Range<Int>, into output: inout [Int32]) {
    guard !range.isEmpty, range.count <= Self.textLimit else { return }
    text.withUnsafeBufferPointer { text in
      let text = UnsafeBufferPointer(rebasing: text[range])
      var arrivals = [Arrival](repeating: Arrival(), count: text.count + 1)
      arrivals.withUnsafeMutableBufferPointer { arrivals in
        forward(text, arrivals)
        emit(text, arrivals, &output)
      }
    }
  }

  private func forward(_ text: UnsafeBufferPointer<UInt8>, _ arrivals: UnsafeMutableBufferPointer<Arrival>) {
    let isSingle = precision == .single
    @inline(__always) func offer(_ score: Double, _ id: Int32, _ start: Int, _ end: Int) {
      let score = isSingle ? Double(Float(score)) : score
      guard arrivals[end].start < 0 || score > arrivals[end].score else { return }
      arrivals[end] = Arrival(score: score, start: Int32(start), id: id)
    }
    var start = 0
    while start < text.count {
      let base = arrivals[start].score
      let next = start + UTF8Text.length(lead: text[start])
      var isPiece = false
      trie.forEachPrefix(of: text, from: start) { end, id in
        offer(scores[Int(id)] + base, id, start, end)
        if end == next { isPiece = true }
      }
      if !isPiece {
        offer(unknownScore + base, Self.unknownScalar, start, next)
      }
      start = next
    }
  }

  /// Follows the best way back; a run of what is unknown becomes bytes, or one unknown token.
  private func emit(
    _ text: UnsafeBufferPointer<UInt8>, _ arrivals: UnsafeMutableBufferPointer<Arrival>,
    _ output: inout [Int32]
  ) {
    let first = output.count
    var end = text.count
    while end > 0 {
      var start = Int(arrivals[end].start)
      guard arrivals[end].id == unknownToken || arrivals[end].id == Self.unknownScalar else {
        output.append(arrivals[end].id)
        end = start
        continue
      }
      // The unknown token's own spelling, alone, is the unknown token.
      var hasScalars = arrivals[end].id == Self.unknownScalar
      while start > 0, arrivals[start].id == unknownToken || arrivals[start].id == Self.unknownScalar {
        start = Int(arrivals[start].start)
        hasScalars = true
      }
      if hasScalars, !byteTokens.isEmpty, (start..<end).allSatisfy({ byteTokens[Int(text[$0])] >= 0 }) {
        for index in (start..<end).reversed() { output.append(byteTokens[Int(text[index])]) }
      } else {
        output.append(unknownToken)
      }
      end = start
    }
    output[first...].reverse()
  }
}
