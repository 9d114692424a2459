import PolarCore
import PolarReference
import Testing

/// Values worked out by hand, so that the reference does not only agree with itself.
@Suite struct HandComputedTests {
  let pool = TensorPool(ReferenceBackend())
  var backend: any Backend { pool.backend }

  private func expect(
    _ got: HostTensor<Float>, _ want: [Float], within tolerance: Float = 1e-6,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    #expect(got.values.count == want.count, sourceLocation: sourceLocation)
    for (got, want) in zip(got.values, want) {
      #expect((got - want).magnitude <= tolerance, "\(got), not \(want)", sourceLocation: sourceLocation)
    }
  }

  private func row(_ values: Float...) throws -> Tensor { try pool.tensor(HostTensor(values)) }
  private func indices(_ values: Int32...) throws -> Tensor { try pool.tensor(HostTensor(values)) }

  @Test func embedAndGather() throws {
    let table = HostTensor<Float>([1, 2, 3, 4, 5, 6], rows: 3)
    let out = try pool.output(rows: 2, columns: 2)
    backend.embed(out, tokens: try indices(2, 0), table: try pool.weight(table))
    expect(pool.read(out), [5, 6, 1, 2])
    backend.gatherRows(out, try pool.tensor(table, gap: 1), indices: try indices(1, 1))
    expect(pool.read(out), [3, 4, 3, 4])
  }

  @Test func norms() throws {
    // mean(x^2) of (3, 4) is 12.5; with epsilon 3.5 the root is 4.
    let x = try row(3, 4)
    let out = try pool.output(columns: 2)
    backend.rmsNorm(out, x, weight: try row(2, -1), epsilon: 3.5)
    expect(pool.read(out), [1.5, -1])
    // (1, 2) + (2, 2) = (3, 4).
    let residual = try row(1, 2)
    backend.addRMSNorm(out, residual: residual, delta: try row(2, 2), weight: try row(2, -1), epsilon: 3.5)
    expect(pool.read(out), [1.5, -1])
    expect(pool.read(residual), [3, 4])
    // Mean 4, population variance 4; with epsilon 5 the root is 3.
    let four = try pool.output(columns: 4)
    backend.layerNorm(
      four, try row(2, 6, 2, 6), weight: try row(3, 3, 6, 6), bias: try row(0, 1, 0, 1), epsilon: 5)
    expect(pool.read(four), [-2, 3, -4, 5])
  }

  @Test func linear() throws {
    let weight = try pool.weight(HostTensor([1, 2, 3, 4, -1, 0], rows: 3))
    let x = try pool.tensor(HostTensor<Float>([1, 1, 2, -1], rows: 2))
    let out = try pool.output(rows: 2, columns: 3)
    backend.linear(out, x, weight: weight, bias: nil)
    expect(pool.read(out), [3, 7, -1, 0, 2, -2])
    backend.linear(out, x, weight: weight, bias: try row(10, 20, 30))
    expect(pool.read(out), [13, 27, 29, 10, 22, 28])
  }

  @Test func activations() throws {
    let out = try pool.output(columns: 2)
    // silu(1) = 1 / (1 + e^-1).
    backend.siluMul(out, try row(1, 0, 2, 5))
    expect(pool.read(out), [1.462_117_2, 0])
    backend.reluMul(out, try row(1, -3, 2, 5), threshold: 0)
    expect(pool.read(out), [2, 0])
    backend.reluMul(out, try row(1, 1.5, 2, 5), threshold: 1)
    expect(pool.read(out), [0, 7.5])
    let x = try row(-1, 0, 2)
    backend.relu(x)
    expect(pool.read(x), [0, 0, 2])
    // x * Phi(x), Phi the normal distribution function: Phi(1) = 0.841345.
    let y = try row(-1, 0, 1)
    backend.gelu(y)
    expect(pool.read(y), [-0.158_655_25, 0, 0.841_344_75])
    backend.add(x, y)
    expect(pool.read(x), [-0.158_655_25, 0, 2.841_344_75])
  }

