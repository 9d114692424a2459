import EmulatedCUDA
import PolarCUDA
import PolarCore
import Testing

@testable import PolarReference

/// Routers with their choice in one launch: the same bits as the products and the selection one by one.
@Suite struct RouterTests {
  struct Shape: Sendable {
    let rows: Int
    let inputs: Int
    let units: Int
    let hidden: Int
  }

  static let shapes = [
    Shape(rows: 1, inputs: 32, units: 3, hidden: 0), Shape(rows: 13, inputs: 1090, units: 72, hidden: 0),
    Shape(rows: 9, inputs: 130, units: 40, hidden: 24), Shape(rows: 8, inputs: 1536, units: 66, hidden: 130),
  ]

  @Test(arguments: shapes, [1, 2] as [UInt64]) func headsAsOneByOne(shape: Shape, seed: UInt64) throws {
    let device = EmulatedDevice(seed: seed)
    let backend = try CUDABackend(device: device)
    var generator = SplitMix64(seed: seed)
    let pool = TensorPool(backend)
    func matrix(_ rows: Int, _ columns: Int) throws -> PackedMatrix {
      try pool.weight(generator.matrix(rows, columns, bf16: false))
    }
    func vector(_ columns: Int) throws -> Tensor {
      try pool.tensor(generator.matrix(1, columns, bf16: false))
    }
    let linear = HeadRouterMatrices(
      weight: try matrix(shape.units, shape.inputs), bias: try vector(shape.units))
    let router =
      shape.hidden == 0
      ? linear
      : HeadRouterMatrices(
        weight: linear.weight, bias: linear.bias,
        hidden: .init(
          weight: try matrix(shape.hidden, shape.inputs), bias: try vector(shape.hidden),
          output: try matrix(shape.units, shape.hidden)))
    let x = try pool.tensor(generator.matrix(shape.rows, shape.inputs, bf16: false))
    let want = try pool.output(rows: shape.rows, columns: shape.units)
    let wantMask = try pool.output(rows: shape.rows, columns: 2 * shape.units, dtype: .u8)
    backend.linear(want, x, weight: router.weight, bias: router.bias)
    if let layer = router.hidden {
      let hidden = try pool.output(rows: shape.rows, columns: shape.hidden)
      let correction = try pool.output(rows: shape.rows, columns: shape.units)
      backend.linear(hidden, x, weight: layer.weight, bias: layer.bias)
      backend.relu(hidden)
      backend.linear(correction, hidden, weight: layer.output, bias: nil)
      backend.add(want, correction)
    }
    let scores = try pool.output(rows: shape.rows, columns: shape.units, gap: 3)
    let mask = try pool.output(rows: shape.rows, columns: 2 * shape.units, gap: 1, dtype: .u8)
    let scratch = try pool.output(rows: shape.rows, columns: max(1, router.scratchColumns))
    for choice in [ScoreChoice.largest(shape.units / 2), .above(0.25), .largest(1)] {
      switch choice {
      case .largest(let k): backend.selectTopK(wantMask, scores: want, k: k, headsPerUnit: 2)
      case .above(let threshold):
        backend.selectAbove(wantMask, scores: want, threshold: threshold, headsPerUnit: 2)
      }
      let before = device.launches
      backend.routeHeads(
        mask, scores: scores, x, router: router, scratch: scratch, choice: choice, headsPerUnit: 2)
      #expect(device.launches == before + 1)
      #expect(pool.read(scores) == pool.read(want))
      #expect(pool.read(mask, as: UInt8.self) == pool.read(wantMask, as: UInt8.self))
    }
    #expect(backend.failure == nil)
    #expect(pool.damage() == nil)
  }

  /// Lists of neurons without scores in memory: as of the scores of a linear layer.
  @Test(arguments: [(1, 64, 300), (13, 130, 9000), (70, 48, 700)], [1, 2] as [UInt64])
  func neuronsAsOneByOne(shape: (rows: Int, rank: Int, neurons: Int), seed: UInt64) throws {
    let device = EmulatedDevice(seed: seed)
    let backend = try CUDABackend(device: device)
    var generator = SplitMix64(seed: seed + 10)
    let pool = TensorPool(backend)
    let x = try pool.tensor(generator.matrix(shape.rows, shape.rank, bf16: false), gap: 1)
    let weight = try pool.weight(generator.matrix(shape.neurons, shape.rank, bf16: false))
    let scores = try pool.output(rows: shape.rows, columns: shape.neurons)
    let (sums, aggregate) = (
      try pool.output(columns: shape.neurons), try pool.output(columns: shape.neurons)
    )
    let (want, list) = (
      try pool.emptyList(capacity: shape.neurons), try pool.emptyList(capacity: shape.neurons)
    )
    backend.linear(scores, x, weight: weight, bias: nil)
    let untouched = try pool.output(rows: shape.rows, columns: shape.neurons)
    for choice in [ScoreChoice.largest(shape.neurons / 5), .above(2), .above(-9)] {
      let before: Int
      switch choice {
      case .largest(let k):
        backend.topKUnion(want, sums: sums, scores: scores, k: k)
        before = device.launches
        backend.routeNeurons(
          list, x, weight: weight, scores: untouched, aggregate: aggregate, choice: choice)
        #expect(device.launches == before + 2)
        #expect(pool.read(aggregate) == pool.read(sums))
      case .above(let threshold):
        backend.unionAbove(want, peaks: sums, scores: scores, threshold: threshold)
        before = device.launches
        backend.routeNeurons(
          list, x, weight: weight, scores: untouched, aggregate: aggregate, choice: choice)
        #expect(device.launches == before + 1)
      }
      #expect(pool.read(list) == pool.read(want))
    }
    #expect(pool.read(untouched).values.allSatisfy { $0.isNaN })
    #expect(backend.failure == nil)
    #expect(pool.damage() == nil)
  }
}
