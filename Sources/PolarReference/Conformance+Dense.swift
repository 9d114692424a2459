import PolarCore

extension ConformanceRun {
  func checkMemory() {
    require("allocate: zeroed and aligned") { (_, _) throws(PolarError) in
      for byteCount in [0, 1, 63, 64, 4097] {
        let memory = try self.backend.allocate(byteCount: byteCount)
        if memory.base.bits % 64 != 0 { return "\(byteCount) bytes are not 64-byte aligned" }
        if memory.byteCount != byteCount { return "\(memory.byteCount) bytes instead of \(byteCount)" }
        var bytes = [UInt8](repeating: 0xff, count: byteCount)
        bytes.withUnsafeMutableBytes { self.backend.download(memory.base, into: $0) }
        if bytes.contains(where: { $0 != 0 }) { return "\(byteCount) bytes are not zeroed" }
      }
      return nil
    }
    compare("upload and download", Tolerance.exact) { (pool, generator) throws(PolarError) in
      let host = generator.matrix(3, 37, bf16: false)
      return pool.read(try pool.tensor(host, gap: 5))
    }
  }

  func checkWeights() {
    for (outputs, inputs, chunk) in [(1, 2, 1), (5, 6, 2), (33, 30, 5), (100, 64, 33), (31, 576, 31)] {
      compare("pack and unpack \(outputs) x \(inputs), \(chunk) rows at a time", Tolerance.exact) {
        (pool, generator) throws(PolarError) in
        pool.read(try pool.weight(generator.matrix(outputs, inputs), rowsPerCall: chunk))
      }
    }
    require("unpack from the middle") { (pool, generator) throws(PolarError) in
      let host = generator.matrix(37, 6)
      let weight = try pool.weight(host)
      for rows in [3..<4, 30..<36, 31..<37] {
        var values = [Float](repeating: .nan, count: rows.count * 6)
        values.withUnsafeMutableBufferPointer {
          pool.backend.unpackRows(weight, firstRow: rows.lowerBound, into: $0)
        }
        if values != host.rows(rows).values { return "rows \(rows) differ" }
      }
      return nil
    }
    require("rounding of weights") { (pool, generator) throws(PolarError) in
      let host = generator.matrix(7, 30, bf16: false)
      let stored = pool.read(try pool.weight(host))
      for (got, want) in zip(stored.values, host.values)
      where !((got - want).magnitude <= Tolerance.storedRounding * want.magnitude) {
        return "\(want) is stored as \(got)"
      }
      return nil
    }
  }

  func checkDenseOps() {
    for (rows, columns, gap) in [(1, 2, 0), (3, 6, 2), (5, 30, 0), (8, 64, 3), (13, 576, 1)] {
      let shape = "\(rows) x \(columns), gap \(gap)"
      checkMoves(rows, columns, gap, shape)
      checkNorms(rows, columns, gap, shape)
      checkElementwise(rows, columns, gap, shape)
    }
    checkHeadNorms()
    checkExtremes()
  }

  private func checkMoves(_ rows: Int, _ columns: Int, _ gap: Int, _ shape: String) {
    compareRows("embed \(shape)", rows: rows, Tolerance.exact) {
      (pool, generator, part) throws(PolarError) in
      let table = try pool.weight(generator.matrix(37, columns))
      let tokens = HostTensor((0..<rows).map { _ in Int32.random(in: 0..<37, using: &generator) }, rows: rows)
      let out = try pool.output(rows: part.count, columns: columns, gap: gap)
      pool.backend.embed(out, tokens: try pool.row(tokens.rows(part)), table: table)
      return pool.read(out)
    }
    compareRows("gatherRows \(shape)", rows: rows, Tolerance.exact) {
      (pool, generator, part) throws(PolarError) in
      let x = try pool.tensor(generator.matrix(11, columns, bf16: false), gap: gap)
      let indices = HostTensor(
        (0..<rows).map { _ in Int32.random(in: 0..<11, using: &generator) }, rows: rows)
      let out = try pool.output(rows: part.count, columns: columns, gap: gap + 1)
      pool.backend.gatherRows(out, x, indices: try pool.row(indices.rows(part)))
      return pool.read(out)
    }
  }