  @Test func rotary() throws {
    // One head of 4 at position 2: the pair (0, 2) turns by 2 * pi/4 = pi/2, the pair (1, 3) by 2 * pi/2 = pi.
    let x = try row(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
    let kv = try pool.cache(pages: 1, kvHeads: 1, headDim: 4)
    backend.rotaryStoreKV(
      kv, x, heads: 1, positions: try indices(2), inverseFrequencies: try row(.pi / 4, .pi / 2),
      slots: try indices(3))
    expect(pool.read(x.columns(0..<4)), [-3, -2, 1, -4])
    let cache = pool.read(kv)
    // As in cacheLayout.
    expect(HostTensor([6, 7, 38, 39].map { cache[0, $0] }), [-7, -6, 5, -8], within: 1e-5)
    expect(HostTensor([73, 75, 77, 79].map { cache[0, $0] }), [9, 10, 11, 12])
  }

  /// One KV head of 2, keys (1, 0) and (0, 1), values (10, 0) and (0, 20), in page 1 of 2.
  private func twoTokens() throws -> (KVLayer, ForwardBatch) {
    let kv = try pool.cache(pages: 2, kvHeads: 1, headDim: 2)
    let key = try pool.tensor(HostTensor<Float>([1, 0, 0, 1], rows: 2))
    let value = try pool.tensor(HostTensor<Float>([10, 0, 0, 20], rows: 2))
    backend.storeKV(kv, key: key, value: value, slots: try indices(16, 17))
    return (kv, try pool.batch(BatchLayout([.init(positions: 1..<2, pages: [1])])))
  }

  @Test func twoTokenAttention() throws {
    let (kv, batch) = try twoTokens()
    // Two query heads share the KV head. Scores (ln 3, 0) weigh 3/4 and 1/4; a zero query weighs 1/2 and 1/2.
    let query = try row(2 * 1.098_612_3, 0, 0, 0)
    let out = try pool.output(columns: 4)
    backend.decodeAttention(out, query: query, kv: kv, batch: batch, scale: 0.5, heads: nil)
    expect(pool.read(out), [7.5, 5, 5, 10], within: 1e-5)
    backend.prefillAttention(out, query: query, kv: kv, batch: batch, scale: 0.5, span: .full)
    expect(pool.read(out), [7.5, 5, 5, 10], within: 1e-5)
  }

  @Test func prefillIsCausal() throws {
    let (kv, _) = try twoTokens()
    let batch = try pool.batch(BatchLayout([.init(positions: 0..<2, pages: [1])]))
    let out = try pool.output(rows: 2, columns: 2)
    let query = try pool.tensor(HostTensor<Float>(repeating: 0, rows: 2, columns: 2))
    backend.prefillAttention(out, query: query, kv: kv, batch: batch, scale: 1, span: .full)
    expect(pool.read(out), [10, 0, 5, 10])
  }

  @Test func unselectedHeads() throws {
    let (kv, batch) = try twoTokens()
    let query = try row(0, 0, 0, 0)
    let out = try pool.output(columns: 4)
    let mask = try pool.tensor(HostTensor<UInt8>([0, 1]))
    let constant = try pool.tensor(HostTensor<Float>([1, 2, 3, 4], rows: 2))
    let wanted: [(HeadFallback, [Float])] = [
      (.zero, [0, 0, 5, 10]), (.constant(constant), [1, 2, 5, 10]),
      (.local(sinkPages: 1, recentPages: 1), [5, 10, 5, 10]),
    ]
    for (fallback, want) in wanted {
      let heads = ActiveHeads(mask: mask, fallback: fallback)
      backend.decodeAttention(out, query: query, kv: kv, batch: batch, scale: 1, heads: heads)
      expect(pool.read(out), want)
    }
  }

  /// With a zero query the result is the mean of V over the keys used; V is the position.
  @Test(
    arguments: [
      (position: 15, sink: 1, recent: 1, mean: 7.5),  // 0...15
      (position: 16, sink: 1, recent: 1, mean: 8),  // 0...16
      (position: 32, sink: 0, recent: 1, mean: 32),  // 32
      (position: 32, sink: 0, recent: 2, mean: 24),  // 16...32
      (position: 33, sink: 1, recent: 1, mean: 185 / 18),  // 0...15, 32, 33
      (position: 70, sink: 2, recent: 2, mean: 1853 / 55),  // 0...31, 48...70
      (position: 70, sink: 9, recent: 1, mean: 35),  // 0...70
    ] as [(position: Int, sink: Int, recent: Int, mean: Float)])
  func localSpan(position: Int, sink: Int, recent: Int, mean: Float) throws {
    let layout = BatchLayout([.init(positions: 0..<position + 1, pages: [4, 0, 3, 1, 2])])
    let kv = try pool.cache(pages: 5, kvHeads: 1, headDim: 2)
    let values = HostTensor((0...position).flatMap { [Float($0), 0] }, rows: position + 1)
    let positions = try pool.tensor(values)
    backend.storeKV(kv, key: positions, value: positions, slots: try pool.tensor(HostTensor(layout.slots)))
    let last = BatchLayout([.init(positions: position..<position + 1, pages: layout.sequences[0].pages)])
    let batch = try pool.batch(last)
    let out = try pool.output(columns: 2)
    backend.prefillAttention(
      out, query: try row(0, 0), kv: kv, batch: batch, scale: 1,
      span: .local(sinkPages: sink, recentPages: recent))
    expect(pool.read(out), [mean, 0], within: 1e-5)
    let heads = ActiveHeads(
      mask: try pool.tensor(HostTensor<UInt8>([0])),
      fallback: .local(sinkPages: sink, recentPages: recent))
    backend.decodeAttention(out, query: try row(0, 0), kv: kv, batch: batch, scale: 1, heads: heads)
    expect(pool.read(out), [mean, 0], within: 1e-5)
  }

  @Test func cacheLayout() throws {
    // Two KV heads of 4, two pages; the token goes to page 1, offset 3.
    let kv = try pool.cache(pages: 2, kvHeads: 2, headDim: 4)
    backend.storeKV(
      kv, key: try row(1, 2, 3, 4, 5, 6, 7, 8), value: try row(11, 12, 13, 14, 15, 16, 17, 18),
      slots: try indices(19))
    let cache = pool.read(kv)  // [kvHeads * pages, 2 * 16 * 4]
    // K (d, t) at d / 2 * 32 + t * 2 + d % 2; V (t, d) at 64 + t / 2 * 8 + d * 2 + t % 2.
    for (block, base) in [(1, Float(0)), (3, 4)] {
      #expect([6, 7, 38, 39].map { cache[block, $0] } == [base + 1, base + 2, base + 3, base + 4])
      #expect([73, 75, 77, 79].map { cache[block, $0] } == [base + 11, base + 12, base + 13, base + 14])
    }
    #expect(cache.values.filter { $0 != 0 }.count == 16)
  }

  @Test func selection() throws {
    let scores = try pool.tensor(HostTensor<Float>([3, 1, 2, -1, -1, -1], rows: 2))
    let mask = try pool.output(rows: 2, columns: 6, dtype: .u8)
    backend.selectTopK(mask, scores: scores, k: 2, headsPerUnit: 2)
    #expect(pool.read(mask, as: UInt8.self).values == [1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    backend.selectAbove(mask, scores: scores, threshold: 1, headsPerUnit: 2)
    #expect(pool.read(mask, as: UInt8.self).values == [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0])
  }

  @Test func headMeasures() throws {
    let attention = try row(3, 4, 0, 2)
    let out = try pool.output(columns: 2)
    backend.headNorms(out, attention: attention)
    expect(pool.read(out), [5, 2])
    // d = (3, 4) - (1, 4) = (2, 0) and (0, 2) - (0, -1) = (0, 3); G = diag(4, 1), then [[1, 1], [1, 4]].
    // sqrt(d' G d) = 4 and 6; the residual's norm is 5.
    let gram = try pool.tensor(HostTensor<Float>([4, 0, 0, 1, 1, 1, 1, 4], rows: 4))
    backend.headDeviations(
      out, attention: attention, fallback: try row(1, 4, 0, -1), gram: gram, residual: try row(0, 3, 4))
    expect(pool.read(out), [0.8, 1.2])
    // Without a fallback: sqrt(4 * 9 + 16) and sqrt(4 * 4).
    backend.headDeviations(
      out, attention: attention, fallback: nil, gram: gram, residual: try row(0, 3, 4))
    expect(pool.read(out), [Float(52).squareRoot() / 5, 0.8])
  }

  @Test func memoryOfAnImpossibleSizeIsRefused() {
    for bytes in [-1, Int.max] {
      #expect(throws: PolarError.outOfMemory(what: "reference memory", bytes: bytes)) {
        try self.backend.allocate(byteCount: bytes)
      }
    }
  }
}

