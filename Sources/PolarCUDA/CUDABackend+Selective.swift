// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCUDA
public import PolarCore

extension CUDABackend {
  public func selectiveUp(
    _ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor?, threshold: Float, neurons: ActiveNeurons?
  ) {
    let (rows, hidden) = (x.rows, x.columns)
    let capacity = neurons?.capacity ?? weight.rows
    guard rows > 0, capacity > 0 else { return }
    let gated = weight.columns == 2 * hidden
    let tokens = Int(polar_token_tile(Int32(rows)))
    guard let partial = working(.up, Int(polar_up_partials(Int32(rows), gated ? 1 : 0)) * 4) else { return }
    let arguments = PolarSelectiveUpArgs(
      out: out.device, x: x.device, weight: weight.device, bias: bias?.device ?? 0,
      indices: neurons?.indices.device ?? 0, count: neurons?.count.device ?? 0, partial: partial.device,
      tally: neurons?.tally?.device ?? 0, rows: Int32(rows), hidden: Int32(hidden), capacity: Int32(capacity),
      gated: gated ? 1 : 0,
      out_stride: out.stride, x_stride: x.stride, weight_stride: weight.stride,
      bias_stride: bias?.stride ?? 0, threshold: threshold, reserved: 0)
    launch(
      .selectiveUp(tokens: tokens, gated: gated),
      LaunchGeometry(
        grid: ceilDiv(capacity, Int(POLAR_UP_OUTPUTS)), ceilDiv(rows, tokens), Int(POLAR_MAX_SPLITS),
        block: Int(POLAR_GEMM_THREADS), shared: Int(polar_up_shared(Int32(tokens), gated ? 1 : 0))),
      arguments, op: "selectiveUp")
    // Whether sums were split depends on the list's count, which only the device knows: it returns at once if not.
    launch(.selectiveFinish, flat(capacity, rows), arguments, op: "selectiveUp")
  }

  public func selectiveDown(
    _ out: Tensor, _ h: Tensor, weight: Tensor, bias: Tensor?, neurons: ActiveNeurons?
  ) {
    let (rows, hidden) = (out.rows, out.columns)
    let capacity = neurons?.capacity ?? weight.rows
    guard rows > 0, hidden > 0 else { return }
    let tokens = Int(polar_token_tile(Int32(rows)))
    guard let partial = working(.down, Int(POLAR_MAX_SPLITS) * rows * hidden * 4) else { return }
    launch(
      .selectiveDown(tokens: tokens),
      LaunchGeometry(
        grid: ceilDiv(hidden, Int(POLAR_DOWN_OUTPUTS)), ceilDiv(rows, tokens), Int(POLAR_MAX_SPLITS),
        block: Int(POLAR_GEMM_THREADS), shared: Int(polar_down_shared(Int32(tokens)))),
      PolarSelectiveDownArgs(
        h: h.device, weight: weight.device, indices: neurons?.indices.device ?? 0,
        count: neurons?.count.device ?? 0, partial: partial.device, rows: Int32(rows),
        hidden: Int32(hidden), capacity: Int32(capacity), h_stride: h.stride, weight_stride: weight.stride,
        reserved: 0), op: "selectiveDown")
    launch(
      .reduce, flat(hidden, rows),
      PolarReduceArgs(
        out: out.device, partial: partial.device, bias: bias?.device ?? 0,
        count: neurons?.count.device ?? 0, rows: Int32(rows), columns: Int32(hidden),
        out_stride: out.stride, splits: 0, capacity: Int32(capacity), reserved: 0), op: "selectiveDown")
  }

  public func topKUnion(_ neurons: ActiveNeurons, sums: Tensor, scores: Tensor, k: Int) {
    union(.unionSums, sums, scores: scores, op: "topKUnion")
    list(.listTopK, neurons, sums, k: min(k, neurons.capacity), threshold: 0, op: "topKUnion")
  }

  public func unionAbove(_ neurons: ActiveNeurons, peaks: Tensor, scores: Tensor, threshold: Float) {
    union(.unionPeaks, peaks, scores: scores, op: "unionAbove")
    list(.listAbove, neurons, peaks, k: 0, threshold: threshold, op: "unionAbove")
  }

  private func union(_ kernel: Kernel, _ out: Tensor, scores: Tensor, op: StaticString) {
    launch(
      kernel,
      LaunchGeometry(grid: ceilDiv(scores.columns, Int(POLAR_FLAT_THREADS)), block: Int(POLAR_FLAT_THREADS)),
      PolarUnionArgs(
        out: out.device, scores: scores.device, rows: Int32(scores.rows), neurons: Int32(scores.columns),
        scores_stride: scores.stride, reserved: 0), op: op)
  }

  /// Lists the neurons that `values` names.
  func list(
    _ kernel: Kernel, _ neurons: ActiveNeurons, _ values: Tensor, k: Int, threshold: Float, op: StaticString
  ) {
    launch(
      kernel, LaunchGeometry(grid: 1, block: Int(POLAR_SELECT_THREADS)),
      PolarListArgs(
        indices: neurons.indices.device, count: neurons.count.device, values: values.device,
        n: Int32(values.columns), k: Int32(clamping: k), threshold: threshold, reserved: 0), op: op)
  }
}

extension CUDABackend: TokenDrawing {
  public func argmax(_ tokens: Tensor, logits: Tensor) {
    choose(.argmax, tokens, logits: logits, parameters: 0, op: "argmax")
  }

  public func draw(_ tokens: Tensor, logits: Tensor, draws: Tensor) {
    choose(.sample, tokens, logits: logits, parameters: draws.device, op: "draw")
  }

  private func choose(
    _ kernel: Kernel, _ tokens: Tensor, logits: Tensor, parameters: PolarAddress, op: StaticString
  ) {
    launch(
      kernel, LaunchGeometry(grid: logits.rows, block: Int(POLAR_SELECT_THREADS)),
      PolarSampleArgs(
        tokens: tokens.device, logits: logits.device, parameters: parameters,
        vocabulary: Int32(logits.columns), logits_stride: logits.stride), op: op)
  }
}
