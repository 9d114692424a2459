import CPolarCUDA
import Foundation
import PolarCore
import PolarReference
import Testing

@Suite struct RoutingKernelTests {
  private let backend = ReferenceBackend()

  // MARK: Lists of neurons

  /// Scores with ties, negative numbers, and some that are not numbers.
  private func scores(_ rows: Int, _ neurons: Int, _ generator: inout SplitMix64) -> HostTensor<Float> {
    HostTensor(
      (0..<rows * neurons).map { _ in
        switch UInt64.random(in: 0..<20, using: &generator) {
        case 0: .nan
        case 1...6: Float(Int.random(in: -2...2, using: &generator))
        default: generator.symmetric(bf16: false)
        }
      }, rows: rows, columns: neurons)
  }

  private func reduced(
    _ kernel: String, _ scores: HostTensor<Float>, _ kernels: EmulatedKernels
  ) throws -> KernelBuffer<Float> {
    let input = KernelMatrix(scores, gap: 1)
    let out = KernelBuffer<Float>(count: scores.columns)
    var args = PolarUnionArgs()
    (args.out, args.scores) = (out.address, input.address)
    (args.rows, args.neurons, args.scores_stride) = (
      Int32(scores.rows), Int32(scores.columns), input.stride32
    )
    try kernels.launch(
      kernel, grid: (ceilDiv(scores.columns, Int(POLAR_FLAT_THREADS)), 1, 1), block: Int(POLAR_FLAT_THREADS),
      args)
    #expect(out.isIntact)
    return out
  }

  private func list(
    _ kernel: String, _ values: KernelBuffer<Float>, count: Int, k: Int = 0, threshold: Float = 0,
    capacity: Int,
    _ kernels: EmulatedKernels
  ) throws -> [Int] {
    let neurons = NeuronList([], capacity: capacity)
    var args = PolarListArgs()
    (args.indices, args.count, args.values) = (neurons.indices.address, neurons.count.address, values.address)
    (args.n, args.k, args.threshold) = (Int32(count), Int32(k), threshold)
    try kernels.launch(kernel, grid: (1, 1, 1), block: Int(POLAR_SELECT_THREADS), args)
    #expect(neurons.indices.isIntact)
    return neurons.host
  }

