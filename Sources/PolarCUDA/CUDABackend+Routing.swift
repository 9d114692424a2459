// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCUDA
public import PolarCore

extension CUDABackend {
  public func selectTopK(_ mask: Tensor, scores: Tensor, k: Int, headsPerUnit: Int) {
    select(
      .selectTopK, mask, scores: scores, k: k, threshold: 0, headsPerUnit: headsPerUnit, op: "selectTopK")
  }

  public func selectAbove(_ mask: Tensor, scores: Tensor, threshold: Float, headsPerUnit: Int) {
    select(
      .selectAbove, mask, scores: scores, k: 0, threshold: threshold, headsPerUnit: headsPerUnit,
      op: "selectAbove")
  }

  private func select(
    _ kernel: Kernel, _ mask: Tensor, scores: Tensor, k: Int, threshold: Float, headsPerUnit: Int,
    op: StaticString
  ) {
    launch(
      kernel,
      LaunchGeometry(grid: scores.rows, block: Int(POLAR_MASK_THREADS)),
      PolarSelectArgs(
        mask: mask.device, scores: scores.device, units: Int32(scores.columns), k: Int32(clamping: k),
        heads_per_unit: Int32(headsPerUnit), mask_stride: mask.stride, scores_stride: scores.stride,
        threshold: threshold), op: op)
  }

  public func headNorms(_ out: Tensor, attention: Tensor) {
    let headDim = attention.columns / max(1, out.columns)
    launch(
      .headNorms, measure(out, headDim),
      PolarHeadMeasureArgs(
        out: out.device, attention: attention.device, fallback: 0, gram: 0, residual: 0,
        head_dim: Int32(headDim), hidden: 0, out_stride: out.stride, attention_stride: attention.stride,
        fallback_stride: 0, gram_stride: 0, residual_stride: 0, reserved: 0), op: "headNorms")
  }

  public func headDeviations(
    _ out: Tensor, attention: Tensor, fallback: Tensor?, gram: Tensor, residual: Tensor
  ) {
    let headDim = attention.columns / max(1, out.columns)
    launch(
      .headDeviations, measure(out, headDim),
      PolarHeadMeasureArgs(
        out: out.device, attention: attention.device, fallback: fallback?.device ?? 0, gram: gram.device,
        residual: residual.device, head_dim: Int32(headDim), hidden: Int32(residual.columns),
        out_stride: out.stride, attention_stride: attention.stride, fallback_stride: fallback?.stride ?? 0,
        gram_stride: gram.stride, residual_stride: residual.stride, reserved: 0), op: "headDeviations")
  }

  private func measure(_ out: Tensor, _ headDim: Int) -> LaunchGeometry {
    LaunchGeometry(grid: out.rows, out.columns, block: 128, shared: headDim * 4)
  }
}
