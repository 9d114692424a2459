import PolarCore

extension ConformanceRun {
  /// A layer of the selective MLP: shape and which entries are computed.
  private struct Shape {
    let rows: Int
    let hidden: Int
    let neurons: Int
    let count: Int
    let gated: Bool
    var text: String {
      "\(gated ? " gated" : ""), \(count) of \(neurons) neurons, \(rows) rows of \(hidden)"
    }
  }

  func checkSelectiveMLP() {
    let shapes: [(rows: Int, hidden: Int, neurons: Int, counts: [Int])] = [
      (1, 2, 1, [0, 1]), (2, 6, 9, [5, 9]), (1, 64, 33, [1, 32, 33]), (3, 30, 100, [0, 7, 31, 100]),
      (5, 96, 64, [33, 64]), (8, 576, 70, [2, 70]), (13, 66, 130, [65, 130]), (64, 128, 96, [17, 96]),
      (9, 1090, 40, [13, 40]), (200, 70, 66, [35, 66]), (2, 64, 600, [530]), (5, 1090, 90, [83, 90]),
      (3, 600, 150, [145]),
    ]
    for (rows, hidden, neurons, counts) in shapes {
      for count in counts {
        for gated in [false, true] {
          check(Shape(rows: rows, hidden: hidden, neurons: neurons, count: count, gated: gated))
        }
      }
    }
    checkUnions()
  }

  private func check(_ shape: Shape) {
    let typical = Float(shape.hidden).squareRoot() / 3
    let all = shape.count == shape.neurons
    for bias in [false, true] {
      let threshold: Float = bias ? 0.25 : 0
      compareRows(
        "selectiveUp\(shape.text)\(bias ? ", bias" : "")", rows: shape.rows,
        // A product of two sums that are both off; and near the threshold a neuron may be on one side or the other.
        shape.gated ? 2 * Tolerance.linear : Tolerance.linear,
        floor: shape.gated ? max(1, typical * typical) : max(1, typical)
      ) { (pool, generator, part) throws(PolarError) in
        let layer = try UpLayer(shape, bias: bias, pool, &generator)
        let x = try pool.tensor(generator.matrix(shape.rows, shape.hidden).rows(part), gap: shape.rows % 3)
        let out = try pool.output(rows: part.count, columns: layer.list.capacity, gap: shape.rows % 4)
        pool.backend.selectiveUp(
          out, x, weight: layer.weight, bias: layer.bias, threshold: threshold, neurons: layer.list)
        return pool.read(out.columns(0..<shape.count))
      }
      compareRows(
        "selectiveDown\(shape.text)\(bias ? ", bias" : "")", rows: shape.rows, Tolerance.linear,
        floor: max(1, Float(shape.count).squareRoot() / 3)
      ) { (pool, generator, part) throws(PolarError) in
        let weight = try pool.neurons(generator.matrix(shape.neurons, shape.hidden))
        let bias = bias ? try pool.tensor(generator.matrix(1, shape.hidden)) : nil
        let list = try pool.list(count: shape.count, of: shape.neurons, &generator)
        let h = try pool.tensor(
          generator.matrix(shape.rows, list.capacity).rows(part), gap: shape.rows % 3)
        let out = try pool.output(rows: part.count, columns: shape.hidden, gap: shape.rows % 2)
        pool.backend.selectiveDown(out, h, weight: weight, bias: bias, neurons: list)
        return pool.read(out)
      }
    }
    guard all else { return }
    requireEqual("selective MLP: every neuron is dense\(shape.text)") {
      (pool, generator) throws(PolarError) in
      let layer = try UpLayer(shape, bias: true, pool, &generator)
      let down = try pool.neurons(generator.matrix(shape.neurons, shape.hidden, bf16: false))
      let x = try pool.tensor(generator.matrix(shape.rows, shape.hidden, bf16: false))
      func run(_ list: ActiveNeurons?) throws(PolarError) -> HostTensor<Float> {
        let h = try pool.output(rows: shape.rows, columns: shape.neurons)
        let out = try pool.output(rows: shape.rows, columns: shape.hidden)
        pool.backend.selectiveUp(
          h, x, weight: layer.weight, bias: layer.bias, threshold: 0, neurons: list)
        pool.backend.selectiveDown(out, h, weight: down, bias: nil, neurons: list)
        return pool.read(h).stackedColumns(pool.read(out))
      }
      return (try run(layer.list), try run(nil))
    }
  }

  /// The weights of an up-projection and a list of its neurons.
  private struct UpLayer {
    let weight: Tensor
    let bias: Tensor?
    let list: ActiveNeurons

    init(
      _ shape: Shape, bias: Bool, _ pool: TensorPool, _ generator: inout SplitMix64
    ) throws(PolarError) {
      let parts = shape.gated ? 2 : 1
      weight = try pool.neurons(generator.matrix(shape.neurons, parts * shape.hidden))
      self.bias = bias ? try pool.tensor(generator.matrix(parts, shape.neurons), gap: 1) : nil
      list = try pool.list(count: shape.count, of: shape.neurons, &generator)
    }
  }
}

