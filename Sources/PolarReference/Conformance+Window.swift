import PolarCore

extension ConformanceRun {
  /// Sliding windows: what a query attends to with ``PolarCore/KVLayer/window``, in every attention op.
  func checkWindow() {
    func decode(
      _ kvHeads: Int, _ group: Int, _ headDim: Int, _ contexts: [Int], window: Int
    ) -> Problem.Shape {
      .init(
        kvHeads: kvHeads, group: group, headDim: headDim, sequences: contexts.map { $0 - 1..<$0 },
        window: window)
    }
    for shape in [
      decode(2, 3, 16, [100, 17, 1, 33], window: 20), decode(1, 2, 64, [1100, 530, 90], window: 80),
      decode(3, 1, 32, [65, 40], window: 1), decode(1, 4, 6, [48, 47], window: 16),
      decode(2, 2, 48, [700, 300], window: 513), decode(1, 1, 80, [31], window: 4096),
    ] {
      checkDecode(shape)
    }
    for shape in [
      Problem.Shape(kvHeads: 2, group: 2, headDim: 16, sequences: [0..<70, 0..<1, 20..<45], window: 21),
      .init(kvHeads: 1, group: 3, headDim: 64, sequences: [500..<530, 90..<100], window: 37),
      .init(kvHeads: 1, group: 1, headDim: 6, sequences: [0..<50], window: 16),
      .init(kvHeads: 1, group: 2, headDim: 32, sequences: [0..<20, 5..<40], window: 100),
    ] {
      checkPrefill(shape)
    }
    checkPagesBeforeWindow()
  }

  private func checkDecode(_ shape: Problem.Shape) {
    let name = "window, decode attention \(shape.text)"
    checkAgainstReference(name, shape, .decode)
    requireAgreement(name + ": equals prefill", floors: Problem.floors(of: shape)) {
      (pool, generator) throws(PolarError) in
      let problem = Problem(shape, &generator)
      let kv = try problem.cache(in: pool)
      return (
        try problem.evaluate(.decode, kv: kv, in: pool),
        try problem.evaluate(.prefill(.full), kv: kv, in: pool)
      )
    }
    let fallbacks: [Problem.Fallback] = [
      .zero, .local(sinkPages: 1, recentPages: 2), .local(sinkPages: 2, recentPages: 0),
      .local(sinkPages: 0, recentPages: 5),
    ]
    for fallback in fallbacks {
      let name = "window, selective attention, \(fallback.text), \(shape.text)"
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
  }

  private func checkPrefill(_ shape: Problem.Shape) {
    for (span, text) in [
      (AttentionSpan.full, "full"), (.local(sinkPages: 1, recentPages: 1), "local 1+1"),
      (.local(sinkPages: 0, recentPages: 2), "local 0+2"),
    ] {
      let name = "window, prefill attention \(text), \(shape.text)"
      checkAgainstReference(name, shape, .prefill(span))
      requireEqual(name + ": rows alone") { (pool, generator) throws(PolarError) in
        let problem = Problem(shape, &generator)
        let kv = try problem.cache(in: pool)
        let whole = try problem.evaluate(.prefill(span), kv: kv, in: pool)
        var alone: HostTensor<Float>?
        for (index, positions) in shape.sequences.enumerated() {
          for position in positions {
            let row = try problem.evaluate(
              .prefill(span), part: [(index, position..<position + 1)], kv: kv, in: pool)
            alone = alone.map { $0.stacked(on: row) } ?? row
          }
        }
        return (alone ?? whole, whole)
      }
    }
  }

  /// Pages wholly before the window may have been given away: K and V there are NaN.
  private func checkPagesBeforeWindow() {
    // Sequence 0 sees positions 70 ..< 100 (pages from 64 on), sequence 1 positions 9 ..< 39.
    let shape = Problem.Shape(
      kvHeads: 2, group: 2, headDim: 16, sequences: [99..<100, 38..<39], window: 30)
    let mask = HostTensor<UInt8>([1, 0, 0, 0, 0, 1, 1, 0], rows: 2)
    let operations: [(Problem.Operation, String)] = [
      (.decode, "decode"), (.prefill(.full), "prefill"),
      (.prefill(.local(sinkPages: 2, recentPages: 2)), "prefill, local"),
      (.selective(mask, .local(sinkPages: 2, recentPages: 2)), "selective, local"),
      (.selective(mask, .local(sinkPages: 1, recentPages: 9)), "selective, local covers all"),
    ]
    for (operation, text) in operations {
      compare("window: pages before it are not read, \(text)", attentionTolerance) {
        (pool, generator) throws(PolarError) in
        var problem = Problem(shape, &generator)
        problem.poison { row, _ in row < 64 }
        return try problem.evaluate(operation, in: pool)
      }
    }
  }
}
