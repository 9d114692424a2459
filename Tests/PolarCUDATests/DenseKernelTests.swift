import CPolarCUDA
import PolarCore
import PolarReference
import Testing

@Suite struct DenseKernelTests {
  private let pool = TensorPool(ReferenceBackend())
  private let kernels = EmulatedKernels()

  private func rowKernel<Arguments>(_ name: String, rows: Int, vectors: Int = 1, _ args: Arguments) throws {
    try kernels.launch(name, grid: (rows, vectors, 1), block: Int(POLAR_ROW_THREADS), args)
  }

  @Test(arguments: [(1, 1), (3, 33), (2, 576)]) func norms(rows: Int, columns: Int) throws {
    var generator = SplitMix64(seed: UInt64(columns))
    let x = generator.matrix(rows, columns, bf16: false)
    let delta = generator.matrix(rows, columns, bf16: false)
    let weight = generator.matrix(1, columns)
    let bias = generator.matrix(1, columns)
    let want = try pool.output(rows: rows, columns: columns)
    let (w, b) = (KernelBuffer(weight.values), KernelBuffer(bias.values))

    for adds in [false, true] {
      let residual = try pool.tensor(x)
      if adds {
        pool.backend.addRMSNorm(
          want, residual: residual, delta: try pool.tensor(delta), weight: try pool.tensor(weight),
          epsilon: 1e-5)
      } else {
        pool.backend.rmsNorm(want, residual, weight: try pool.tensor(weight), epsilon: 1e-5)
      }
      let (input, added) = (KernelMatrix(x, gap: 1), KernelMatrix(delta, gap: 2))
      let out = KernelMatrix(rows: rows, columns: columns, gap: 3)
      var args = PolarRMSNormArgs()
      (args.out, args.x, args.delta, args.weight) = (
        out.address, input.address, adds ? added.address : 0, w.address
      )
      (args.columns, args.epsilon) = (Int32(columns), 1e-5)
      (args.out_stride, args.x_stride, args.delta_stride) = (out.stride32, input.stride32, added.stride32)
      try rowKernel("polar_rms_norm", rows: rows, args)
      #expect(worstError(out.host, pool.read(want)) <= Tolerance.norm)
      #expect(sameBits(input.host, pool.read(residual)))
      #expect(out.isIntact && input.isIntact)
    }

    pool.backend.layerNorm(
      want, try pool.tensor(x), weight: try pool.tensor(weight), bias: try pool.tensor(bias), epsilon: 1e-5)
    let out = KernelMatrix(x, gap: 3)  // in place
    var args = PolarLayerNormArgs()
    (args.out, args.x, args.weight, args.bias) = (out.address, out.address, w.address, b.address)
    (args.columns, args.out_stride, args.x_stride, args.epsilon) = (
      Int32(columns), out.stride32, out.stride32, 1e-5
    )
    try rowKernel("polar_layer_norm", rows: rows, args)
    #expect(worstError(out.host, pool.read(want)) <= Tolerance.norm)
    #expect(out.isIntact)
  }

  @Test func normsOfHeads() throws {
    var generator = SplitMix64(seed: 5)
    let x = generator.matrix(3, 5 * 24, bf16: false)
    let weight = generator.matrix(1, 24)
    let want = try pool.tensor(x)
    pool.backend.headRMSNorm(want, weight: try pool.tensor(weight), epsilon: 1e-6, heads: 4)
    let got = KernelMatrix(x, gap: 1)
    let w = KernelBuffer(weight.values)
    var args = PolarRMSNormArgs()
    (args.out, args.x, args.weight, args.columns, args.epsilon) = (
      got.address, got.address, w.address, 24, 1e-6
    )
    (args.out_stride, args.x_stride) = (got.stride32, got.stride32)
    try rowKernel("polar_rms_norm", rows: 3, vectors: 4, args)
    #expect(worstError(got.host, pool.read(want)) <= Tolerance.norm)
  }

  @Test(arguments: ["polar_add", "polar_relu", "polar_gelu", "polar_silu_mul", "polar_relu_mul"])
  func elementwise(kernel: String) throws {
    var generator = SplitMix64(seed: 8)
    let columns = 300
    let target = generator.matrix(3, columns, scale: 4, bf16: false)
    let other = generator.matrix(3, 2 * columns, scale: 8, bf16: false)
    let want = try pool.tensor(target)
    let source = try pool.tensor(other)
    switch kernel {
    case "polar_add": pool.backend.add(want, source.columns(0..<columns))
    case "polar_relu": pool.backend.relu(want)
    case "polar_gelu": pool.backend.gelu(want)
    case "polar_silu_mul": pool.backend.siluMul(want, source)
    default: pool.backend.reluMul(want, source, threshold: 0.5)
    }
    let (out, x) = (KernelMatrix(target, gap: 1), KernelMatrix(other, gap: 2))
    var args = PolarElementwiseArgs()
    (args.out, args.x, args.columns) = (out.address, x.address, Int32(columns))
    (args.out_stride, args.x_stride, args.threshold) = (out.stride32, x.stride32, 0.5)
    try kernels.launch(
      kernel, grid: (ceilDiv(columns, Int(POLAR_FLAT_THREADS)), 3, 1), block: Int(POLAR_FLAT_THREADS), args)
    let isExact = kernel == "polar_add" || kernel == "polar_relu" || kernel == "polar_relu_mul"
    #expect(worstError(out.host, pool.read(want)) <= (isExact ? Tolerance.exact : Tolerance.activation))
    #expect(out.isIntact)
  }

