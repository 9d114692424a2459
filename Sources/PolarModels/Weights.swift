internal import Dispatch
internal import PolarCore
internal import PolarFormats
internal import Synchronization

/// Owner of a model's weights: one block of the backend's memory, sized before the first tensor is read.
final class Weights: Sendable {
  private let memory: any DeviceMemory

  /// Bytes held.
  var byteCount: Int { memory.byteCount }

  private init(_ memory: any DeviceMemory) { self.memory = memory }

  /// Loads what `describe` asks for. It is called twice: once to add up the sizes, once to read the tensors; the views
  /// of the second call stay valid as long as the returned owner lives. Throws when the file has tensors left over.
  static func load<Parts>(
    _ reader: WeightReader, on backend: any Backend, neuronSparse: Bool,
    _ describe: (WeightLoader) throws(PolarError) -> Parts
  ) throws(PolarError) -> (weights: Weights, parts: Parts) {
    let plan = WeightLoader(reader, backend, base: nil, neuronSparse: neuronSparse)
    _ = try describe(plan)
    let memory = try backend.allocate(byteCount: plan.byteCount)
    let loader = WeightLoader(reader, backend, base: memory.base, neuronSparse: neuronSparse)
    let parts = try describe(loader)
    try reader.finish()
    try loader.pack()
    return (Weights(memory), parts)
  }

  /// As ``load(_:on:_:)`` without a file: `fill` fills the memory, and what is read from a file stays as it fills it.
  static func make<Parts>(
    filledBy fill: (Address, Int) -> Void, on backend: any Backend, neuronSparse: Bool,
    _ describe: (WeightLoader) throws(PolarError) -> Parts
  ) throws(PolarError) -> (weights: Weights, parts: Parts) {
    let plan = WeightLoader(nil, backend, base: nil, neuronSparse: neuronSparse)
    _ = try describe(plan)
    let memory = try backend.allocate(byteCount: plan.byteCount)
    fill(memory.base, memory.byteCount)
    let parts = try describe(
      WeightLoader(nil, backend, base: memory.base, neuronSparse: neuronSparse))
    return (Weights(memory), parts)
  }
}

/// Hands out views of the weights' memory in order and, in the second of the two calls, fills them from the file.
final class WeightLoader {
  /// Bytes handed out.
  private(set) var byteCount = 0
  /// Whether MLPs hold their neurons row by row as well, so that any of them can be left out.
  let neuronSparse: Bool
  /// nil where the memory is not filled from a file.
  private let reader: WeightReader?
  private let backend: any Backend
  /// nil in the first call.
  private let base: Address?
  /// Pieces of matrices that are still to be packed.
  private var work: [PackingWork] = []

  /// Where to read from, in the second call.
  private var source: WeightReader? { base == nil ? nil : reader }

  fileprivate init(
    _ reader: WeightReader?, _ backend: any Backend, base: Address?, neuronSparse: Bool
  ) {
    self.neuronSparse = neuronSparse
    self.reader = reader
    self.backend = backend
    self.base = base
  }

  /// A token table or an output head: the tensor `name`, `[skippedRows + outputs, inputs]` in the file, without its first
  /// `skippedRows` rows.
  func matrix(
    _ name: String, outputs: Int, inputs: Int, skippedRows: Int = 0
  ) throws(PolarError) -> PackedMatrix {
    let matrix = try reserve([name], outputs: outputs, inputs: inputs, isTable: true)
    try fill(matrix, at: -skippedRows, name, rows: skippedRows + outputs)
    return matrix
  }

  /// Several tensors `[outputs, inputs]` with their rows one after the other.
  func stacked(
    _ tensors: [(name: String, outputs: Int)], inputs: Int
  ) throws(PolarError) -> PackedMatrix {
    let outputs = tensors.reduce(0) { $0 + $1.outputs }
    let matrix = try reserve(
      tensors.map(\.name), outputs: outputs, inputs: inputs, isTable: false)
    var row = 0
    for tensor in tensors {
      try fill(matrix, at: row, tensor.name, rows: tensor.outputs)
      row += tensor.outputs
    }
    return matrix
  }

  /// Linear layers `prefix.weight` (and `prefix.bias`) `[outputs, inputs]` that share their input, as one.
  func linear(
    _ layers: [(prefix: String, outputs: Int)], inputs: Int, bias: Bool
  ) throws(PolarError) -> Linear {
    let weight = try stacked(layers.map { ($0.prefix + ".weight", $0.outputs) }, inputs: inputs)
    guard bias else { return Linear(weight: weight, bias: nil) }
    return Linear(
      weight: weight, bias: try vector(layers.map { ($0.prefix + ".bias", $0.outputs) }))
  }

  /// One linear layer `[outputs, inputs]`.
  func linear(
    _ prefix: String, outputs: Int, inputs: Int, bias: Bool
  ) throws(PolarError) -> Linear {
    try linear([(prefix, outputs)], inputs: inputs, bias: bias)
  }

