import PolarCore

/// Which neurons of one layer fired, one bit per token and neuron.
public struct ActivationBits: Sendable, Equatable {
  /// Neurons of the layer.
  public let neurons: Int
  /// Tokens recorded.
  public private(set) var count = 0
  /// 64-bit words of a token: bit `n % 64` of word `n / 64` is neuron `n`, as in bytes on every machine that Polar runs on
  /// (little-endian).
  let wordsPerToken: Int
  private(set) var words: [UInt64] = []

  /// An empty record with room for `capacity` tokens.
  public init(neurons: Int, capacity: Int = 0) {
    self.neurons = neurons
    wordsPerToken = Self.words(neurons)
    words.reserveCapacity(capacity * wordsPerToken)
  }

  /// 64-bit words that `neurons` bits take.
  static func words(_ neurons: Int) -> Int { (neurons + 63) / 64 }

  /// Bytes that one token takes.
  public static func bytesPerToken(neurons: Int) -> Int { words(neurons) * 8 }

  /// Appends a token's activations after the ReLU, `[neurons]`: a bit is set where the activation is not 0 (gated, the
  /// product with the other half may be negative).
  public mutating func append(_ activations: UnsafeBufferPointer<Float>) {
    precondition(activations.count == neurons, "shapes do not fit")
    for start in stride(from: 0, to: neurons, by: 64) {
      var word: UInt64 = 0
      for n in start..<min(neurons, start + 64) where activations[n] != 0 { word |= 1 << UInt64(n - start) }
      words.append(word)
    }
    count += 1
  }

  /// Appends a token's activations `[neurons]`.
  public mutating func append(_ activations: [Float]) {
    activations.withUnsafeBufferPointer { append($0) }
  }

  /// Appends tokens as ``PolarCore/TrainingOps/packActive(_:_:rows:)`` packs them, ``bytesPerToken(neurons:)`` bytes each.
  mutating func append(packed bytes: UnsafeRawBufferPointer) {
    precondition(bytes.count % (wordsPerToken * 8) == 0, "not whole tokens")
    let start = words.count
    words.append(contentsOf: repeatElement(0, count: bytes.count / 8))
    words.withUnsafeMutableBytes {
      UnsafeMutableRawBufferPointer(rebasing: $0[(start * 8)...]).copyMemory(from: bytes)
    }
    count += bytes.count / (wordsPerToken * 8)
  }

  /// Whether a neuron fired on a token.
  public subscript(token: Int, neuron: Int) -> Bool {
    words[token * wordsPerToken + neuron / 64] >> UInt64(neuron % 64) & 1 == 1
  }

  /// Neurons that fired on each of the first `tokens` tokens.
  func activeCounts(tokens: Int) -> [Int32] { (0..<tokens).map { Int32(activeCount($0)) } }

  /// Neurons that fired on a token.
  public func activeCount(_ token: Int) -> Int {
    words[token * wordsPerToken..<(token + 1) * wordsPerToken].reduce(0) { $0 + $1.nonzeroBitCount }
  }

  /// The fraction of bits that are set in tokens `range`.
  public func density(_ range: Range<Int>) -> Double {
    let set = words[range.lowerBound * wordsPerToken..<range.upperBound * wordsPerToken].reduce(0) {
      $0 + $1.nonzeroBitCount
    }
    return Double(set) / Double(max(1, range.count * neurons))
  }

  /// Sets in `union` (``wordsPerToken`` words) the bits of the neurons that fired on a token.
  func unite(_ token: Int, into union: inout [UInt64]) {
    let start = token * wordsPerToken
    for i in 0..<wordsPerToken { union[i] |= words[start + i] }
  }

  /// The bits of tokens `0 ..< tokens` where routers are trained: u8 `[tokens, bytes]`.
  func copy(tokens: Int, on ops: any TrainingOps) throws(PolarError) -> OwnedTensor {
    let copy = try OwnedTensor(rows: tokens, columns: wordsPerToken * 8, dtype: .u8, on: ops)
    copy.write(words[..<(tokens * wordsPerToken)])
    return copy
  }
}
