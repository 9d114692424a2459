import CPolarCUDA
import PolarCore
import PolarReference

/// A list of neurons in kernel memory, followed by indices that mean nothing.
struct NeuronList {
  let indices: KernelBuffer<Int32>
  let count: KernelBuffer<Int32>
  let capacity: Int

  init(_ list: [Int], capacity: Int) {
    indices = KernelBuffer(list.map(Int32.init) + Array(repeating: -7, count: capacity - list.count))
    count = KernelBuffer([Int32(list.count)])
    self.capacity = capacity
  }

  var host: [Int] { indices.values.prefix(Int(count.values[0])).map(Int.init) }
}

/// Launches of the matrix kernels.
struct MatrixKernels {
  var kernels = EmulatedKernels()
  /// Tokens of a tile; nil takes the smallest that fits.
  var tile: Int?

  private func tile(_ rows: Int) -> Int { tile ?? Int(polar_token_tile(Int32(rows))) }

  /// Elements of `host`, rows `stride` apart. The space between is `padding`; rows that are not in `readable` are NaN.
  private func elements(
    _ host: HostTensor<Float>, stride: Int, padding: UInt16 = 0x7fff, readable: [Int]? = nil
  ) -> KernelBuffer<UInt16> {
    var values = [UInt16](repeating: padding, count: host.rows * stride)
    let rows = readable ?? Array(0..<host.rows)
    if readable != nil { values = values.map { _ in 0x7fff } }
    for row in rows {
      for column in 0..<host.columns {
        values[row * stride + column] = kernels.element(host[row, column])
      }
    }
    return KernelBuffer(values)
  }

  private func finished(_ out: KernelMatrix, _ partial: KernelBuffer<Float>) throws -> HostTensor<Float> {
    guard out.isIntact, partial.isIntact else {
      throw EmulatorFailure(description: "wrote outside of its tensors")
    }
    return out.host
  }

  func linear(
    _ x: HostTensor<Float>, weight: HostTensor<Float>, bias: HostTensor<Float>?, splits: Int? = nil
  ) throws -> HostTensor<Float> {
    let (rows, inputs, outputs) = (x.rows, x.columns, weight.rows)
    let stride = ceilDiv(inputs, 8) * 8
    let input = KernelMatrix(x, gap: inputs % 4 == 0 ? 4 : 1)
    let packed = elements(weight, stride: stride, padding: 0)
    let biases = bias.map { KernelBuffer($0.values) }
    let out = KernelMatrix(rows: rows, columns: outputs, gap: 3)
    let splits = splits ?? Int(polar_linear_splits(Int32(outputs), Int32(inputs)))
    let partial = KernelBuffer<Float>(count: splits * rows * outputs)
    var args = PolarLinearArgs()
    (args.out, args.x, args.weight) = (out.address, input.address, packed.address)
    (args.bias, args.partial) = (biases?.address ?? 0, splits > 1 ? partial.address : 0)
    (args.rows, args.inputs, args.outputs) = (Int32(rows), Int32(inputs), Int32(outputs))
    (args.out_stride, args.x_stride, args.weight_stride) = (out.stride32, input.stride32, Int32(stride))
    args.splits = Int32(splits)
    let tokens = tile(rows)
    try kernels.launch(
      "polar_linear_\(tokens)",
      grid: (ceilDiv(outputs, Int(POLAR_UP_OUTPUTS)), ceilDiv(rows, tokens), splits),
      block: Int(POLAR_GEMM_THREADS), shared: Int(polar_up_shared(Int32(tokens), 0)), args)
    if splits > 1 {
      try reduce(out, partial, bias: args.bias, count: 0, splits: splits, capacity: 0)
    }
    return try finished(out, partial)
  }

  private func reduce(
    _ out: KernelMatrix, _ partial: KernelBuffer<Float>, bias: UInt64, count: UInt64, splits: Int,
    capacity: Int
  ) throws {
    var args = PolarReduceArgs()
    (args.out, args.partial, args.bias, args.count) = (out.address, partial.address, bias, count)
    (args.rows, args.columns, args.out_stride) = (Int32(out.rows), Int32(out.columns), out.stride32)
    (args.splits, args.capacity) = (Int32(splits), Int32(capacity))
    try kernels.launch(
      "polar_reduce", grid: (ceilDiv(out.columns, Int(POLAR_FLAT_THREADS)), out.rows, 1),
      block: Int(POLAR_FLAT_THREADS), args)
  }