  /// Linear layers `prefix.weight` `[neurons, width]` side by side, one row per neuron: `[neurons, tensors * width]` in the
  /// backend's neuron dtype.
  func neuronRows(_ prefixes: [String], neurons: Int, width: Int) throws(PolarError) -> Tensor {
    let rows = NeuronRows(take: take, backend, neurons: neurons, width: prefixes.count * width)
    guard let source else { return rows.tensor }
    for (part, prefix) in prefixes.enumerated() {
      try source.read(prefix + ".weight", rows: neurons, columns: width) { firstRow, values in
        for row in 0..<values.count / width {
          rows.store(
            values[row * width..<(row + 1) * width], row: firstRow + row, from: part * width)
        }
      }
    }
    rows.upload()
    return rows.tensor
  }

  /// A linear layer `prefix.weight` `[width, neurons]` transposed: `[neurons, width]` in the backend's neuron dtype.
  func neuronColumns(_ prefix: String, neurons: Int, width: Int) throws(PolarError) -> Tensor {
    let rows = NeuronRows(take: take, backend, neurons: neurons, width: width)
    guard let source else { return rows.tensor }
    try source.read(prefix + ".weight", rows: width, columns: neurons) { firstRow, values in
      for row in 0..<values.count / neurons {
        rows.store(values[row * neurons..<(row + 1) * neurons], column: firstRow + row)
      }
    }
    rows.upload()
    return rows.tensor
  }

  /// Bytes of a weight in the backend's layout.
  func byteCount(_ weight: PackedMatrix) -> Int {
    backend.packedByteCount(outputs: weight.outputs, inputs: weight.inputs, format: weight.format)
  }

  /// Several vectors one after the other, f32.
  func vector(_ tensors: [(name: String, count: Int)]) throws(PolarError) -> Tensor {
    var values: [Float] = []
    if let source {
      for tensor in tensors { values += try source.readVector(tensor.name, count: tensor.count) }
    }
    return constant(values, count: tensors.reduce(0) { $0 + $1.count })
  }

  /// A vector that is computed rather than read, f32 `[values.count]`.
  func constant(_ values: [Float]) -> Tensor { constant(values, count: values.count) }

  private func constant(_ values: [Float], count: Int) -> Tensor {
    let tensor = Tensor(take(count * DType.f32.byteCount), columns: count)
    if base != nil {
      values.withUnsafeBytes { backend.upload($0, to: tensor.address) }
    }
    return tensor
  }

  private func reserve(
    _ names: [String], outputs: Int, inputs: Int, isTable: Bool
  ) throws(PolarError) -> PackedMatrix {
    guard inputs % 2 == 0 else {
      throw .weight(name: names.first ?? "", reason: "its \(inputs) columns are not an even number")
    }
    let format =
      reader?.format(of: names, isTable: isTable, among: backend.weightFormats)
      ?? backend.wideFormat
    let bytes = backend.packedByteCount(outputs: outputs, inputs: inputs, format: format)
    return PackedMatrix(take(bytes), outputs: outputs, inputs: inputs, format: format)
  }

  /// Notes that the tensor's rows are to be packed at `row`; rows that fall before the matrix are left out.
  private func fill(
    _ matrix: PackedMatrix, at row: Int, _ name: String, rows: Int
  ) throws(PolarError) {
    guard let source else { return }
    for piece in try source.pieces(name, rows: rows, columns: matrix.inputs)
    where row + piece.rows.upperBound > 0 {
      work.append(PackingWork(piece: piece, matrix: matrix, row: row + piece.rows.lowerBound))
    }
  }

  /// Packs all matrices, on all cores.
  fileprivate func pack() throws(PolarError) {
    let (work, backend) = (work, backend)
    // What is wrong with the first of several bad pieces is told, whoever comes first.
    let failure = Mutex<(index: Int, error: PolarError)?>(nil)
    DispatchQueue.concurrentPerform(iterations: work.count) { index in
      do throws(PolarError) {
        try work[index].run(on: backend)
      } catch {
        failure.withLock { if index < $0?.index ?? .max { $0 = (index, error) } }
      }
    }
    if let failure = failure.withLock({ $0 }) { throw failure.error }
  }

  private func take(_ bytes: Int) -> Address {
    let address = (base ?? Address(0)).advanced(by: byteCount)
    byteCount += (bytes + 63) & ~63
    return address
  }
}

/// A piece of a tensor and where it belongs.
private struct PackingWork: Sendable {
  let piece: WeightPiece
  let matrix: PackedMatrix
  /// The matrix's row of the piece's first row; rows below zero are left out.
  let row: Int

  func run(on backend: any Backend) throws(PolarError) {
    if row >= 0, piece.hasBlocks(matrix.format) {
      try piece.blocks(matrix.format) { backend.packBlocks(matrix, firstRow: row, blocks: $0) }
    } else {
      try piece.values { values throws(PolarError) in
        let skipped = max(0, -row)
        backend.packRows(
          matrix, firstRow: row + skipped,
          values: UnsafeBufferPointer(rebasing: values[(skipped * matrix.inputs)...]))
      }
    }
  }
}