extension ConformanceRun {
  private func checkUnions() {
    for (rows, neurons) in [(1, 1), (1, 40), (3, 33), (8, 1000), (5, 9000), (64, 700)] {
      for k in Set([0, 1, neurons / 10, neurons / 2, neurons]).sorted() {
        checkUnion("topKUnion \(rows) x \(neurons), k \(k)", rows, neurons, exact: false) {
          $0.topKUnion($1, sums: $2, scores: $3, k: k)
        }
      }
      for threshold: Float in [-2, -0.25, 0, 0.5, 2] {
        checkUnion("unionAbove \(rows) x \(neurons), \(threshold)", rows, neurons, exact: true) {
          $0.unionAbove($1, peaks: $2, scores: $3, threshold: threshold)
        }
      }
    }
    require("topKUnion: ties go to the lower index, zeros are not taken") { (pool, _) throws(PolarError) in
      // Sums: 2, 1, 0, 2, 1, 0, 0, 1.
      let scores = try pool.tensor(
        HostTensor<Float>([1, 1, -5, 2, -9, 0, .nan, 0.5, 1, -1, 0, -3, 1, -2, -1, 0.5], rows: 2), gap: 2)
      let wanted: [[Int32]] = [
        [], [0], [0, 3], [0, 1, 3], [0, 1, 3, 4], [0, 1, 3, 4, 7], [0, 1, 3, 4, 7], [0, 1, 3, 4, 7],
      ]
      for (k, want) in wanted.enumerated() {
        let list = try pool.emptyList(capacity: 8)
        pool.backend.topKUnion(list, sums: try pool.output(columns: 8), scores: scores, k: k)
        let got = pool.read(list)
        if got != want { return "k = \(k) selects \(got)" }
      }
      return nil
    }
    require("unionAbove: NaN and the threshold itself are not above it") { (pool, _) throws(PolarError) in
      let scores = try pool.tensor(HostTensor<Float>([0.5, .nan, 1, -1, 0.25, 0.75, .nan, -1], rows: 2))
      let list = try pool.emptyList(capacity: 4)
      pool.backend.unionAbove(list, peaks: try pool.output(columns: 4), scores: scores, threshold: 0.5)
      let got = pool.read(list)
      return got == [1, 2] ? nil : "selects \(got)"
    }
  }

  /// Compares the list (padded with -1) and the aggregate, which follows it.
  private func checkUnion(
    _ name: String, _ rows: Int, _ neurons: Int, exact: Bool,
    _ select: (any Backend, ActiveNeurons, Tensor, Tensor) -> Void
  ) {
    compare(name, Tolerance.exact) { (pool, generator) throws(PolarError) in
      var host = generator.matrix(rows, neurons)
      // Few distinct values, so that ties occur and sums are exact in any order.
      for index in host.values.indices { host.values[index] = (host.values[index] * 8).rounded() / 8 }
      let list = try pool.emptyList(capacity: neurons)
      let aggregate = try pool.output(columns: neurons)
      select(pool.backend, list, aggregate, try pool.tensor(host, gap: 3))
      let got = pool.read(list).map(Float.init)
      let padded = got + Array(repeating: -1, count: max(0, neurons - got.count))
      return HostTensor(padded).stackedColumns(pool.read(aggregate))
    }
  }
}

extension TensorPool {
  /// A neuron-major weight in the backend's dtype.
  func neurons(_ host: HostTensor<Float>) throws(PolarError) -> Tensor {
    let gap = backend.neuronStride(columns: host.columns) - host.columns
    let dtype = backend.neuronDType
    let tensor = try output(rows: host.rows, columns: host.columns, gap: gap, dtype: dtype)
    for row in 0..<host.rows {
      let values = host.values[row * host.columns..<(row + 1) * host.columns]
      let address = tensor.rows(row..<row + 1).address
      if dtype == .f32 {
        values.withUnsafeBytes { backend.upload($0, to: address) }
      } else {
        let halves = values.map {
          dtype == .f16 ? Float16($0).bitPattern : UInt16($0.roundedToBF16.bitPattern >> 16)
        }
        halves.withUnsafeBytes { backend.upload($0, to: address) }
      }
    }
    return tensor
  }

  /// A list to be filled, every index of which is invalid.
  func emptyList(capacity: Int) throws(PolarError) -> ActiveNeurons {
    ActiveNeurons(
      indices: try output(columns: capacity, dtype: .i32), count: try output(columns: 1, dtype: .i32))
  }

  /// The entries that count.
  func read(_ list: ActiveNeurons) -> [Int32] {
    let count = Int(read(list.count, as: Int32.self)[0, 0])
    guard count >= 0, count <= list.capacity else { return [-2] }
    return Array(read(list.indices, as: Int32.self).values.prefix(count))
  }

  /// A random list with room for a few more entries, which are invalid indices.
  fileprivate func list(
    count: Int, of neurons: Int, _ generator: inout SplitMix64
  ) throws(PolarError) -> ActiveNeurons {
    let chosen = (0..<Int32(neurons)).shuffled(using: &generator).prefix(count).sorted()
    let spare = min(3, neurons - count)
    return ActiveNeurons(
      indices: try tensor(HostTensor(chosen + Array(repeating: .max, count: spare))),
      count: try tensor(HostTensor([Int32(count)])))
  }
}
