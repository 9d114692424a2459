import PolarCore

extension ConformanceRun {
  typealias Problem = AttentionProblem

  /// Rotary embedding and the cache layout.
  func checkCache() {
    for (rows, kvHeads, group, headDim) in [
      (1, 1, 1, 2), (3, 1, 3, 6), (5, 2, 1, 48), (8, 3, 3, 64), (13, 1, 4, 128), (70, 8, 2, 16),
    ] {
      let heads = kvHeads * group
      let name = "rotaryStoreKV \(rows) x \(heads)/\(kvHeads) heads of \(headDim)"
      let pages = (rows + 15) / 16 + 2
      let frequencies = HostTensor<Float>((0..<headDim / 2).map { 1 / (1 + Float($0 * $0)) })
      func positions(_ generator: inout SplitMix64) -> [Int32] {
        [0] + (1..<rows).map { _ in Int32.random(in: 0..<1100, using: &generator) }
      }
      compareRows(name, rows: rows, Tolerance.rotary, floor: 1) {
        (pool, generator, part) throws(PolarError) in
        let x = try pool.tensor(generator.matrix(rows, (heads + 2 * kvHeads) * headDim).rows(part), gap: 1)
        let slots = (0..<Int32(pages * 16)).shuffled(using: &generator).prefix(rows)
        pool.backend.rotaryStoreKV(
          try pool.cache(pages: pages, kvHeads: kvHeads, headDim: headDim), x, heads: heads,
          positions: try pool.tensor(HostTensor(Array(positions(&generator)[part]))),
          inverseFrequencies: try pool.tensor(frequencies),
          slots: try pool.tensor(HostTensor(Array(slots[part]))))
        return pool.read(x.columns(0..<heads * headDim))
      }
      // What is stored is what the ops on their own make of it: keys rotate as queries do.
      requireEqual(name + ": cache") { (pool, generator) throws(PolarError) in
        let query = generator.matrix(rows, heads * headDim)
        let key = generator.matrix(rows, kvHeads * headDim)
        let value = generator.matrix(rows, kvHeads * headDim)
        let slots = try pool.tensor(
          HostTensor(Array((0..<Int32(pages * 16)).shuffled(using: &generator).prefix(rows))))
        let positions = try pool.tensor(HostTensor(positions(&generator)))
        let frequencies = try pool.tensor(frequencies)
        func rotated(_ query: HostTensor<Float>, heads: Int, _ kv: KVLayer) throws(PolarError) -> Tensor {
          let x = try pool.tensor(query.stackedColumns(key).stackedColumns(value))
          pool.backend.rotaryStoreKV(
            kv, x, heads: heads, positions: positions, inverseFrequencies: frequencies, slots: slots)
          return x
        }
        let got = try pool.cache(pages: pages, kvHeads: kvHeads, headDim: headDim)
        let want = try pool.cache(pages: pages, kvHeads: kvHeads, headDim: headDim)
        _ = try rotated(query, heads: heads, got)
        let keys = try rotated(key, heads: kvHeads, want).columns(0..<kvHeads * headDim)
        pool.backend.storeKV(want, key: keys, value: try pool.tensor(value), slots: slots)
        return (pool.read(got), pool.read(want))
      }
    }
    for (kvHeads, headDim, rows) in [(1, 2, 1), (3, 6, 17), (2, 64, 33), (8, 16, 5)] {
      compare("storeKV \(kvHeads) heads of \(headDim), \(rows) rows", Tolerance.exact) {
        (pool, generator) throws(PolarError) in
        let pages = (rows + 15) / 16 + 2
        let kv = try pool.cache(pages: pages, kvHeads: kvHeads, headDim: headDim)
        let slots = (0..<Int32(pages * 16)).shuffled(using: &generator).prefix(rows)
        pool.backend.storeKV(
          kv, key: try pool.tensor(generator.matrix(rows, kvHeads * headDim), gap: 1),
          value: try pool.tensor(generator.matrix(rows, kvHeads * headDim), gap: 2),
          slots: try pool.tensor(HostTensor(Array(slots))))
        return pool.read(kv)
      }
    }
    checkRounding()
  }

  /// K and V that the cache's element type cannot represent are rounded to the nearest number that it can.
  private func checkRounding() {
    guard backend.kvDType != .i8 else {
      checkQuantisation()
      return
    }
    require("storeKV: rounding") { (pool, generator) throws(PolarError) in
      let key = generator.matrix(1, 48, bf16: false)
      let value = generator.matrix(1, 48, bf16: false)
      let kv = try pool.cache(pages: 1, kvHeads: 1, headDim: 48)
      pool.backend.storeKV(
        kv, key: try pool.tensor(key), value: try pool.tensor(value),
        slots: try pool.tensor(HostTensor<Int32>([5])))
      let stored = pool.read(kv)
      for d in 0..<48 {
        for (got, want) in [
          (stored[0, kv.keyIndex(d, 5)], key[0, d]), (stored[0, kv.valueIndex(d, 5)], value[0, d]),
        ] where !((got - want).magnitude <= Tolerance.storedRounding * want.magnitude) {
          return "\(want) is stored as \(got)"
        }
      }
      return nil
    }
  }

