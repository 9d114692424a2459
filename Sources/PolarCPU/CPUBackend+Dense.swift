// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCPU
public import PolarCore

extension CPUBackend {
  // MARK: Weights

  public var weightFormats: Set<WeightFormat> { [.bf16, .int8, .int4, .int4Affine] }

  public func packedByteCount(outputs: Int, inputs: Int, format: WeightFormat) -> Int {
    Int(polar_packed_bytes(Int64(outputs), Int64(inputs), Int32(format.rawValue)))
  }

  public func packRows(_ weight: PackedMatrix, firstRow: Int, values: UnsafeBufferPointer<Float>) {
    guard let base = values.baseAddress, weight.inputs > 0 else { return }
    var packed = Self.weight(weight)
    polar_pack_rows(&packed, Int64(firstRow), Int64(values.count / weight.inputs), base)
  }

  public func packBlocks(_ weight: PackedMatrix, firstRow: Int, blocks: UnsafeRawBufferPointer) {
    guard let base = blocks.baseAddress, let blockBytes = weight.format.blockByteCount, weight.inputs > 0
    else { return }
    var packed = Self.weight(weight)
    let rowBytes = weight.inputs / WeightFormat.groupSize * blockBytes
    polar_pack_blocks(&packed, Int64(firstRow), Int64(blocks.count / max(1, rowBytes)), base)
  }

  public func unpackRows(
    _ weight: PackedMatrix, firstRow: Int, into values: UnsafeMutableBufferPointer<Float>
  ) {
    guard let base = values.baseAddress, weight.inputs > 0 else { return }
    var packed = Self.weight(weight)
    polar_unpack_rows(context, &packed, Int64(firstRow), Int64(values.count / weight.inputs), base)
  }

  /// A weight as C takes it.
  @inline(__always)
  private static func weight(_ matrix: PackedMatrix) -> polar_weight {
    polar_weight(
      data: matrix.address.raw, outputs: Int64(matrix.outputs), inputs: Int64(matrix.inputs),
      format: Int32(matrix.format.rawValue))
  }

  // MARK: Dense ops

  public func embed(_ out: Tensor, tokens: Tensor, table: PackedMatrix) {
    var packed = Self.weight(table)
    polar_embed(context, out.floats, out.stride, tokens.integers, Int64(tokens.count), &packed)
  }

  public func gatherRows(_ out: Tensor, _ x: Tensor, indices: Tensor) {
    var args = rowArguments(out, x)
    args.rows = Int64(indices.count)
    args.indices = UnsafePointer(indices.integers)
    polar_gather_rows(context, &args)
  }

  public func rmsNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, epsilon: Float) {
    var args = rowArguments(out, x)
    args.weight = UnsafePointer(weight.floats)
    args.epsilon = epsilon
    polar_rms_norm(context, &args)
  }

  public func addRMSNorm(
    _ out: Tensor, residual: Tensor, delta: Tensor, weight: Tensor, epsilon: Float
  ) {
    var args = rowArguments(out, residual)
    args.b = UnsafePointer(delta.floats)
    args.b_stride = delta.stride
    args.weight = UnsafePointer(weight.floats)
    args.epsilon = epsilon
    polar_add_rms_norm(context, &args)
  }

  public func headRMSNorm(_ x: Tensor, weight: Tensor, epsilon: Float, heads: Int) {
    var args = rowArguments(x, x)
    args.weight = UnsafePointer(weight.floats)
    args.epsilon = epsilon
    args.heads = Int64(heads)
    args.head_dim = Int64(weight.columns)
    polar_head_rms_norm(context, &args)
  }

  public func layerNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Float) {
    var args = rowArguments(out, x)
    args.weight = UnsafePointer(weight.floats)
    args.bias = UnsafePointer(bias.floats)
    args.epsilon = epsilon
    polar_layer_norm(context, &args)
  }

  public func linear(_ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?) {
    var args = linearArguments(out, x, weight, bias)
    polar_linear(context, &args)
  }

  public func linearGated(
    _ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?, activation: GateActivation,
    scratch: Tensor
  ) {
    guard out.columns % 32 == 0 else {
      // Gate and up share a panel.
      return linearThenGate(
        out, x, weight: weight, bias: bias, activation: activation, scratch: scratch)
    }
    var args = linearArguments(out, x, weight, bias)
    switch activation {
    case .silu: args.activation = Int32(POLAR_LINEAR_SILU)
    case .relu(let threshold):
      args.activation = Int32(POLAR_LINEAR_RELU)
      args.threshold = threshold
    }
    polar_linear(context, &args)
  }

  @inline(__always)
  private func linearArguments(
    _ out: Tensor, _ x: Tensor, _ weight: PackedMatrix, _ bias: Tensor?
  ) -> polar_linear_args {
    var args = polar_linear_args()
    args.weight = Self.weight(weight)
    args.bias = UnsafePointer(bias?.floats)
    args.x = UnsafePointer(x.floats)
    args.out = out.floats
    args.x_stride = x.stride
    args.out_stride = out.stride
    args.rows = Int64(x.rows)
    return args
  }

  public func siluMul(_ out: Tensor, _ gateUp: Tensor) {
    var args = rowArguments(out, gateUp)
    polar_silu_mul(context, &args)
  }

  public func reluMul(_ out: Tensor, _ gateUp: Tensor, threshold: Float) {
    var args = rowArguments(out, gateUp)
    args.threshold = threshold
    polar_relu_mul(context, &args)
  }

  public func relu(_ x: Tensor) {
    var args = rowArguments(x, x)
    polar_relu(context, &args)
  }

  public func gelu(_ x: Tensor) {
    var args = rowArguments(x, x)
    polar_gelu(context, &args)
  }

  public func add(_ x: Tensor, _ y: Tensor) {
    var args = rowArguments(x, y)
    polar_add(context, &args)
  }

  /// The arguments of a row-wise op: `out` and `a` with their strides, the shape of `out`.
  @inline(__always)
  func rowArguments(_ out: Tensor, _ a: Tensor) -> polar_row_args {
    var args = polar_row_args()
    args.out = out.floats
    args.out_stride = out.stride
    args.a = UnsafePointer(a.floats)
    args.a_stride = a.stride
    args.rows = Int64(out.rows)
    args.columns = Int64(out.columns)
    return args
  }
}