@Suite struct HelperTests {
  @Test func bf16Rounding() {
    #expect(Float(1).roundedToBF16 == 1)
    #expect((1 + Float(0x1p-8)).roundedToBF16 == 1)  // a tie goes to even
    #expect((1 + Float(0x1p-8) + 0x1p-20).roundedToBF16 == 1 + 0x1p-7)
    #expect((1 + Float(0x1.8p-7)).roundedToBF16 == 1 + 0x1p-6)
    #expect(Float.infinity.roundedToBF16 == .infinity)
    #expect(Float.nan.roundedToBF16.isNaN)
  }

  @Test func generatorIsTheKnownSequence() {
    // The published first outputs for seed 1234567.
    var generator = SplitMix64(seed: 1_234_567)
    #expect(generator.next() == 6_457_827_717_110_365_317)
    #expect(generator.next() == 3_203_168_211_198_807_973)
  }

  @Test func randomNumbersLieInRangeAndInBF16() {
    var generator = SplitMix64(seed: 3, label: "numbers")
    let values = generator.matrix(20, 50).values
    #expect(values.allSatisfy { $0.magnitude <= 1 && $0 == $0.roundedToBF16 })
    #expect((values.reduce(0, +) / 1000).magnitude < 0.1)
    var other = SplitMix64(seed: 3, label: "other")
    #expect(other.matrix(20, 50).values != values)
  }