  /// What attention to one token gives is its V as it is stored.
  private func checkQuantisation() {
    require("storeKV: rounding") { (pool, generator) throws(PolarError) in
      var problem = Problem(.init(kvHeads: 1, group: 1, headDim: 48, sequences: [0..<1]), &generator)
      problem.value = generator.matrix(1, 48, scale: 3, bf16: false)
      let largest = problem.value.values.reduce(0) { max($0, $1.magnitude) }
      let stored = try problem.evaluate(.decode, in: pool)
      for (got, want) in zip(stored.values, problem.value.values)
      where !((got - want).magnitude <= (Tolerance.storedInt8 + self.attentionTolerance) * largest) {
        return "\(want) is stored as \(got)"
      }
      return nil
    }
    for (text, value) in [("zero", Float(0)), ("tiny", 0x1p-120), ("huge", 0x1p120)] {
      compare("storeKV: \(text) vectors", Tolerance.exact) { (pool, generator) throws(PolarError) in
        let kv = try pool.cache(pages: 1, kvHeads: 1, headDim: 6)
        let rows = HostTensor<Float>([value, -value, value / 2, 0, value / 3, value], rows: 1)
        pool.backend.storeKV(
          kv, key: try pool.tensor(rows), value: try pool.tensor(rows),
          slots: try pool.tensor(HostTensor<Int32>([5])))
        return pool.read(kv)
      }
    }
  }

  func checkAttention() {
    checkDecode()
    checkPrefill()
    checkSoftmax()
    checkEveryKey()
  }

  private func checkDecode() {
    /// One decode row per context length.
    func shape(_ kvHeads: Int, _ group: Int, _ headDim: Int, _ contexts: [Int]) -> Problem.Shape {
      .init(kvHeads: kvHeads, group: group, headDim: headDim, sequences: contexts.map { $0 - 1..<$0 })
    }
    let shapes = [
      shape(1, 1, 2, [1]), shape(1, 2, 6, [2, 15, 16]), shape(2, 3, 16, [17, 1, 31, 33, 2]),
      shape(3, 1, 32, [100, 16]), shape(3, 3, 64, [33, 500, 1, 100]), shape(2, 4, 48, [31, 100]),
      shape(8, 1, 32, [15, 64, 17, 3, 1, 100, 48, 16]), shape(1, 8, 80, [513, 2]),
      shape(2, 7, 64, [100, 65]), shape(1, 4, 128, [1100, 1]), shape(8, 2, 6, [47, 49]),
    ]
    for shape in shapes {
      let name = "decode attention \(shape.text)"
      checkAgainstReference(name, shape, .decode)
      requireEqual(name + ": rows alone") { (pool, generator) throws(PolarError) in
        let problem = Problem(shape, &generator)
        let kv = try problem.cache(in: pool)
        var alone: HostTensor<Float>?
        for (index, positions) in shape.sequences.enumerated() {
          let row = try problem.evaluate(.decode, part: [(index, positions)], kv: kv, in: pool)
          alone = alone.map { $0.stacked(on: row) } ?? row
        }
        return (alone ?? problem.query, try problem.evaluate(.decode, kv: kv, in: pool))
      }
      requireAgreement(name + ": equals prefill", floors: Problem.floors(of: shape)) {
        (pool, generator) throws(PolarError) in
        let problem = Problem(shape, &generator)
        let kv = try problem.cache(in: pool)
        return (
          try problem.evaluate(.decode, kv: kv, in: pool),
          try problem.evaluate(.prefill(.full), kv: kv, in: pool)
        )
      }
    }
  }