  private func checkNorms(_ rows: Int, _ columns: Int, _ gap: Int, _ shape: String) {
    let epsilon: Float = 0.25  // large, so that a result without it is far off
    for inPlace in [false, true] {
      let place = inPlace ? ", in place" : ""
      compareRows("rmsNorm \(shape)\(place)", rows: rows, Tolerance.norm) {
        (pool, generator, part) throws(PolarError) in
        var host = generator.matrix(rows, columns, scale: 4, bf16: false)
        if rows > 2 { host.setRow(1, to: 0) }
        let weight = try pool.tensor(generator.matrix(1, columns))
        let x = try pool.tensor(host.rows(part), gap: gap)
        let out = inPlace ? x : try pool.output(rows: part.count, columns: columns, gap: gap + 2)
        pool.backend.rmsNorm(out, x, weight: weight, epsilon: epsilon)
        return pool.read(out)
      }
      compareRows("layerNorm \(shape)\(place)", rows: rows, Tolerance.norm, floor: 1) {
        (pool, generator, part) throws(PolarError) in
        var host = generator.matrix(rows, columns, scale: 4, bf16: false)
        // A mean far from zero, so that a variance without it shows.
        for index in host.values.indices { host.values[index] += 3 }
        if rows > 2 { host.setRow(1, to: 3) }
        let weight = try pool.tensor(generator.matrix(1, columns))
        let bias = try pool.tensor(generator.matrix(1, columns))
        let x = try pool.tensor(host.rows(part), gap: gap)
        let out = inPlace ? x : try pool.output(rows: part.count, columns: columns, gap: gap + 2)
        pool.backend.layerNorm(out, x, weight: weight, bias: bias, epsilon: epsilon)
        return pool.read(out)
      }
    }
    for result in ["out", "residual"] {
      compareRows("addRMSNorm \(shape), \(result)", rows: rows, Tolerance.norm, floor: 1) {
        (pool, generator, part) throws(PolarError) in
        let hosts = (
          generator.matrix(rows, columns, bf16: false), generator.matrix(rows, columns, bf16: false)
        )
        let weight = try pool.tensor(generator.matrix(1, columns))
        let residual = try pool.tensor(hosts.0.rows(part), gap: gap)
        let delta = try pool.tensor(hosts.1.rows(part), gap: gap + 1)
        let out = try pool.output(rows: part.count, columns: columns, gap: gap + 2)
        pool.backend.addRMSNorm(out, residual: residual, delta: delta, weight: weight, epsilon: epsilon)
        return pool.read(result == "out" ? out : residual)
      }
    }
  }

  private func checkHeadNorms() {
    for (rows, heads, headDim, others) in [
      (1, 1, 2, 0), (3, 2, 6, 6), (5, 3, 30, 7), (9, 4, 64, 128), (2, 5, 80, 0),
    ] {
      let shape = "\(rows) x \(heads) heads of \(headDim), then \(others)"
      compareRows("headRMSNorm \(shape)", rows: rows, Tolerance.norm) {
        (pool, generator, part) throws(PolarError) in
        let host = generator.matrix(rows, heads * headDim + others, scale: 4, bf16: false)
        let weight = try pool.tensor(generator.matrix(1, headDim))
        let x = try pool.tensor(host.rows(part), gap: 3)
        pool.backend.headRMSNorm(x, weight: weight, epsilon: 0.25, heads: heads)
        return pool.read(x)
      }
    }
  }

  private func checkElementwise(_ rows: Int, _ columns: Int, _ gap: Int, _ shape: String) {
    compareRows("siluMul \(shape)", rows: rows, Tolerance.activation, floor: 1) {
      (pool, generator, part) throws(PolarError) in
      let host = generator.matrix(rows, 2 * columns, scale: 8, bf16: false)
      let gateUp = try pool.tensor(host.rows(part), gap: gap)
      let out = try pool.output(rows: part.count, columns: columns, gap: gap + 1)
      pool.backend.siluMul(out, gateUp)
      return pool.read(out)
    }
    for threshold: Float in [0, 0.25] {
      compareRows("reluMul \(shape), threshold \(threshold)", rows: rows, Tolerance.exact) {
        (pool, generator, part) throws(PolarError) in
        var host = generator.matrix(rows, 2 * columns, bf16: false)
        // The threshold itself is not above the threshold.
        host[0, 0] = threshold
        let gateUp = try pool.tensor(host.rows(part), gap: gap)
        let out = try pool.output(rows: part.count, columns: columns, gap: gap + 1)
        pool.backend.reluMul(out, gateUp, threshold: threshold)
        return pool.read(out)
      }
    }
    compareRows("relu \(shape)", rows: rows, Tolerance.exact) { (pool, generator, part) throws(PolarError) in
      let x = try pool.tensor(generator.matrix(rows, columns, bf16: false).rows(part), gap: gap)
      pool.backend.relu(x)
      return pool.read(x)
    }
    compareRows("gelu \(shape)", rows: rows, Tolerance.activation, floor: 1) {
      (pool, generator, part) throws(PolarError) in
      let x = try pool.tensor(
        generator.matrix(rows, columns, scale: 8, bf16: false).rows(part), gap: gap)
      pool.backend.gelu(x)
      return pool.read(x)
    }
    compareRows("add \(shape)", rows: rows, Tolerance.exact) { (pool, generator, part) throws(PolarError) in
      let hosts = (generator.matrix(rows, columns, bf16: false), generator.matrix(rows, columns, bf16: false))
      let x = try pool.tensor(hosts.0.rows(part), gap: gap)
      pool.backend.add(x, try pool.tensor(hosts.1.rows(part), gap: gap + 1))
      return pool.read(x)
    }
  }

