import PolarCore
import PolarReference
import Testing

@Suite struct MatrixKernelTests {
  /// Products as the reference computes them, of activations that bf16 represents.
  private func expectedLinear(
    _ x: HostTensor<Float>, _ weight: HostTensor<Float>, _ bias: HostTensor<Float>?
  ) throws(PolarError) -> HostTensor<Float> {
    let pool = TensorPool(ReferenceBackend())
    let out = try pool.output(rows: x.rows, columns: weight.rows)
    var biasTensor: Tensor?
    if let bias { biasTensor = try pool.tensor(bias) }
    pool.backend.linear(out, try pool.tensor(x), weight: try pool.weight(weight), bias: biasTensor)
    return pool.read(out)
  }

  private func expectClose(_ got: HostTensor<Float>, _ want: HostTensor<Float>, _ what: String) {
    let error = worstError(got, want, floor: 1)
    #expect(error <= Tolerance.linear, "\(what): error \(error)")
  }

  @Test(arguments: [
    (1, 2, 1), (3, 30, 31), (8, 64, 64), (9, 576, 100), (17, 130, 65), (40, 72, 70), (70, 40, 33),
    (2, 1090, 70),
  ])
  func linear(rows: Int, inputs: Int, outputs: Int) throws {
    var generator = SplitMix64(seed: UInt64(rows * inputs + outputs))
    let x = generator.matrix(rows, inputs)
    let weight = generator.matrix(outputs, inputs)
    let bias = generator.matrix(1, outputs)
    let want = try expectedLinear(x, weight, bias)
    for seed in schedules.prefix(2) {
      let kernels = MatrixKernels(kernels: EmulatedKernels(seed: seed))
      let got = try kernels.linear(x, weight: weight, bias: bias)
      expectClose(got, want, "schedule \(seed)")
      // A row's bits are the same in every tile, alone or not.
      for tile in [8, 16, 32, 64] {
        var other = kernels
        other.tile = tile
        #expect(sameBits(try other.linear(x, weight: weight, bias: bias), got), "tile \(tile)")
      }
      let last = try kernels.linear(x.rows([rows - 1]), weight: weight, bias: bias)
      #expect(sameBits(last, got.rows([rows - 1])))
    }
    for splits in [2, 3] {
      expectClose(
        try MatrixKernels().linear(x, weight: weight, bias: nil, splits: splits),
        try expectedLinear(x, weight, nil), "\(splits) splits")
    }
  }

  @Test func halfPrecisionElements() throws {
    var generator = SplitMix64(seed: 4)
    let x = generator.matrix(5, 80)
    let weight = generator.matrix(70, 80)
    let kernels = MatrixKernels(kernels: EmulatedKernels(isF16: true))
    expectClose(
      try kernels.linear(x, weight: weight, bias: nil), try expectedLinear(x, weight, nil), "linear")
  }

  struct Selection: Sendable, CustomTestStringConvertible {
    let rows: Int
    let hidden: Int
    let neurons: Int
    let count: Int?
    let gated: Bool
    var testDescription: String {
      "\(rows) rows, \(count.map(String.init) ?? "all") of \(neurons) neurons of \(hidden)\(gated ? ", gated" : "")"
    }
  }

  static let selections: [Selection] = [
    .init(rows: 1, hidden: 2, neurons: 5, count: 3, gated: false),
    .init(rows: 3, hidden: 30, neurons: 100, count: 65, gated: false),
    .init(rows: 3, hidden: 30, neurons: 100, count: 64, gated: true),
    .init(rows: 9, hidden: 64, neurons: 200, count: nil, gated: false),
    .init(rows: 20, hidden: 72, neurons: 130, count: 33, gated: true),
    .init(rows: 40, hidden: 136, neurons: 80, count: 0, gated: true),
    .init(rows: 65, hidden: 48, neurons: 90, count: 70, gated: false),
    // Long rows, a long list: sums are split.
    .init(rows: 2, hidden: 1090, neurons: 60, count: 40, gated: false),
    .init(rows: 2, hidden: 1088, neurons: 700, count: 600, gated: true),
  ]

