import PolarCore

extension ConformanceRun {
  func checkSelectiveAttention() {
    func shape(_ kvHeads: Int, _ group: Int, _ headDim: Int, _ contexts: [Int]) -> Problem.Shape {
      .init(kvHeads: kvHeads, group: group, headDim: headDim, sequences: contexts.map { $0 - 1..<$0 })
    }
    let shapes = [
      shape(1, 1, 2, [1, 40]), shape(8, 1, 16, [17, 100, 33]), shape(3, 3, 64, [100, 2, 161, 64]),
      shape(2, 7, 32, [81, 16]), shape(1, 8, 48, [150]), shape(2, 4, 80, [31, 113, 1]),
      shape(3, 2, 128, [15, 65]), shape(1, 3, 6, [513, 97]),
    ]
    for shape in shapes {
      for fallback in fallbacks(shape) {
        let name = "selective attention, \(fallback.text), \(shape.text)"
        checkRaggedMask(name, shape, fallback)
        requireEqual(name + ": all heads is dense") { (pool, generator) throws(PolarError) in
          let problem = Problem(shape, &generator)
          let kv = try problem.cache(in: pool)
          let all = HostTensor<UInt8>(repeating: 1, rows: shape.sequences.count, columns: shape.heads)
          return (
            try problem.evaluate(.selective(all, fallback), kv: kv, in: pool),
            try problem.evaluate(.decode, kv: kv, in: pool)
          )
        }
      }
      requireEqual("selective attention, \(shape.text): a computed fallback is the one it was computed by") {
        (pool, generator) throws(PolarError) in
        let problem = Problem(shape, &generator)
        let kv = try problem.cache(in: pool)
        var mask = HostTensor<UInt8>(repeating: 0, rows: shape.sequences.count, columns: shape.heads)
        let local = Problem.Fallback.local(sinkPages: 1, recentPages: 2)
        let values = try problem.evaluate(.selective(mask, local), kv: kv, in: pool)
        for row in 0..<mask.rows {
          for head in 0..<shape.heads { mask[row, head] = UInt8.random(in: 0...1, using: &generator) }
        }
        return (
          try problem.evaluate(.selective(mask, .computed(values)), kv: kv, in: pool),
          try problem.evaluate(.selective(mask, local), kv: kv, in: pool)
        )
      }
      requireEqual("selective attention, \(shape.text): a local fallback that covers all is dense") {
        (pool, generator) throws(PolarError) in
        let problem = Problem(shape, &generator)
        let kv = try problem.cache(in: pool)
        let none = HostTensor<UInt8>(repeating: 0, rows: shape.sequences.count, columns: shape.heads)
        let fallback = Problem.Fallback.local(sinkPages: 40, recentPages: 40)
        return (
          try problem.evaluate(.selective(none, fallback), kv: kv, in: pool),
          try problem.evaluate(.decode, kv: kv, in: pool)
        )
      }
    }
    checkUnreadPages()
  }

  private func fallbacks(_ shape: Problem.Shape) -> [Problem.Fallback] {
    var generator = SplitMix64(seed: 7)
    return [
      .zero, .constant(generator.matrix(shape.heads, shape.headDim)), .local(sinkPages: 1, recentPages: 2),
      .local(sinkPages: 0, recentPages: 1), .local(sinkPages: 2, recentPages: 3),
    ]
  }

  /// Random heads, with a row that has none, and rows whose counts differ.
  func checkRaggedMask(_ name: String, _ shape: Problem.Shape, _ fallback: Problem.Fallback) {
    func mask(_ generator: inout SplitMix64) -> HostTensor<UInt8> {
      var mask = HostTensor<UInt8>(repeating: 0, rows: shape.sequences.count, columns: shape.heads)
      for row in 1..<max(1, mask.rows) {
        for head in 0..<shape.heads { mask[row, head] = UInt8.random(in: 0...1, using: &generator) }
      }
      // The first row has none, unless it is the only one.
      if mask.rows == 1 { mask[0, shape.heads / 2] = 1 }
      return mask
    }
    compare(name, attentionTolerance, floor: Problem.floors(of: shape)) {
      (pool, generator) throws(PolarError) in
      let problem = Problem(shape, &generator)
      return try problem.evaluate(.selective(mask(&generator), fallback), in: pool)
    }
    requireEqual(name + ": rows alone") { (pool, generator) throws(PolarError) in
      let problem = Problem(shape, &generator)
      let operation = Problem.Operation.selective(mask(&generator), fallback)
      let kv = try problem.cache(in: pool)
      var alone: HostTensor<Float>?
      for (index, positions) in shape.sequences.enumerated() {
        let row = try problem.evaluate(operation, part: [(index, positions)], kv: kv, in: pool)
        alone = alone.map { $0.stacked(on: row) } ?? row
      }
      return (alone ?? problem.query, try problem.evaluate(operation, kv: kv, in: pool))
    }
  }

  /// What a selective step need not read it must not use: K and V there are NaN.
  private func checkUnreadPages() {
    let shape = Problem.Shape(kvHeads: 3, group: 2, headDim: 16, sequences: [99..<100, 39..<40])
    compare("selective attention, zero: groups that are not selected are not read", attentionTolerance) {
      (pool, generator) throws(PolarError) in
      var problem = Problem(shape, &generator)
      problem.poison { _, kvHead in kvHead == 1 }
      let mask = HostTensor<UInt8>([1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0], rows: 2)
      return try problem.evaluate(.selective(mask, .zero), in: pool)
    }
    compare("selective attention, local: pages outside of the local set are not read", attentionTolerance) {
      (pool, generator) throws(PolarError) in
      var problem = Problem(shape, &generator)
      // Sequence 0 (positions 0 ..< 100, the last in page 6): its local pages are 0, 5 and 6.
      problem.poison { row, kvHead in kvHead == 1 && (16..<80).contains(row) }
      let mask = HostTensor<UInt8>([1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 1, 0], rows: 2)
      return try problem.evaluate(.selective(mask, .local(sinkPages: 1, recentPages: 2)), in: pool)
    }
    compare("prefill attention, local: pages outside of the local set are not read", attentionTolerance) {
      (pool, generator) throws(PolarError) in
      var problem = Problem(shape, &generator)
      problem.poison { row, _ in (16..<80).contains(row) }
      return try problem.evaluate(.prefill(.local(sinkPages: 1, recentPages: 2)), in: pool)
    }
  }
}

extension AttentionProblem {
  /// The least magnitude that errors of each row are measured against: a mean of n uniform numbers in -1 ..< 1 has the
  /// standard deviation `sqrt(1 / 3 / n)`.
  static func floors(of shape: Shape) -> [Float] {
    shape.sequences.flatMap {
      $0.map { (1 / 3 / Float(min($0 + 1, shape.window ?? .max))).squareRoot() }
    }
  }

  /// Makes K and V NaN where `unread` says so, by row of `key` and KV head.
  mutating func poison(_ unread: (Int, Int) -> Bool) {
    for row in 0..<key.rows {
      for column in 0..<key.columns where unread(row, column / shape.headDim) {
        key[row, column] = .nan
        value[row, column] = .nan
      }
    }
  }
}