  /// Arguments where `exp` overflows or vanishes.
  private func checkExtremes() {
    let values: [Float] = [-1e30, -1000, -200, -90, -88, -20, 0, 20, 88, 90, 200, 1000, 1e30]
    // One value per row, since errors are measured against the largest result of a row.
    let column = HostTensor(values, rows: values.count, columns: 1)
    compare("siluMul of extreme values", Tolerance.activation, floor: [1]) {
      (pool, _) throws(PolarError) in
      let ones = HostTensor(values.flatMap { [$0, 1] }, rows: values.count, columns: 2)
      let out = try pool.output(rows: values.count, columns: 1)
      pool.backend.siluMul(out, try pool.tensor(ones))
      return pool.read(out)
    }
    compare("gelu of extreme values", Tolerance.activation, floor: [1]) { (pool, _) throws(PolarError) in
      let x = try pool.tensor(column)
      pool.backend.gelu(x)
      return pool.read(x)
    }
  }

  func checkLinear() {
    let shapes = [
      (1, 2, 1), (2, 6, 5), (3, 30, 31), (5, 64, 32), (6, 576, 33), (7, 2, 100), (8, 6, 33), (13, 30, 100),
      (7, 64, 32), (11, 576, 36), (64, 64, 31), (1, 576, 100), (2, 64, 100), (64, 30, 5), (13, 576, 5),
      (200, 66, 70), (9, 1090, 130),
    ]
    for (index, (rows, inputs, outputs)) in shapes.enumerated() {
      let bias = index % 2 == 1
      let name = "linear rows \(rows), K \(inputs), N \(outputs)" + (bias ? ", bias" : "")
      // A product of two uniform numbers in -1 ..< 1 has the standard deviation 1/3.
      let typical = Float(inputs).squareRoot() / 3
      compareRows(name, rows: rows, Tolerance.linear, floor: typical) {
        (pool, generator, part) throws(PolarError) in
        let weight = try pool.weight(generator.matrix(outputs, inputs))
        let bias = bias ? try pool.tensor(generator.matrix(1, outputs)) : nil
        let x = try pool.tensor(generator.matrix(rows, inputs).rows(part), gap: index % 3)
        let out = try pool.output(rows: part.count, columns: outputs, gap: index % 4)
        pool.backend.linear(out, x, weight: weight, bias: bias)
        return pool.read(out)
      }
    }
    let tolerance = roundsActivations ? Tolerance.linearRounded : Tolerance.linear
    compareRows("linear of full-precision activations", rows: 9, tolerance, floor: 8) {
      (pool, generator, part) throws(PolarError) in
      let weight = try pool.weight(generator.matrix(37, 576))
      let x = try pool.tensor(generator.matrix(9, 576, bf16: false).rows(part))
      let out = try pool.output(rows: part.count, columns: 37)
      pool.backend.linear(out, x, weight: weight, bias: nil)
      return pool.read(out)
    }
  }
}

extension HostTensor<Float> {
  /// Sets every element of a row.
  mutating func setRow(_ row: Int, to value: Float) {
    for column in 0..<columns { self[row, column] = value }
  }
}

extension TensorPool {
  /// A vector (one row) of the elements of a column.
  func row<Element>(_ host: HostTensor<Element>) throws(PolarError) -> Tensor {
    try tensor(HostTensor(host.values))
  }
}
