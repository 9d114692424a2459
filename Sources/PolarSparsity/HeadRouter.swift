public import PolarCore

/// The routers of all sparse layers in a backend's memory.
public final class HeadRouter: Sendable {
  private struct Layer: Sendable {
    let weight: PackedMatrix
    let bias: Tensor
    let hiddenWeight: PackedMatrix?
    let hiddenBias: Tensor?
    let outputWeight: PackedMatrix?
  }

  private let layers: [Layer?]
  private let memory: any DeviceMemory
  /// Number of scores per row.
  public let units: Int
  private let hiddenUnits: Int

  /// Uploads routers; `weights[layer]` is nil where a layer is dense.
  public init(_ weights: [RouterWeights?], on backend: any Backend) throws(PolarError) {
    func aligned(_ bytes: Int) -> Int { (bytes + 63) & ~63 }
    var total = 0
    for router in weights.compactMap({ $0 }) {
      total += aligned(backend.packedByteCount(outputs: router.units, inputs: router.inputs))
      total += aligned(router.units * 4)
      if router.hiddenUnits > 0 {
        total += aligned(backend.packedByteCount(outputs: router.hiddenUnits, inputs: router.inputs))
        total += aligned(router.hiddenUnits * 4)
        total += aligned(backend.packedByteCount(outputs: router.units, inputs: router.hiddenUnits))
      }
    }
    let memory = try backend.allocate(byteCount: max(64, total))
    var offset = 0
    func matrix(_ values: [Float], outputs: Int, inputs: Int) -> PackedMatrix {
      let packed = PackedMatrix(memory.base.advanced(by: offset), outputs: outputs, inputs: inputs)
      values.withUnsafeBufferPointer { backend.packRows(packed, firstRow: 0, values: $0) }
      offset += aligned(backend.packedByteCount(outputs: outputs, inputs: inputs))
      return packed
    }
    func vector(_ values: [Float]) -> Tensor {
      let tensor = Tensor(memory.base.advanced(by: offset), columns: values.count)
      values.withUnsafeBytes { backend.upload($0, to: tensor.address) }
      offset += aligned(values.count * 4)
      return tensor
    }
    var layers: [Layer?] = []
    for router in weights {
      guard let router else {
        layers.append(nil)
        continue
      }
      let hasHidden = router.hiddenUnits > 0
      let hidden = router.hiddenUnits
      layers.append(
        Layer(
          weight: matrix(router.weight, outputs: router.units, inputs: router.inputs),
          bias: vector(router.bias),
          hiddenWeight: hasHidden
            ? matrix(router.hiddenWeight, outputs: hidden, inputs: router.inputs) : nil,
          hiddenBias: hasHidden ? vector(router.hiddenBias) : nil,
          outputWeight: hasHidden
            ? matrix(router.outputWeight, outputs: router.units, inputs: hidden) : nil))
    }
    self.layers = layers
    self.memory = memory
    self.units = weights.lazy.compactMap { $0?.units }.first ?? 0
    self.hiddenUnits = weights.lazy.compactMap { $0?.hiddenUnits }.max() ?? 0
  }

  /// Whether `layer` is routed; dense layers are not.
  public func routes(layer: Int) -> Bool { layer < layers.count && layers[layer] != nil }

  /// Bytes of workspace that ``scores(_:layer:workspace:on:)`` takes for `rows` rows, the scores included.
  public func workspaceByteCount(rows: Int) -> Int {
    (rows * units * 4 + 64) * 2 + rows * hiddenUnits * 4 + 64
  }

  /// Scores f32 `[rows, units]` of input f32 `[rows, hidden]`, or nil when the layer is dense.
  public func scores(
    _ input: Tensor, layer: Int, workspace: inout Workspace, on backend: any Backend
  ) -> Tensor? {
    guard layer < layers.count, let router = layers[layer] else { return nil }
    let scores = workspace.take(rows: input.rows, columns: units)
    backend.linear(scores, input, weight: router.weight, bias: router.bias)
    if let hiddenWeight = router.hiddenWeight, let outputWeight = router.outputWeight {
      let hidden = workspace.take(rows: input.rows, columns: hiddenWeight.outputs)
      backend.linear(hidden, input, weight: hiddenWeight, bias: router.hiddenBias)
      backend.relu(hidden)
      let correction = workspace.take(rows: input.rows, columns: units)
      backend.linear(correction, hidden, weight: outputWeight, bias: nil)
      backend.add(scores, correction)
    }
    return scores
  }
}
