public import PolarCore

/// `G_h = W_o,h' W_o,h` of every layer and head: the metric in which a change of a head's output is what it does to the
/// residual stream (see ``Backend/headDeviations(_:attention:fallback:gram:residual:)``).
public final class OutputGram: Sendable {
  private let memory: any DeviceMemory
  private let heads: Int
  private let headDim: Int
  private let layers: Int

  /// Gram matrices of the layers' out-projections `[hidden, heads * headDim]`.
  public init(
    projections: [PackedMatrix], heads: Int, headDim: Int, on backend: any Backend
  ) throws(PolarError) {
    let layerBytes = heads * headDim * headDim * 4
    memory = try backend.allocate(byteCount: max(64, layerBytes * projections.count))
    self.heads = heads
    self.headDim = headDim
    self.layers = projections.count
    for (layer, projection) in projections.enumerated() {
      var weight = [Float](repeating: 0, count: projection.outputs * projection.inputs)
      weight.withUnsafeMutableBufferPointer { backend.unpackRows(projection, firstRow: 0, into: $0) }
      if let ops = backend.training {
        try multiply(weight, outputs: projection.outputs, into: self[layer], on: ops)
        continue
      }
      let gram = Self.gram(weight, outputs: projection.outputs, heads: heads, headDim: headDim)
      gram.withUnsafeBytes { backend.upload($0, to: memory.base.advanced(by: layer * layerBytes)) }
    }
  }

  /// The same on a device. Weights that bf16 can hold are multiplied exactly.
  private func multiply(
    _ weight: [Float], outputs: Int, into gram: Tensor, on ops: any TrainingOps
  ) throws(PolarError) {
    try ops.prepareTraining()
    let copy = try ops.allocate(byteCount: weight.count * 4)
    weight.withUnsafeBytes { ops.upload($0, to: copy.base) }
    let rows = Tensor(copy.base, rows: outputs, columns: heads * headDim)
    for head in 0..<heads {
      let own = rows.columns(head * headDim..<(head + 1) * headDim)  // [outputs, headDim]
      ops.multiply(
        gram.rows(head * headDim..<(head + 1) * headDim), .transposed(own), .plain(own), adding: false)
    }
    // The copy may go only when it is no longer in use.
    var last: Float = 0
    withUnsafeMutableBytes(of: &last) { ops.download(gram.address, into: $0) }
  }

  /// The Gram matrices of one layer: f32 `[heads * headDim, headDim]`.
  public subscript(layer: Int) -> Tensor {
    precondition(layer >= 0 && layer < layers, "no such layer")
    return Tensor(
      memory.base.advanced(by: layer * heads * headDim * headDim * 4), rows: heads * headDim,
      columns: headDim)
  }

  private static func gram(_ weight: [Float], outputs: Int, heads: Int, headDim: Int) -> [Float] {
    var gram = [Float](repeating: 0, count: heads * headDim * headDim)
    weight.withUnsafeBufferPointer { weight in
      gram.withUnsafeMutableBufferPointer { gram in
        for output in 0..<outputs {
          for head in 0..<heads {
            let row = output * heads * headDim + head * headDim
            for i in 0..<headDim {
              let value = weight[row + i]
              let base = (head * headDim + i) * headDim
              for j in 0..<headDim { gram[base + j] += value * weight[row + j] }
            }
          }
        }
      }
    }
    return gram
  }
}
