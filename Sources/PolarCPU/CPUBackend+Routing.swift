// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCPU
public import PolarCore

extension CPUBackend {
  public func argmax(_ tokens: Tensor, logits: Tensor) {
    polar_argmax(
      context, tokens.integers, logits.floats, logits.stride, Int64(logits.rows), Int64(logits.columns))
  }

  public func selectTopK(_ mask: Tensor, scores: Tensor, k: Int, headsPerUnit: Int) {
    polar_select_top_k(
      mask.bytes, mask.stride, scores.floats, scores.stride, Int64(scores.rows), Int64(scores.columns),
      Int64(k), Int64(headsPerUnit))
  }

  public func selectAbove(_ mask: Tensor, scores: Tensor, threshold: Float, headsPerUnit: Int) {
    polar_select_above(
      mask.bytes, mask.stride, scores.floats, scores.stride, Int64(scores.rows), Int64(scores.columns),
      threshold, Int64(headsPerUnit))
  }

  public func headNorms(_ out: Tensor, attention: Tensor) {
    var args = rowArguments(out, attention)
    args.heads = Int64(out.columns)
    args.head_dim = Int64(attention.columns / max(1, out.columns))
    polar_head_norms(context, &args)
  }

  public func headDeviations(
    _ out: Tensor, attention: Tensor, fallback: Tensor?, gram: Tensor, residual: Tensor
  ) {
    var args = rowArguments(out, attention)
    args.b = UnsafePointer(residual.floats)
    args.b_stride = residual.stride
    args.columns = Int64(residual.columns)
    args.c = UnsafePointer(fallback?.floats)
    args.c_stride = fallback?.stride ?? 0
    args.weight = UnsafePointer(gram.floats)
    args.weight_stride = gram.stride
    args.heads = Int64(out.columns)
    args.head_dim = Int64(attention.columns / max(1, out.columns))
    polar_head_deviations(context, &args)
  }
}
