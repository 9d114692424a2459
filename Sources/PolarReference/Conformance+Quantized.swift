import PolarCore

extension ConformanceRun {
  /// Weights of 8 and 4 bits, in every format that the backend has.
  func checkQuantized() {
    for format in WeightFormat.allCases
    where format.blockByteCount != nil && backend.weightFormats.contains(format) {
      checkPacking(format)
      checkQuantizedEmbedding(format)
      checkQuantizedLinear(format)
    }
  }

  private func checkPacking(_ format: WeightFormat) {
    for (outputs, inputs, chunk) in [(1, 2, 1), (5, 6, 2), (33, 30, 5), (100, 64, 33), (31, 580, 31)] {
      compare("\(format) pack \(outputs) x \(inputs), \(chunk) rows at a time", Tolerance.exact) {
        (pool, generator) throws(PolarError) in
        var host = generator.matrix(outputs, inputs, bf16: false)
        // Rows of very different size, and one of zeros.
        for row in 0..<outputs {
          let size = Float(sign: .plus, exponent: -2 * (row % 10), significand: 1)
          for column in 0..<inputs { host[row, column] *= row == 4 ? 0 : size }
        }
        return pool.read(try pool.weight(host, format: format, rowsPerCall: chunk))
      }
    }
    for (outputs, inputs, chunk) in [(1, 32, 1), (37, 96, 5), (64, 544, 64)] {
      compare("\(format) blocks \(outputs) x \(inputs), \(chunk) rows at a time", Tolerance.exact) {
        (pool, generator) throws(PolarError) in
        let blocks = generator.blocks(outputs * inputs / WeightFormat.groupSize, format)
        return pool.read(
          try pool.weight(
            blocks: blocks, outputs: outputs, inputs: inputs, format: format, rowsPerCall: chunk))
      }
    }
  }

  private func checkQuantizedEmbedding(_ format: WeightFormat) {
    for (rows, columns) in [(1, 2), (7, 96), (40, 580)] {
      compareRows("\(format) embed \(rows) x \(columns)", rows: rows, Tolerance.exact) {
        (pool, generator, part) throws(PolarError) in
        let table = try pool.weight(generator.matrix(45, columns), format: format)
        let tokens = HostTensor(
          (0..<rows).map { _ in Int32.random(in: 0..<45, using: &generator) }, rows: rows)
        let out = try pool.output(rows: part.count, columns: columns, gap: 3)
        pool.backend.embed(out, tokens: try pool.row(tokens.rows(part)), table: table)
        return pool.read(out)
      }
    }
  }

  private func checkQuantizedLinear(_ format: WeightFormat) {
    let shapes = [
      (1, 2, 1), (3, 30, 31), (5, 64, 32), (6, 576, 33), (8, 6, 33), (13, 100, 100), (64, 64, 31),
      (2, 64, 100), (100, 66, 70), (9, 1090, 130),
    ]
    for (index, (rows, inputs, outputs)) in shapes.enumerated() {
      let bias = index % 2 == 1
      let name = "\(format) linear rows \(rows), K \(inputs), N \(outputs)" + (bias ? ", bias" : "")
      let typical = Float(inputs).squareRoot() / 3
      compareRows(name, rows: rows, Tolerance.linearQuantized, floor: typical) {
        (pool, generator, part) throws(PolarError) in
        let weight = try pool.weight(generator.matrix(outputs, inputs), format: format)
        let bias = bias ? try pool.tensor(generator.matrix(1, outputs)) : nil
        var host = generator.matrix(rows, inputs, bf16: false)
        if rows > 4 { host.setRow(3, to: 0) }
        // In every other row groups of very different size, some groups of zeros, and a super-block of them.
        let superblock = WeightFormat.superblockSize
        for row in stride(from: 0, to: rows, by: 2) {
          for column in 0..<inputs {
            let step = column / WeightFormat.groupSize % 7
            let isZero = step == 5 || column / superblock == 1
            host[row, column] *= isZero ? 0 : Float(sign: .plus, exponent: -2 * step, significand: 1)
          }
        }
        let x = try pool.tensor(host.rows(part), gap: index % 3)
        let out = try pool.output(rows: part.count, columns: outputs, gap: index % 4)
        pool.backend.linear(out, x, weight: weight, bias: bias)
        return pool.read(out)
      }
    }
    require("\(format) linear of NaN and infinity") { (pool, generator) throws(PolarError) in
      let weight = try pool.weight(generator.matrix(5, 64), format: format)
      for value in [Float.nan, .infinity, -.infinity] {
        var host = generator.matrix(1, 64)
        host[0, 40] = value
        let out = try pool.output(columns: 5)
        pool.backend.linear(out, try pool.tensor(host), weight: weight, bias: nil)
        if pool.read(out).values.contains(where: \.isFinite) { return "\(value) does not show" }
      }
      return nil
    }
  }
}

extension SplitMix64 {
  /// `count` of ggml's blocks with random codes, scales up to 1/64 and minimums up to 1/4 in magnitude.
  mutating func blocks(_ count: Int, _ format: WeightFormat) -> [UInt8] {
    var bytes: [UInt8] = []
    func append(_ half: Float16) { withUnsafeBytes(of: half.bitPattern.littleEndian) { bytes += $0 } }
    for _ in 0..<count {
      append(Float16(symmetric() / 64))
      if format == .int4Affine { append(Float16(symmetric() / 4)) }
      for _ in 0..<(format == .int8 ? 32 : 16) { bytes.append(UInt8(truncatingIfNeeded: next())) }
    }
    return bytes
  }
}
