import PolarCore

extension ConformanceRun {
  func checkRouting() {
    for (rows, units, headsPerUnit) in [(1, 1, 1), (2, 3, 4), (5, 8, 1), (7, 9, 3), (13, 32, 1), (3, 72, 2)] {
      for k in Set([0, 1, units / 2, units - 1, units]).sorted() {
        checkSelection(
          "selectTopK \(rows) x \(units) units of \(headsPerUnit), k \(k)", rows, units, headsPerUnit
        ) {
          $0.selectTopK($1, scores: $2, k: k, headsPerUnit: headsPerUnit)
        }
      }
      for threshold: Float in [-2, -0.25, 0, 0.5, 2] {
        checkSelection(
          "selectAbove \(rows) x \(units) units of \(headsPerUnit), \(threshold)", rows, units, headsPerUnit
        ) { $0.selectAbove($1, scores: $2, threshold: threshold, headsPerUnit: headsPerUnit) }
      }
    }
    checkTies()
    checkArgmax()
    for (rows, heads, headDim) in [(1, 1, 2), (3, 5, 6), (8, 3, 64), (13, 3, 48), (2, 1, 128)] {
      checkMeasures(rows, heads, headDim)
    }
  }

  private func checkSelection(
    _ name: String, _ rows: Int, _ units: Int, _ headsPerUnit: Int,
    _ select: (any Backend, Tensor, Tensor) -> Void
  ) {
    compareRows(name, rows: rows, Tolerance.exact) { (pool, generator, part) throws(PolarError) in
      var host = generator.matrix(rows, units)
      // Few distinct values, so that ties occur and scores equal the threshold.
      for index in host.values.indices { host.values[index] = (host.values[index] * 8).rounded() / 8 }
      let scores = try pool.tensor(host.rows(part), gap: 3)
      let mask = try pool.output(rows: part.count, columns: units * headsPerUnit, gap: 5, dtype: .u8)
      select(pool.backend, mask, scores)
      return pool.readMask(mask)
    }
  }

  private func checkTies() {
    require("selectTopK: ties go to the lower index") { (pool, _) throws(PolarError) in
      let scores = try pool.tensor(HostTensor<Float>([1, 2, 1, 2, 1, 2, 1]))
      let mask = try pool.output(columns: 7, dtype: .u8)
      let wanted: [[Float]] = [
        [0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0], [1, 1, 0, 1, 0, 1, 0],
      ]
      for (index, want) in wanted.enumerated() {
        pool.backend.selectTopK(mask, scores: scores, k: index + 1, headsPerUnit: 1)
        let got = pool.readMask(mask).values
        if got != want { return "k = \(index + 1) selects \(got)" }
      }
      return nil
    }
    require("selectAbove: a score equal to the threshold is not above it") { (pool, _) throws(PolarError) in
      let scores = try pool.tensor(HostTensor([0.5, Float(0.5).nextUp, Float(0.5).nextDown, -1]))
      let mask = try pool.output(columns: 8, dtype: .u8)
      pool.backend.selectAbove(mask, scores: scores, threshold: 0.5, headsPerUnit: 2)
      let got = pool.readMask(mask).values
      return got == [0, 0, 1, 1, 0, 0, 0, 0] ? nil : "selects \(got)"
    }
  }

  private func checkArgmax() {
    for (rows, vocabulary) in [(1, 1), (3, 7), (2, 64), (5, 1023), (9, 1100), (4, 5000)] {
      compareRows("argmax \(rows) x \(vocabulary)", rows: rows, Tolerance.exact) {
        (pool, generator, part) throws(PolarError) in
        var host = generator.matrix(rows, vocabulary)
        // Few distinct values, so that ties occur.
        for index in host.values.indices { host.values[index] = (host.values[index] * 8).rounded() / 8 }
        let logits = try pool.tensor(host.rows(part), gap: 3)
        let tokens = try pool.output(columns: part.count, dtype: .i32)
        pool.backend.argmax(tokens, logits: logits)
        return HostTensor(
          pool.read(tokens, as: Int32.self).values.map(Float.init), rows: part.count, columns: 1)
      }
    }
    require("argmax of numbers alone") { (pool, generator) throws(PolarError) in
      let columns = 1500
      var host = generator.matrix(6, columns)
      func set(_ row: Int, _ column: Int, _ value: Float) { host.values[row * columns + column] = value }
      set(0, 1499, .nan)
      set(1, 0, .nan)
      set(2, 700, .infinity)
      for column in 0..<columns { set(3, column, -.infinity) }
      for column in 0..<columns { set(4, column, column == 1025 ? -3 : -.infinity) }
      set(5, 1200, 9)
      let tokens = try pool.output(columns: 6, dtype: .i32)
      pool.backend.argmax(tokens, logits: try pool.tensor(host))
      let got = pool.read(tokens, as: Int32.self).values
      return got == [-1, -1, -1, -1, 1025, 1200] ? nil : "chooses \(got)"
    }
  }

  private func checkMeasures(_ rows: Int, _ heads: Int, _ headDim: Int) {
    let shape = "\(rows) x \(heads) heads of \(headDim)"
    compareRows("headNorms \(shape)", rows: rows, Tolerance.headMeasures) {
      (pool, generator, part) throws(PolarError) in
      let attention = try pool.tensor(
        generator.matrix(rows, heads * headDim, bf16: false).rows(part), gap: 2)
      let out = try pool.output(rows: part.count, columns: heads, gap: 1)
      pool.backend.headNorms(out, attention: attention)
      return pool.read(out)
    }
    for withFallback in [false, true] {
      let name = "headDeviations \(shape)" + (withFallback ? ", fallback" : "")
      compareRows(name, rows: rows, Tolerance.headMeasures) {
        (pool, generator, part) throws(PolarError) in
        let attention = generator.matrix(rows, heads * headDim, bf16: false)
        let fallback = generator.matrix(rows, heads * headDim, bf16: false)
        let residual = generator.matrix(rows, 30, scale: 2, bf16: false)
        let gram = try pool.tensor(Self.gram(heads: heads, headDim: headDim, &generator), gap: 1)
        let out = try pool.output(rows: part.count, columns: heads, gap: 1)
        pool.backend.headDeviations(
          out, attention: try pool.tensor(attention.rows(part), gap: 2),
          fallback: withFallback ? try pool.tensor(fallback.rows(part), gap: 3) : nil, gram: gram,
          residual: try pool.tensor(residual.rows(part), gap: 1))
        return pool.read(out)
      }
    }
  }

  /// Gram matrices of random projections, `W_h' W_h` stacked: `[heads * headDim, headDim]`.
  private static func gram(
    heads: Int, headDim: Int, _ generator: inout SplitMix64
  ) -> HostTensor<Float> {
    var gram = HostTensor<Float>(repeating: 0, rows: heads * headDim, columns: headDim)
    for h in 0..<heads {
      let projection = generator.matrix(5, headDim)  // [outputs, headDim]
      for a in 0..<headDim {
        for b in 0..<headDim {
          for n in 0..<5 { gram[h * headDim + a, b] += projection[n, a] * projection[n, b] }
        }
      }
    }
    return gram
  }
}

extension TensorPool {
  /// A u8 mask as floats, for comparison.
  func readMask(_ mask: Tensor) -> HostTensor<Float> {
    let bytes = read(mask, as: UInt8.self)
    return HostTensor(bytes.values.map(Float.init), rows: bytes.rows, columns: bytes.columns)
  }
}