  /// Selective up: `[rows, count]`. Rows of neurons that are not listed are NaN; `gap` is between rows of the weight.
  func up(
    _ x: HostTensor<Float>, weight: HostTensor<Float>, bias: HostTensor<Float>?, threshold: Float,
    gap: Int = 0,
    list: [Int]? = nil, capacity: Int? = nil
  ) throws -> HostTensor<Float> {
    let gated = weight.columns == 2 * x.columns
    let neurons = list.map { NeuronList($0, capacity: capacity ?? weight.rows) }
    let stride = weight.columns + gap
    let input = KernelMatrix(x, gap: x.columns % 4 == 0 ? 4 : 1)
    let packed = elements(weight, stride: stride, readable: list)
    let biases = bias.map { KernelMatrix($0, gap: 3) }
    let out = KernelMatrix(rows: x.rows, columns: neurons?.capacity ?? weight.rows, gap: 2)
    let partial = KernelBuffer<Float>(
      count: Int(polar_up_partials(Int32(x.rows), gated ? 1 : 0)))
    var args = PolarSelectiveUpArgs()
    (args.out, args.x, args.weight) = (out.address, input.address, packed.address)
    (args.bias, args.bias_stride) = (biases?.address ?? 0, biases?.stride32 ?? 0)
    (args.indices, args.count) = (neurons?.indices.address ?? 0, neurons?.count.address ?? 0)
    args.partial = partial.address
    (args.rows, args.hidden, args.capacity) = (Int32(x.rows), Int32(x.columns), Int32(out.columns))
    args.gated = gated ? 1 : 0
    (args.out_stride, args.x_stride, args.weight_stride) = (out.stride32, input.stride32, Int32(stride))
    args.threshold = threshold
    let tokens = tile(x.rows)
    try kernels.launch(
      "polar_selective_up_\(gated ? "gated_" : "")\(tokens)",
      grid: (ceilDiv(out.columns, Int(POLAR_UP_OUTPUTS)), ceilDiv(x.rows, tokens), Int(POLAR_MAX_SPLITS)),
      block: Int(POLAR_GEMM_THREADS), shared: Int(polar_up_shared(Int32(tokens), args.gated)), args)
    try kernels.launch(
      "polar_selective_finish", grid: (ceilDiv(out.columns, Int(POLAR_FLAT_THREADS)), x.rows, 1),
      block: Int(POLAR_FLAT_THREADS), args)
    let all = try finished(out, partial)
    let count = list?.count ?? weight.rows
    return HostTensor(
      (0..<all.rows).flatMap { row in (0..<count).map { all[row, $0] } }, rows: all.rows, columns: count)
  }

  /// Selective down over `h` `[rows, count]`, which lies in `capacity` columns, NaN behind the count.
  func down(
    _ h: HostTensor<Float>, weight: HostTensor<Float>, bias: HostTensor<Float>?, gap: Int = 0,
    list: [Int]? = nil,
    capacity: Int? = nil
  ) throws -> HostTensor<Float> {
    let (rows, hidden) = (h.rows, weight.columns)
    let neurons = list.map { NeuronList($0, capacity: capacity ?? weight.rows) }
    let input = KernelMatrix(h, gap: (neurons?.capacity ?? h.columns) - h.columns + 1)
    let packed = elements(weight, stride: hidden + gap, readable: list)
    let biases = bias.map { KernelBuffer($0.values) }
    let out = KernelMatrix(rows: rows, columns: hidden, gap: 1)
    let partial = KernelBuffer<Float>(count: Int(POLAR_MAX_SPLITS) * rows * hidden)
    var args = PolarSelectiveDownArgs()
    (args.h, args.weight, args.partial) = (input.address, packed.address, partial.address)
    (args.indices, args.count) = (neurons?.indices.address ?? 0, neurons?.count.address ?? 0)
    (args.rows, args.hidden) = (Int32(rows), Int32(hidden))
    args.capacity = Int32(neurons?.capacity ?? weight.rows)
    (args.h_stride, args.weight_stride) = (input.stride32, Int32(hidden + gap))
    let tokens = tile(rows)
    try kernels.launch(
      "polar_selective_down_\(tokens)",
      grid: (ceilDiv(hidden, Int(POLAR_DOWN_OUTPUTS)), ceilDiv(rows, tokens), Int(POLAR_MAX_SPLITS)),
      block: Int(POLAR_GEMM_THREADS), shared: Int(polar_down_shared(Int32(tokens))), args)
    try reduce(
      out, partial, bias: biases?.address ?? 0, count: args.count, splits: 0, capacity: Int(args.capacity))
    return try finished(out, partial)
  }
}