  @Test(arguments: [(1, 1), (3, 31), (5, 1000), (2, 5000)]) func unions(rows: Int, neurons: Int) throws {
    var generator = SplitMix64(seed: UInt64(neurons))
    let scores = scores(rows, neurons, &generator)
    let pool = TensorPool(backend)
    let reference = ActiveNeurons(
      indices: try pool.output(columns: neurons, dtype: .i32), count: try pool.output(columns: 1, dtype: .i32)
    )
    func expectedList() -> [Int] {
      let count = Int(pool.read(reference.count, as: Int32.self)[0, 0])
      return pool.read(reference.indices, as: Int32.self).values.prefix(count).map(Int.init)
    }
    let sums = try pool.output(columns: neurons)
    for seed in schedules.prefix(2) {
      let kernels = EmulatedKernels(seed: seed)
      for k in [0, 1, 2, neurons / 3, neurons] {
        pool.backend.topKUnion(reference, sums: sums, scores: try pool.tensor(scores), k: k)
        let got = try reduced("polar_union_sums", scores, kernels)
        #expect(got.values == pool.read(sums).values)
        let capacity = max(1, min(k, neurons))
        #expect(
          try list("polar_list_top_k", got, count: neurons, k: k, capacity: capacity, kernels)
            == expectedList(),
          "k \(k)")
      }
      for threshold: Float in [-1, 0, 0.5, 3] {
        pool.backend.unionAbove(reference, peaks: sums, scores: try pool.tensor(scores), threshold: threshold)
        let got = try reduced("polar_union_peaks", scores, kernels)
        #expect(got.values == pool.read(sums).values)
        #expect(
          try list("polar_list_above", got, count: neurons, threshold: threshold, capacity: neurons, kernels)
            == expectedList(), "threshold \(threshold)")
      }
    }
  }

  // MARK: Heads

  @Test(arguments: [(1, 1, 1), (3, 9, 2), (4, 40, 1), (2, 130, 3)])
  func headMasks(rows: Int, units: Int, headsPerUnit: Int) throws {
    var generator = SplitMix64(seed: UInt64(units))
    let scores = HostTensor(
      (0..<rows * units).map { _ in Float(Int.random(in: -9...9, using: &generator)) / 4 }, rows: rows,
      columns: units)
    let pool = TensorPool(backend)
    let want = try pool.output(rows: rows, columns: units * headsPerUnit, dtype: .u8)
    func run(_ kernel: String, k: Int, threshold: Float) throws -> [UInt8] {
      let input = KernelMatrix(scores, gap: 2)
      let mask = KernelBuffer<UInt8>(count: rows * units * headsPerUnit)
      var args = PolarSelectArgs()
      (args.mask, args.scores) = (mask.address, input.address)
      (args.units, args.k, args.heads_per_unit) = (Int32(units), Int32(k), Int32(headsPerUnit))
      (args.mask_stride, args.scores_stride) = (Int32(units * headsPerUnit), input.stride32)
      args.threshold = threshold
      try EmulatedKernels().launch(kernel, grid: (rows, 1, 1), block: Int(POLAR_MASK_THREADS), args)
      #expect(mask.isIntact)
      return mask.values
    }
    for k in [0, 1, units / 2, units] {
      pool.backend.selectTopK(want, scores: try pool.tensor(scores), k: k, headsPerUnit: headsPerUnit)
      #expect(try run("polar_select_top_k", k: k, threshold: 0) == pool.read(want, as: UInt8.self).values)
    }
    for threshold: Float in [-3, 0, 0.25] {
      pool.backend.selectAbove(
        want, scores: try pool.tensor(scores), threshold: threshold, headsPerUnit: headsPerUnit)
      #expect(
        try run("polar_select_above", k: 0, threshold: threshold) == pool.read(want, as: UInt8.self).values)
    }
  }

  @Test(arguments: [(1, 1, 2), (3, 4, 64), (2, 2, 128)]) func headMeasures(
    rows: Int, heads: Int, headDim: Int
  ) throws {
    var generator = SplitMix64(seed: UInt64(headDim))
    let attention = generator.matrix(rows, heads * headDim, bf16: false)
    let fallback = generator.matrix(rows, heads * headDim, bf16: false)
    let residual = generator.matrix(rows, 100, bf16: false)
    // Gram matrices are positive semidefinite: A' A.
    let factor = generator.matrix(heads * headDim, headDim, bf16: false)
    var gram = HostTensor<Float>(repeating: 0, rows: heads * headDim, columns: headDim)
    for row in 0..<heads * headDim {
      for column in 0..<headDim {
        let first = row / headDim * headDim
        gram[row, column] = (0..<4).reduce(0) {
          $0 + factor[first + ($1 % headDim), row % headDim] * factor[first + ($1 % headDim), column]
        }
      }
    }
    let pool = TensorPool(backend)
    let want = try pool.output(rows: rows, columns: heads)
    for instead in [nil, fallback] {
      let (a, r) = (KernelMatrix(attention, gap: 1), KernelMatrix(residual, gap: 2))
      let (f, g) = (instead.map { KernelMatrix($0, gap: 3) }, KernelMatrix(gram, gap: 1))
      let out = KernelMatrix(rows: rows, columns: heads, gap: 1)
      var args = PolarHeadMeasureArgs()
      (args.out, args.attention, args.residual) = (out.address, a.address, r.address)
      (args.fallback, args.gram) = (f?.address ?? 0, g.address)
      (args.head_dim, args.hidden) = (Int32(headDim), 100)
      (args.out_stride, args.attention_stride) = (out.stride32, a.stride32)
      (args.fallback_stride, args.gram_stride) = (f?.stride32 ?? 0, g.stride32)
      args.residual_stride = r.stride32
      for (kernel, isNorm) in [("polar_head_norms", true), ("polar_head_deviations", false)] {
        try EmulatedKernels().launch(kernel, grid: (rows, heads, 1), block: 128, shared: headDim * 4, args)
        if isNorm {
          pool.backend.headNorms(want, attention: try pool.tensor(attention))
        } else {
          var fallbackTensor: Tensor?
          if let instead { fallbackTensor = try pool.tensor(instead) }
          pool.backend.headDeviations(
            want, attention: try pool.tensor(attention), fallback: fallbackTensor,
            gram: try pool.tensor(gram),
            residual: try pool.tensor(residual))
        }
        #expect(worstError(out.host, pool.read(want)) <= Tolerance.headMeasures)
        #expect(out.isIntact)
      }
    }
  }

  // MARK: Tokens

  private func draw(
    _ logits: HostTensor<Float>, _ rows: [PolarSamplingRow]?, seed: UInt64 = 1
  ) throws -> [Int32] {
    let input = KernelMatrix(logits, gap: 3)
    let tokens = KernelBuffer<Int32>(count: logits.rows)
    let parameters = rows.map { KernelBuffer($0) }
    var args = PolarSampleArgs()
    (args.tokens, args.logits, args.parameters) = (tokens.address, input.address, parameters?.address ?? 0)
    (args.vocabulary, args.logits_stride) = (Int32(logits.columns), input.stride32)
    try EmulatedKernels(seed: seed).launch(
      rows == nil ? "polar_argmax" : "polar_sample", grid: (logits.rows, 1, 1),
      block: Int(POLAR_SELECT_THREADS), args)
    return tokens.values
  }

  private func row(
    temperature: Float = 1, topK: Int32 = 0, topP: Float = 1, minP: Float = 0, uniform: Double
  ) -> PolarSamplingRow {
    PolarSamplingRow(temperature: temperature, top_p: topP, min_p: minP, top_k: topK, uniform: uniform)
  }

  @Test func argmaxTakesTheFirstOfTheLargest() throws {
    let logits = HostTensor<Float>(
      [
        -3, -1, -1, -2, -.infinity, -5, 0, -0.0, 0, -1, 1, 2, 3, 3, 2, 1, .nan, 2, 1, 0, -.infinity,
        -.infinity,
        -.infinity, -.infinity, 1, .infinity, 0, 0,
      ], rows: 7)
    #expect(try draw(logits, nil) == [1, 2, 3, 0, -1, -1, -1])
    #expect(
      try draw(logits, Array(repeating: row(temperature: 0, uniform: 0.9), count: 7))
        == (try draw(logits, nil)))
  }

  /// The distribution that the filters leave, tokens in order of index.
  private func distribution(_ logits: [Float], _ row: PolarSamplingRow) -> [(token: Int, share: Double)] {
    let peak = logits.max() ?? 0
    var weights = logits.enumerated().map {
      ($0.offset, exp(Double($0.element - peak) / Double(row.temperature)))
    }
    weights = weights.filter { $0.1 >= Double(row.min_p) }
    weights.sort { $0.1 > $1.1 || ($0.1 == $1.1 && $0.0 < $1.0) }
    if row.top_k > 0 { weights = Array(weights.prefix(Int(row.top_k))) }
    let wanted = Double(row.top_p) * weights.reduce(0) { $0 + $1.1 }
    if row.top_p < 1 {
      var sum = 0.0
      var kept = 0
      while kept < weights.count, sum < wanted {
        sum += weights[kept].1
        kept += 1
      }
      weights = Array(weights.prefix(max(1, kept)))
    }
    let total = weights.reduce(0) { $0 + $1.1 }
    return weights.sorted { $0.0 < $1.0 }.map { ($0.0, $0.1 / total) }
  }

  @Test func samplingFollowsTheFilteredDistribution() throws {
    var generator = SplitMix64(seed: 21)
    let vocabulary = 1500
    // Ties on purpose: many logits are equal.
    let logits = (0..<vocabulary).map { _ in Float(Int.random(in: -8...8, using: &generator)) / 2 }
    var rows: [PolarSamplingRow] = []
    for (topK, topP, minP, temperature): (Int32, Float, Float, Float) in [
      (0, 1, 0, 1), (1, 1, 0, 1), (7, 1, 0, 2), (100, 1, 0, 0.7), (0, 0.3, 0, 1), (0, 0.9, 0, 1.5),
      (60, 0.5, 0, 1),
      (0, 1, 0.2, 1), (40, 0.8, 0.1, 1), (5000, 1, 0, 1), (0, 0.0001, 0, 1),
    ] {
      for uniform in [0, 0.25, 0.5, 0.75, 0.999_999_999] {
        rows.append(row(temperature: temperature, topK: topK, topP: topP, minP: minP, uniform: uniform))
      }
    }
    let matrix = HostTensor(rows.flatMap { _ in logits }, rows: rows.count)
    let tokens = try draw(matrix, rows)
    #expect(try draw(matrix, rows, seed: 5) == tokens)
    for (row, token) in zip(rows, tokens) {
      let allowed = distribution(logits, row)
      guard let index = allowed.firstIndex(where: { $0.token == Int(token) }) else {
        Issue.record("\(row) gives token \(token), which the filters exclude")
        continue
      }
      // The running sum passes the uniform number at the token, up to rounding.
      let before = allowed[..<index].reduce(0) { $0 + $1.share }
      #expect(before <= row.uniform + 1e-5 && row.uniform <= before + allowed[index].share + 1e-5, "\(row)")
    }
  }
}
