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

  public func routeHeads(
    _ mask: Tensor, scores: Tensor, _ x: Tensor, router: HeadRouterMatrices, scratch: Tensor?,
    choice: ScoreChoice, headsPerUnit: Int
  ) {
    let (rows, inputs) = (x.rows, router.weight.inputs)
    let (units, hiddenUnits) = (router.weight.outputs, router.hidden?.weight.outputs ?? 0)
    guard rows > 0, units > 0 else { return }
    let tiles =
      ceilDiv(units, Int(POLAR_UP_OUTPUTS)) + ceilDiv(hiddenUnits, Int(POLAR_UP_OUTPUTS))
    let rowTiles = ceilDiv(rows, Int(POLAR_ROUTE_ROWS))
    let splits = Int(polar_linear_splits(Int32(max(units, hiddenUnits)), Int32(inputs)))
    guard let partial = working(.scores, splits * rows * (units + hiddenUnits) * 4),
      let counters = working(.counters, rowTiles * 4)
    else { return }
    let (isAbove, k, threshold) = parts(choice)
    launch(
      .routeHeads,
      LaunchGeometry(
        grid: tiles, rowTiles, splits, block: Int(POLAR_GEMM_THREADS),
        shared: Int(polar_up_shared(Int32(POLAR_ROUTE_ROWS), 0))),
      PolarRouteHeadsArgs(
        mask: mask.device, scores: scores.device, x: x.device, weight: router.weight.address.device,
        bias: router.bias.device, hidden_weight: router.hidden?.weight.address.device ?? 0,
        hidden_bias: router.hidden?.bias.device ?? 0,
        output_weight: router.hidden?.output.address.device ?? 0, partial: partial.device,
        hidden: scratch?.device ?? 0, counters: counters.device, rows: Int32(rows), inputs: Int32(inputs),
        units: Int32(units), hidden_units: Int32(hiddenUnits), mask_stride: mask.stride,
        scores_stride: scores.stride, x_stride: x.stride, weight_stride: Int32(Self.pitch(inputs)),
        output_stride: Int32(Self.pitch(hiddenUnits)), hidden_stride: scratch?.stride ?? 0,
        heads_per_unit: Int32(headsPerUnit), above: isAbove ? 1 : 0, k: k, threshold: threshold),
      op: "routeHeads")
  }

  /// A choice as the kernels take it.
  private func parts(_ choice: ScoreChoice) -> (isAbove: Bool, k: Int32, threshold: Float) {
    switch choice {
    case .largest(let k): (false, Int32(clamping: k), 0)
    case .above(let threshold): (true, 0, threshold)
    }
  }

  public func routeNeurons(
    _ neurons: ActiveNeurons, _ x: Tensor, weight: PackedMatrix, scores: Tensor, aggregate: Tensor,
    choice: ScoreChoice
  ) {
    let (rows, all) = (x.rows, weight.outputs)
    guard rows > 0, all > 0 else { return }
    let tiles = ceilDiv(all, Int(POLAR_UP_OUTPUTS))
    guard let bits = working(.bits, tiles * 8), let counter = working(.counters, 4) else { return }
    let (isAbove, k, threshold) = parts(choice)
    let tokens = Int(polar_token_tile(Int32(rows)))
    launch(
      .routeNeurons(tokens: tokens),
      LaunchGeometry(
        grid: tiles, block: Int(POLAR_GEMM_THREADS), shared: Int(polar_up_shared(Int32(tokens), 0))),
      PolarRouteNeuronsArgs(
        sums: isAbove ? 0 : aggregate.device, indices: neurons.indices.device, count: neurons.count.device,
        bits: bits.device, counter: counter.device, x: x.device, weight: weight.address.device,
        rows: Int32(rows), rank: Int32(weight.inputs), neurons: Int32(all), x_stride: x.stride,
        weight_stride: Int32(Self.pitch(weight.inputs)), threshold: threshold), op: "routeNeurons")
    if !isAbove {
      list(
        .listTopK, neurons, aggregate, k: min(Int(k), neurons.capacity), threshold: 0, op: "routeNeurons")
    }
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
