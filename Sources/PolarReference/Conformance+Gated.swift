import PolarCore

extension ConformanceRun {
  /// A gated layer computes what its two ops compute, bit for bit, and writes nothing else.
  func checkGated() {
    let shapes = [(1, 30, 32), (3, 66, 31), (8, 576, 96), (13, 64, 64), (70, 1090, 32)]
    for format in WeightFormat.allCases where backend.weightFormats.contains(format) {
      for (index, (rows, inputs, neurons)) in shapes.enumerated() {
        for activation in [GateActivation.silu, .relu(threshold: 0), .relu(threshold: 0.25)] {
          require("linearGated \(rows) x \(inputs) x \(neurons), \(format), \(activation)") {
            (pool, generator) throws(PolarError) in
            let weight = try pool.weight(generator.matrix(2 * neurons, inputs), format: format)
            let bias = index % 2 == 1 ? try pool.tensor(generator.matrix(1, 2 * neurons)) : nil
            let x = try pool.tensor(generator.matrix(rows, inputs, bf16: false), gap: index)
            let scratch = try pool.output(rows: rows, columns: 2 * neurons)
            let got = try pool.output(rows: rows, columns: neurons, gap: index)
            let want = try pool.output(rows: rows, columns: neurons)
            pool.backend.linear(scratch, x, weight: weight, bias: bias)
            switch activation {
            case .silu: pool.backend.siluMul(want, scratch)
            case .relu(let threshold): pool.backend.reluMul(want, scratch, threshold: threshold)
            }
            pool.backend.linearGated(
              got, x, weight: weight, bias: bias, activation: activation, scratch: scratch)
            if let damage = pool.damage() { return damage }
            return pool.read(got) == pool.read(want) ? nil : "differs from the two ops"
          }
        }
      }
    }
  }
}
