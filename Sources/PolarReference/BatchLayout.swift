public import PolarCore

/// Which positions of which sequences a batch holds and where their pages lie: a ``PolarCore/ForwardBatch`` as values.
public struct BatchLayout: Sendable, Equatable {
  /// One sequence of a batch.
  public struct Sequence: Sendable, Equatable {
    /// The positions that are rows of the batch; earlier ones are in the cache already.
    public var positions: Range<Int>
    /// Pages in order; they reach at least to the last position.
    public var pages: [Int32]

    /// A sequence by its rows and pages.
    public init(positions: Range<Int>, pages: [Int32]) {
      self.positions = positions
      self.pages = pages
    }

    /// The slot of a position: page * 16 + offset.
    public func slot(of position: Int) -> Int32 {
      pages[position / KVPage.tokens] * Int32(KVPage.tokens) + Int32(position % KVPage.tokens)
    }
  }

  /// The sequences, in the order of their rows.
  public var sequences: [Sequence]

  /// A batch of sequences whose pages are known.
  public init(_ sequences: [Sequence]) { self.sequences = sequences }

  /// A batch of new sequences with these positions, whose pages lie in random order in one pool.
  public init(_ positions: [Range<Int>], shuffledBy generator: inout SplitMix64) {
    let counts = positions.map { ($0.upperBound + KVPage.tokens - 1) / KVPage.tokens }
    var free = (0..<Int32(counts.reduce(0, +))).shuffled(using: &generator)
    self.sequences = zip(positions, counts).map { positions, count in
      defer { free.removeLast(count) }
      return Sequence(positions: positions, pages: Array(free.suffix(count)))
    }
  }

  /// Number of rows.
  public var rows: Int { sequences.reduce(0) { $0 + $1.positions.count } }

  /// Pages that a pool needs at least.
  public var pageCount: Int { Int(sequences.flatMap(\.pages).max() ?? -1) + 1 }

  /// Position of each row.
  public var positions: [Int32] { sequences.flatMap { $0.positions.map(Int32.init) } }

  /// Slot of each row.
  public var slots: [Int32] { sequences.flatMap { sequence in sequence.positions.map(sequence.slot) } }

  /// Sequence of each row.
  public var rowSequences: [Int32] {
    sequences.enumerated().flatMap { index, sequence in sequence.positions.map { _ in Int32(index) } }
  }

  /// The last row of each sequence.
  public var lastRows: [Int32] {
    var end: Int32 = 0
    return sequences.map { sequence in
      end += Int32(sequence.positions.count)
      return end - 1
    }
  }

  /// Pages of each sequence `[sequences, longest]`, filled up with page 0.
  public var blockTables: HostTensor<Int32> {
    let width = sequences.map(\.pages.count).max() ?? 0
    return HostTensor(
      sequences.flatMap { $0.pages + Array(repeating: 0, count: width - $0.pages.count) },
      rows: sequences.count, columns: width)
  }
}
