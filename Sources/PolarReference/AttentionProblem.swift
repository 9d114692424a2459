import PolarCore

/// An attention problem of the conformance suite: sequences with their K, V and queries on the host.
struct AttentionProblem {
  /// The shape of a problem.
  struct Shape {
    let kvHeads: Int
    /// Query heads per KV head.
    let group: Int
    let headDim: Int
    /// Positions of each sequence whose rows are computed; the positions before them are in the cache.
    let sequences: [Range<Int>]
    /// Tokens that a query attends to; nil for all earlier ones.
    var window: Int?

    var heads: Int { kvHeads * group }
    var text: String {
      let lengths = sequences.map { "\($0.upperBound)" }.joined(separator: ",")
      return "\(heads)/\(kvHeads) heads of \(headDim), contexts \(lengths)"
        + (window.map { ", window \($0)" } ?? "")
    }
  }

  /// Which op computes it.
  enum Operation {
    case prefill(AttentionSpan)
    case decode
    /// A selective decode step: mask `[rows of the whole problem, heads]`.
    case selective(HostTensor<UInt8>, Fallback)
  }

  /// ``PolarCore/HeadFallback`` with its tensors on the host.
  enum Fallback {
    case zero
    case constant(HostTensor<Float>)
    /// `[rows of the whole problem, heads * headDim]`; for problems that are evaluated whole.
    case computed(HostTensor<Float>)
    case local(sinkPages: Int, recentPages: Int)
  }

  let shape: Shape
  let layout: BatchLayout
  let scale: Float
  /// Every position of every sequence, to fill the cache: the slots of `key` and `value`.
  let context: BatchLayout
  /// `[positions of all sequences, kvHeads * headDim]`.
  var key: HostTensor<Float>
  /// `[positions of all sequences, kvHeads * headDim]`.
  var value: HostTensor<Float>
  /// `[rows, heads * headDim]`.
  var query: HostTensor<Float>

  init(_ shape: Shape, _ generator: inout SplitMix64) {
    self.shape = shape
    self.layout = BatchLayout(shape.sequences, shuffledBy: &generator)
    self.context = BatchLayout(
      layout.sequences.map { .init(positions: 0..<$0.positions.upperBound, pages: $0.pages) })
    self.scale = 1 / Float(shape.headDim).squareRoot()
    self.key = generator.matrix(context.rows, shape.kvHeads * shape.headDim)
    self.value = generator.matrix(context.rows, shape.kvHeads * shape.headDim)
    self.query = generator.matrix(layout.rows, shape.heads * shape.headDim, scale: 4)
  }

  /// A cache with K and V of all positions.
  ///
  /// Other slots hold large values, as pages do that another sequence has used before: what lies behind a sequence's end
  /// must not matter.
  func cache(in pool: TensorPool) throws(PolarError) -> KVLayer {
    let kv = try pool.cache(
      pages: context.pageCount, kvHeads: shape.kvHeads, headDim: shape.headDim, window: shape.window,
      filledWith: 1024)
    pool.backend.storeKV(
      kv, key: try pool.tensor(key, gap: 2), value: try pool.tensor(value, gap: 4),
      slots: try pool.tensor(HostTensor(context.slots)))
    return kv
  }

  /// Computes the rows that `part` names (sequence and positions, all when nil): f32 `[rows, heads * headDim]`.
  func evaluate(
    _ operation: Operation, part: [(sequence: Int, positions: Range<Int>)]? = nil, kv: KVLayer? = nil,
    in pool: TensorPool
  ) throws(PolarError) -> HostTensor<Float> {
    let kv = if let kv { kv } else { try cache(in: pool) }
    let part = part ?? layout.sequences.enumerated().map { ($0.offset, $0.element.positions) }
    let rows = part.flatMap { sequence, positions in
      positions.map { queryRow(sequence: sequence, position: $0) }
    }
    let batch = try pool.batch(
      BatchLayout(part.map { .init(positions: $0.positions, pages: layout.sequences[$0.sequence].pages) }))
    let query = try pool.tensor(self.query.rows(rows), gap: 3)
    let out = try pool.output(rows: rows.count, columns: query.columns, gap: 1)
    switch operation {
    case .prefill(let span):
      pool.backend.prefillAttention(out, query: query, kv: kv, batch: batch, scale: scale, span: span)
    case .decode:
      pool.backend.decodeAttention(out, query: query, kv: kv, batch: batch, scale: scale, heads: nil)
    case .selective(let mask, let fallback):
      let heads = ActiveHeads(
        mask: try pool.tensor(mask.rows(rows), gap: 3), fallback: try fallback.load(in: pool))
      pool.backend.decodeAttention(out, query: query, kv: kv, batch: batch, scale: scale, heads: heads)
    }
    return pool.read(out)
  }

  /// The row of `query` of a position.
  func queryRow(sequence: Int, position: Int) -> Int {
    let before = layout.sequences[..<sequence].reduce(0) { $0 + $1.positions.count }
    return before + position - layout.sequences[sequence].positions.lowerBound
  }
}

extension AttentionProblem.Fallback {
  func load(in pool: TensorPool) throws(PolarError) -> HeadFallback {
    switch self {
    case .zero: .zero
    case .constant(let vectors): .constant(try pool.tensor(vectors, gap: 1))
    case .computed(let values): .computed(try pool.tensor(values, gap: 1))
    case .local(let sinkPages, let recentPages):
      .local(sinkPages: sinkPages, recentPages: recentPages)
    }
  }

  var text: String {
    switch self {
    case .zero: "zero"
    case .constant: "constant"
    case .computed: "computed"
    case .local(let sinkPages, let recentPages): "local \(sinkPages)+\(recentPages)"
    }
  }
}
