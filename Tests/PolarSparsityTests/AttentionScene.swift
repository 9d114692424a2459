import PolarCore
import PolarReference
import PolarSparsity

/// One layer of a decode step on the reference backend, with random K, V, queries and block inputs.
final class AttentionScene {
  let backend = ReferenceBackend()
  let rows: Int
  let heads: Int
  let kvHeads: Int
  let headDim = 8
  let hidden = 16
  let context: Int
  private(set) var workspace: Workspace
  private var blocks: [any DeviceMemory] = []
  private var generator = SplitMix64(seed: 11)
  private let kv: KVLayer
  private let batch: ForwardBatch
  private let input: Tensor
  private let residual: Tensor
  private let query: Tensor
  let projection: PackedMatrix

  init(rows: Int = 5, heads: Int = 6, kvHeads: Int = 3, context: Int = 150) throws {
    self.rows = rows
    self.heads = heads
    self.kvHeads = kvHeads
    self.context = context
    var generator = SplitMix64(seed: 11)
    var blocks: [any DeviceMemory] = []
    let backend = backend
    func memory(_ bytes: Int) throws -> Address {
      let block = try backend.allocate(byteCount: bytes)
      blocks.append(block)
      return block.base
    }
    func floats(_ rows: Int, _ columns: Int, _ scale: Float = 1) throws -> Tensor {
      let tensor = Tensor(try memory(rows * columns * 4), rows: rows, columns: columns)
      let values = (0..<rows * columns).map { _ in (generator.unitFloat() * 2 - 1) * scale }
      values.withUnsafeBytes { backend.upload($0, to: tensor.address) }
      return tensor
    }
    func integers(_ values: [Int32], rows: Int = 1) throws -> Tensor {
      let tensor = Tensor(
        try memory(values.count * 4), rows: rows, columns: values.count / rows, dtype: .i32)
      values.withUnsafeBytes { backend.upload($0, to: tensor.address) }
      return tensor
    }
    let pages = (context + 15) / 16
    let layer = KVLayer(Address(0), pages: rows * pages, kvHeads: kvHeads, headDim: headDim, dtype: .f32)
    kv = KVLayer(
      try memory(layer.byteCount), pages: rows * pages, kvHeads: kvHeads, headDim: headDim, dtype: .f32)
    for row in 0..<rows {
      let slots = try integers((0..<context).map { Int32(row * pages * 16 + $0) })
      backend.storeKV(
        kv, key: try floats(context, kvHeads * headDim), value: try floats(context, kvHeads * headDim),
        slots: slots)
    }
    let last = Int32(context - 1)
    batch = ForwardBatch(
      tokens: try integers(Array(repeating: 0, count: rows)),
      positions: try integers(Array(repeating: last, count: rows)),
      slots: try integers((0..<rows).map { Int32($0 * pages * 16) + last }),
      rowSequences: try integers((0..<rows).map(Int32.init)),
      blockTables: try integers((0..<rows * pages).map(Int32.init), rows: rows),
      logitRows: try integers((0..<rows).map(Int32.init)), isDecode: true, longestContext: context)
    input = try floats(rows, hidden)
    residual = try floats(rows, hidden)
    query = try floats(rows, heads * headDim, 4)
    projection = PackedMatrix(
      try floats(hidden, heads * headDim).address, outputs: hidden, inputs: heads * headDim)
    workspace = Workspace(try backend.allocate(byteCount: 1 << 18))
    self.blocks = blocks
  }

  /// The state of `layer`; every layer looks alike.
  func context(layer: Int = 1) -> AttentionContext {
    AttentionContext(
      layer: layer, input: input, residual: residual, query: query, kv: kv, batch: batch, scale: 0.35)
  }

  /// The mask that a policy selects: `[rows][heads]`, or nil for dense. Checks the promised workspace.
  func mask(_ policy: any SparsityPolicy, layer: Int = 1) throws -> [[UInt8]]? {
    var exact = Workspace(
      try backend.allocate(byteCount: max(64, policy.workspaceByteCount(rows: rows))))
    guard let heads = policy.select(context(layer: layer), workspace: &exact, on: backend).heads else {
      return nil
    }
    return read(heads.mask, as: UInt8.self)
  }

  /// The attention output that a policy's selection gives: `[rows][heads * headDim]`.
  func output(_ policy: any SparsityPolicy) -> [[Float]] {
    workspace.reset()
    let selection = policy.select(context(), workspace: &workspace, on: backend)
    let out = workspace.take(rows: rows, columns: heads * headDim)
    backend.decodeAttention(out, query: query, kv: kv, batch: batch, scale: 0.35, heads: selection.heads)
    return read(out, as: Float.self)
  }

  /// The true relative deviation of every head under the local fallback, from outputs alone.
  func deviations(sinkPages: Int, recentPages: Int) throws -> [[Float]] {
    let full = output(DensePolicy())
    let none = try StaticPolicy(
      masks: [nil, Array(repeating: false, count: heads)], hidden: hidden,
      units: SelectionUnits(heads: heads, headsPerUnit: 1),
      fallback: .local(sinkPages: sinkPages, recentPages: recentPages), on: backend)
    let local = output(none)
    let weight: [[Float]] = read(
      Tensor(projection.address, rows: hidden, columns: heads * headDim), as: Float.self)
    let residuals: [[Float]] = read(residual, as: Float.self)
    return (0..<rows).map { row in
      let size = residuals[row].reduce(Float(0)) { $0 + $1 * $1 }.squareRoot()
      return (0..<heads).map { head in
        var sum: Float = 0
        for output in 0..<hidden {
          var value: Float = 0
          for d in head * headDim..<(head + 1) * headDim {
            value += weight[output][d] * (full[row][d] - local[row][d])
          }
          sum += value * value
        }
        return sum.squareRoot() / size
      }
    }
  }

  /// Rows of a contiguous tensor.
  func read<Element: BitwiseCopyable>(_ tensor: Tensor, as type: Element.Type) -> [[Element]] {
    (0..<tensor.rows).map { row in
      Array(unsafeUninitializedCapacity: tensor.columns) { buffer, count in
        backend.download(tensor.rows(row..<row + 1).address, into: UnsafeMutableRawBufferPointer(buffer))
        count = tensor.columns
      }
    }
  }
}