  @Test(arguments: [false, true]) func elements(isF16: Bool) throws {
    let kernels = EmulatedKernels(isF16: isF16)
    var generator = SplitMix64(seed: 9)
    let x = generator.matrix(3, 40, bf16: false)
    let input = KernelMatrix(x, gap: 1)
    let converted = KernelBuffer<UInt16>(count: 3 * 48)
    var args = PolarElementwiseArgs()
    (args.out, args.x, args.columns, args.out_stride) = (converted.address, input.address, 40, 48)
    args.x_stride = input.stride32
    try kernels.launch("polar_convert", grid: (1, 3, 1), block: Int(POLAR_FLAT_THREADS), args)
    for row in 0..<3 {
      for column in 0..<40 { #expect(converted.values[row * 48 + column] == kernels.element(x[row, column])) }
    }
    // The converted rows are an embedding table; a padding row becomes NaN.
    let tokens = KernelBuffer<Int32>([2, -1, 0, 2])
    let out = KernelMatrix(rows: 4, columns: 40, gap: 3)
    var embed = PolarEmbedArgs()
    (embed.out, embed.tokens, embed.table) = (out.address, tokens.address, converted.address)
    (embed.columns, embed.out_stride, embed.table_stride) = (40, out.stride32, 48)
    try kernels.launch("polar_embed", grid: (4, 1, 1), block: Int(POLAR_ROW_THREADS), embed)
    for (row, token) in [2, -1, 0, 2].enumerated() {
      for column in 0..<40 {
        guard token >= 0 else {
          #expect(out.host[row, column].isNaN)
          continue
        }
        let want = isF16 ? Float(Float16(x[token, column])) : x[token, column].roundedToBF16
        #expect(out.host[row, column] == want)
      }
    }
    let indices = KernelBuffer<Int32>([1, 0, -1])
    let gathered = KernelMatrix(rows: 3, columns: 40, gap: 1)
    var gather = PolarGatherRowsArgs()
    (gather.out, gather.x, gather.indices) = (gathered.address, input.address, indices.address)
    (gather.columns, gather.out_stride, gather.x_stride) = (40, gathered.stride32, input.stride32)
    try kernels.launch("polar_gather_rows", grid: (3, 1, 1), block: Int(POLAR_ROW_THREADS), gather)
    #expect(sameBits(gathered.host.rows([0, 1]), x.rows([1, 0])))
    #expect(gathered.host.rows([2]).values.allSatisfy { $0 == 0 } && gathered.isIntact)
  }

  /// Padding rows and positions far away.
  @Test(arguments: [(1, 1, 2), (3, 1, 48), (9, 3, 64), (2, 2, 128)])
  func rotaryStoreKV(heads: Int, kvHeads: Int, headDim: Int) throws {
    var generator = SplitMix64(seed: UInt64(headDim))
    let positions: [Int32] = [0, 1, 77, 1099, -1, 100_000]
    let slots: [Int32] = [17, 3, 4, 31, -1, 0]
    let x = generator.matrix(positions.count, (heads + 2 * kvHeads) * headDim)
    let frequencies = HostTensor<Float>((0..<headDim / 2).map { 1 / (1 + Float($0 * $0)) })
    let want = try pool.tensor(x)
    // The reference has no padding rows: a rotation by position 0 leaves the row as it is, and a page of its own takes it.
    pool.backend.rotaryStoreKV(
      try pool.cache(pages: 3, kvHeads: kvHeads, headDim: headDim), want, heads: heads,
      positions: try pool.tensor(HostTensor(positions.map { max(0, $0) })),
      inverseFrequencies: try pool.tensor(frequencies),
      slots: try pool.tensor(HostTensor(slots.map { $0 < 0 ? 40 : $0 })))
    let got = KernelMatrix(x, gap: 1)
    let (p, s, f) = (KernelBuffer(positions), KernelBuffer(slots), KernelBuffer(frequencies.values))
    let cache = KernelBuffer<UInt16>(count: 2 * 2 * kvHeads * 16 * headDim)
    let before = cache.values
    var args = PolarRotaryStoreKVArgs()
    (args.kv, args.x, args.positions, args.slots) = (cache.address, got.address, p.address, s.address)
    (args.inverse_frequencies, args.x_stride) = (f.address, got.stride32)
    (args.heads, args.kv_heads) = (Int32(heads), Int32(kvHeads))
    try kernels.launch(
      "polar_rotary_store_kv", headDim: headDim, grid: (positions.count, kvHeads, 1), block: 64, args)
    let queries = heads * headDim
    let columns = pool.read(want).values.indices.filter { $0 % x.columns < queries }
    let picked = { (matrix: HostTensor<Float>) in
      HostTensor(columns.map { matrix.values[$0] }, rows: positions.count, columns: queries)
    }
    #expect(worstError(picked(got.host), picked(pool.read(want)), floor: 1) <= Tolerance.rotary)
    #expect(got.isIntact)
    // Five rows were stored, each with K and V of every head; nothing else was written.
    let written = zip(cache.values, before).count { $0 != $1 }
    #expect(written == 5 * 2 * kvHeads * headDim)
  }
}
