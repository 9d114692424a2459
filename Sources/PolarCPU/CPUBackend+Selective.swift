// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCPU
public import PolarCore

extension CPUBackend {
  public var neuronDType: DType { .bf16 }

  /// An odd number of cache lines: 16 rows are passed side by side, and at a stride of a power of two their lines would fall
  /// into the same sets of L1.
  public func neuronStride(columns: Int) -> Int {
    let line = 32
    return ((columns + line - 1) / line | 1) * line
  }

  public func selectiveUp(
    _ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor?, threshold: Float, neurons: ActiveNeurons?
  ) {
    var args = Self.arguments(out, x, weight: weight, neurons: neurons)
    args.hidden = Int64(x.columns)
    args.threshold = threshold
    args.bias = UnsafePointer(bias?.floats)
    if weight.columns == 2 * x.columns {
      args.gated = 1
      if let bias { args.gated_bias = UnsafePointer(bias.rows(1..<2).floats) }
    }
    polar_selective_up(context, &args)
  }

  public func selectiveDown(
    _ out: Tensor, _ h: Tensor, weight: Tensor, bias: Tensor?, neurons: ActiveNeurons?
  ) {
    var args = Self.arguments(out, h, weight: weight, neurons: neurons)
    args.hidden = Int64(out.columns)
    args.bias = UnsafePointer(bias?.floats)
    polar_selective_down(context, &args)
  }

  public func topKUnion(_ neurons: ActiveNeurons, sums: Tensor, scores: Tensor, k: Int) {
    var args = Self.unionArguments(neurons, aggregate: sums, scores: scores)
    args.k = Int64(k)
    polar_top_k_union(context, &args)
  }

  public func unionAbove(_ neurons: ActiveNeurons, peaks: Tensor, scores: Tensor, threshold: Float) {
    var args = Self.unionArguments(neurons, aggregate: peaks, scores: scores)
    args.threshold = threshold
    polar_union_above(context, &args)
  }

  private static func arguments(
    _ out: Tensor, _ x: Tensor, weight: Tensor, neurons: ActiveNeurons?
  ) -> polar_selective_args {
    var args = polar_selective_args()
    args.weight = UnsafePointer(weight.address.pointer(UInt16.self))
    args.weight_stride = weight.stride
    args.x = UnsafePointer(x.floats)
    args.x_stride = x.stride
    args.out = out.floats
    args.out_stride = out.stride
    args.rows = Int64(out.rows)
    args.neurons = Int64(weight.rows)
    args.indices = UnsafePointer(neurons?.indices.integers)
    args.count = UnsafePointer(neurons?.count.integers)
    return args
  }

  private static func unionArguments(
    _ neurons: ActiveNeurons, aggregate: Tensor, scores: Tensor
  ) -> polar_union_args {
    var args = polar_union_args()
    args.indices = neurons.indices.integers
    args.count = neurons.count.integers
    args.aggregate = aggregate.floats
    args.scores = UnsafePointer(scores.floats)
    args.score_stride = scores.stride
    args.rows = Int64(scores.rows)
    args.neurons = Int64(scores.columns)
    return args
  }
}