  @Test func layoutOfABatch() {
    let layout = BatchLayout([
      .init(positions: 15..<18, pages: [7, 2]), .init(positions: 0..<1, pages: [0]),
    ])
    #expect(layout.positions == [15, 16, 17, 0])
    #expect(layout.slots == ([7 * 16 + 15, 32, 33, 0] as [Int32]))
    #expect(layout.rowSequences == [0, 0, 0, 1])
    #expect(layout.lastRows == [2, 3])
    #expect(layout.blockTables == HostTensor([7, 2, 0, 0], rows: 2))
    #expect(layout.pageCount == 8)
  }

  @Test func shuffledPagesAreDistinct() {
    var generator = SplitMix64(seed: 9)
    let layout = BatchLayout([0..<100, 99..<100, 0..<1], shuffledBy: &generator)
    let pages = layout.sequences.flatMap(\.pages)
    #expect(pages.sorted() == Array(0..<15))
    #expect(pages != pages.sorted())
    #expect(layout.sequences.map(\.pages.count) == [7, 7, 1])
  }

  @Test func damageIsNoticed() throws {
    let pool = TensorPool(ReferenceBackend())
    let tensor = try pool.tensor(HostTensor<Float>([1, 2, 3, 4], rows: 2), gap: 1)
    #expect(pool.damage() == nil)
    #expect(pool.read(tensor).values == [1, 2, 3, 4])
    pool.backend.add(tensor, tensor)
    #expect(pool.damage() == nil)
    pool.write(HostTensor<Float>([0]), to: Tensor(tensor.address.advanced(by: 8), columns: 1))
    #expect(pool.damage() != nil)
  }
}