  @Test(arguments: selections) func selective(shape: Selection) throws {
    var generator = SplitMix64(seed: UInt64(shape.hidden * 7 + shape.rows))
    let matrices = shape.gated ? 2 : 1
    let x = generator.matrix(shape.rows, shape.hidden)
    let weight = generator.matrix(shape.neurons, matrices * shape.hidden)
    let bias = generator.matrix(matrices, shape.neurons)
    let down = generator.matrix(shape.neurons, shape.hidden)
    let downBias = generator.matrix(1, shape.hidden)
    let list = shape.count.map { count in
      Array((0..<shape.neurons).shuffled(using: &generator).prefix(count)).sorted()
    }
    let threshold: Float = shape.gated ? 0.25 : 0

    let pool = TensorPool(ReferenceBackend())
    var neurons: ActiveNeurons?
    if let list {
      let padded = list + Array(repeating: 0, count: shape.neurons - list.count)
      neurons = ActiveNeurons(
        indices: try pool.tensor(HostTensor(padded.map(Int32.init))),
        count: try pool.tensor(HostTensor([Int32(list.count)])))
    }
    let entries = list?.count ?? shape.neurons
    let wantUp = try pool.output(rows: shape.rows, columns: shape.neurons)
    let wantDown = try pool.output(rows: shape.rows, columns: shape.hidden)
    pool.backend.selectiveUp(
      wantUp, try pool.tensor(x), weight: try pool.tensor(weight), bias: try pool.tensor(bias),
      threshold: threshold, neurons: neurons)
    // Down is checked with activations that bf16 represents, as the kernel rounds them.
    let activations = generator.matrix(shape.rows, entries)
    let h = try pool.output(rows: shape.rows, columns: shape.neurons)
    if entries > 0 { pool.write(activations, to: h.columns(0..<entries)) }
    pool.backend.selectiveDown(
      wantDown, h, weight: try pool.tensor(down), bias: try pool.tensor(downBias), neurons: neurons)
    let expectedUp = pool.read(wantUp.columns(0..<entries))
    let expectedDown = pool.read(wantDown)

    for seed in schedules.prefix(2) {
      let kernels = MatrixKernels(kernels: EmulatedKernels(seed: seed))
      // Rows that are aligned to 16 bytes, and rows that are not.
      for gap in [0, 2, (8 - matrices * shape.hidden % 8) % 8] {
        let up = try kernels.up(
          x, weight: weight, bias: bias, threshold: threshold, gap: gap, list: list)
        expectActivations(up, expectedUp, shape.gated ? 0 : 1e-4)
        let got = try kernels.down(
          activations, weight: down, bias: downBias, gap: (8 - shape.hidden % 8) % 8, list: list)
        expectClose(got, expectedDown, "down, gap \(gap)")
      }
    }
  }

  /// A sum within rounding of the threshold may fall on either side of it: then one of the two is zero.
  private func expectActivations(_ got: HostTensor<Float>, _ want: HostTensor<Float>, _ slack: Float) {
    var worst: Float = 0
    for (a, b) in zip(got.values, want.values) where a != b {
      if a == 0 || b == 0, max(a.magnitude, b.magnitude) <= slack { continue }
      let error = (a - b).magnitude / max(1, b.magnitude)
      if !(error <= worst) { worst = error.isNaN ? .infinity : error }
    }
    #expect(got.values.count == want.values.count)
    #expect(worst <= 1e-4, "up: error \(worst)")
  }

  @Test func everyNeuronListedIsEveryNeuron() throws {
    var generator = SplitMix64(seed: 11)
    let x = generator.matrix(3, 1040)
    let weight = generator.matrix(90, 2080)
    let down = generator.matrix(90, 64)
    let all = Array(0..<90)
    let kernels = MatrixKernels()
    let h = try kernels.up(x, weight: weight, bias: nil, threshold: 0)
    #expect(sameBits(try kernels.up(x, weight: weight, bias: nil, threshold: 0, list: all), h))
    #expect(
      sameBits(
        try kernels.down(h, weight: down, bias: nil, list: all), try kernels.down(h, weight: down, bias: nil))
    )
    // A row does not depend on the others, nor on the tile.
    for tile in [16, 32, 64] {
      let other = MatrixKernels(tile: tile)
      #expect(sameBits(try other.up(x, weight: weight, bias: nil, threshold: 0), h))
      #expect(
        sameBits(try other.down(h, weight: down, bias: nil), try kernels.down(h, weight: down, bias: nil)))
    }
    #expect(sameBits(try kernels.up(x.rows([1]), weight: weight, bias: nil, threshold: 0), h.rows([1])))
    // The capacity of the list does not matter either: the count decides.
    let some = [3, 17, 40, 41, 89]
    let compact = try kernels.up(x, weight: weight, bias: nil, threshold: 0, list: some, capacity: 5)
    #expect(
      sameBits(try kernels.up(x, weight: weight, bias: nil, threshold: 0, list: some, capacity: 80), compact))
    for (j, n) in some.enumerated() {
      #expect(compact[1, j] == h[1, n] || (compact[1, j] - h[1, n]).magnitude < 1e-4)
    }
  }

  /// Faults of the copy pipeline show in the products, too.
  @Test(arguments: ["wait-group off by one", "missing block sync", "ring wraps early"])
  func faultsAreCaught(fault: String) throws {
    var generator = SplitMix64(seed: 12)
    let x = generator.matrix(3, 576)
    let weight = generator.matrix(70, 576)
    var isCaught = false
    for seed in schedules {
      let sound = MatrixKernels(kernels: EmulatedKernels(seed: seed))
      let faulty = MatrixKernels(kernels: EmulatedKernels(seed: seed, mutation: fault))
      let up = try? faulty.up(x, weight: weight, bias: nil, threshold: 0)
      let wanted = try sound.up(x, weight: weight, bias: nil, threshold: 0)
      if up.map({ worstError($0, wanted) > Tolerance.linear }) ?? true {
        isCaught = true
      }
    }
    #expect(isCaught, "the checks do not notice: \(fault)")
  }
}