  private func checkPrefill() {
    let shapes: [Problem.Shape] = [
      .init(kvHeads: 1, group: 1, headDim: 2, sequences: [0..<1]),
      .init(kvHeads: 2, group: 2, headDim: 16, sequences: [0..<33, 0..<1, 0..<17]),
      .init(kvHeads: 1, group: 3, headDim: 64, sequences: [90..<100, 0..<31, 15..<16]),
      .init(kvHeads: 3, group: 1, headDim: 6, sequences: [16..<64, 100..<113]),
      .init(kvHeads: 1, group: 1, headDim: 80, sequences: [500..<513]),
      .init(kvHeads: 1, group: 8, headDim: 32, sequences: [1..<8]),
      .init(kvHeads: 1, group: 1, headDim: 16, sequences: [0..<150]),
    ]
    let spans: [(AttentionSpan, String)] = [
      (.full, "full"), (.local(sinkPages: 1, recentPages: 2), "local 1+2"),
      (.local(sinkPages: 0, recentPages: 1), "local 0+1"),
      (.local(sinkPages: 3, recentPages: 4), "local 3+4"),
    ]
    for shape in shapes {
      for (span, text) in spans {
        let name = "prefill attention \(text), \(shape.text)"
        checkAgainstReference(name, shape, .prefill(span))
        // Each sequence cut in two: neither the other sequences nor the chunk that a row comes in may matter.
        requireEqual(name + ": in chunks") { (pool, generator) throws(PolarError) in
          let problem = Problem(shape, &generator)
          let kv = try problem.cache(in: pool)
          let whole = try problem.evaluate(.prefill(span), kv: kv, in: pool)
          var chunks: HostTensor<Float>?
          for (index, positions) in shape.sequences.enumerated() {
            let cut = positions.lowerBound + positions.count / 3
            for chunk in [positions.lowerBound..<cut, cut..<positions.upperBound] where !chunk.isEmpty {
              let part = try problem.evaluate(.prefill(span), part: [(index, chunk)], kv: kv, in: pool)
              chunks = chunks.map { $0.stacked(on: part) } ?? part
            }
          }
          return (chunks ?? whole, whole)
        }
      }
      requireAgreement(
        "prefill attention, \(shape.text): decode of its rows",
        floors: Problem.floors(of: shape)
      ) {
        (pool, generator) throws(PolarError) in
        let problem = Problem(shape, &generator)
        let kv = try problem.cache(in: pool)
        let whole = try problem.evaluate(.prefill(.full), kv: kv, in: pool)
        var rows: [Int] = []
        var decoded: HostTensor<Float>?
        for (index, positions) in shape.sequences.enumerated() {
          for position in Set([positions.lowerBound, positions.lowerBound + positions.count / 2]).sorted() {
            rows.append(problem.queryRow(sequence: index, position: position))
            let row = try problem.evaluate(
              .decode, part: [(index, position..<position + 1)], kv: kv, in: pool)
            decoded = decoded.map { $0.stacked(on: row) } ?? row
          }
        }
        return (decoded ?? whole, whole.rows(rows))
      }
      requireEqual("prefill attention, \(shape.text): a local span that covers all is full") {
        (pool, generator) throws(PolarError) in
        let problem = Problem(shape, &generator)
        let kv = try problem.cache(in: pool)
        let span = AttentionSpan.local(sinkPages: 20, recentPages: 20)
        return (
          try problem.evaluate(.prefill(span), kv: kv, in: pool),
          try problem.evaluate(.prefill(.full), kv: kv, in: pool)
        )
      }
    }
  }

  /// Queries that bf16 cannot represent, and scores so large that `exp` overflows unless the largest is subtracted first.
  private func checkSoftmax() {
    let shape = Problem.Shape(kvHeads: 1, group: 2, headDim: 16, sequences: [99..<100])
    compare("decode attention, full-precision queries", attentionTolerance, floor: Problem.floors(of: shape))
    {
      (pool, generator) throws(PolarError) in
      var problem = Problem(shape, &generator)
      problem.query = generator.matrix(1, 32, scale: 4, bf16: false)
      return try problem.evaluate(.decode, in: pool)
    }
    for (text, common, marked) in [
      ("one dominant key", Float(0), Float(512)), ("very negative scores", -512, -512),
    ] {
      compare("decode attention, \(text)", attentionTolerance, floor: [1]) {
        (pool, generator) throws(PolarError) in
        var problem = Problem(shape, &generator)
        for index in problem.query.values.indices { problem.query.values[index] = index % 16 == 0 ? 8 : 0 }
        for token in 0..<100 { problem.key[token, 0] = token == 37 ? marked : common }
        return try problem.evaluate(.decode, in: pool)
      }
    }
  }

  /// Every key gets its weight: with a zero query all weights are 1 / n, and V is n at one position and 0 elsewhere.
  private func checkEveryKey() {
    // A scale is up to 2^-7 too large for its only element, which then is as much too large with the code 127.
    let tolerance = attentionTolerance + (backend.kvDType == .i8 ? 0x1p-7 : 0)
    for context in [1, 2, 15, 16, 17, 31, 33, 100, 500, 513] {
      let shape = Problem.Shape(kvHeads: 2, group: 1, headDim: 6, sequences: [context - 1..<context])
      require("attention: every one of \(context) keys counts") { (pool, generator) throws(PolarError) in
        var problem = Problem(shape, &generator)
        for index in problem.query.values.indices { problem.query.values[index] = 0 }
        let edges = [
          0, 1, 15, 16, 17, 31, 32, context / 2, context - 17, context - 16, context - 2, context - 1,
        ]
        for position in Set(edges).sorted() where (0..<context).contains(position) {
          for index in problem.value.values.indices { problem.value.values[index] = 0 }
          for column in 0..<12 { problem.value[position, column] = Float(context).roundedToBF16 }
          let kv = try problem.cache(in: pool)
          let want = Float(context).roundedToBF16 / Float(context)
          for operation in [Problem.Operation.decode, .prefill(.full)] {
            let got = try problem.evaluate(operation, kv: kv, in: pool)
            for value in got.values where !((value - want).magnitude <= tolerance) {
              return "the key at \(position) gives \(value), not \(want)"
            }
          }
        }
        return nil
      }
    }
  }

  func checkAgainstReference(_ name: String, _ shape: Problem.Shape, _ operation: Problem.Operation) {
    compare(name, attentionTolerance, floor: Problem.floors(of: shape)) {
      (pool, generator) throws(PolarError) in
      try Problem(shape, &generator).evaluate(operation, in: pool)
    }
  }
}
