// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCUDA
public import PolarCore

extension CUDABackend {
  // MARK: Weights

  // The layout is row-major elements `[outputs, pitch]`, pitch the inputs rounded up to 16 bytes, the padding zero.

  public var wideFormat: WeightFormat { device.element.weightFormat }

  public var weightFormats: Set<WeightFormat> { [wideFormat] }

  public func packedByteCount(outputs: Int, inputs: Int, format: WeightFormat) -> Int {
    precondition(format == wideFormat, "\(format) is not one of the weight formats of \(name)")
    return outputs * Self.pitch(inputs) * 2
  }

  public func packBlocks(_ weight: PackedMatrix, firstRow: Int, blocks: UnsafeRawBufferPointer) {
    preconditionFailure("\(weight.format) is not one of the weight formats of \(name)")
  }

  public func packRows(_ weight: PackedMatrix, firstRow: Int, values: UnsafeBufferPointer<Float>) {
    guard weight.inputs > 0, !values.isEmpty else { return }
    let pitch = Self.pitch(weight.inputs)
    let rows = values.count / weight.inputs
    let element = device.element
    var packed = [UInt16](repeating: 0, count: rows * pitch)
    packed.withUnsafeMutableBufferPointer { packed in
      for row in 0..<rows {
        for column in 0..<weight.inputs {
          packed[row * pitch + column] = element.bits(values[row * weight.inputs + column])
        }
      }
    }
    packed.withUnsafeBytes { upload($0, to: weight.address.advanced(by: firstRow * pitch * 2)) }
  }

  public func unpackRows(
    _ weight: PackedMatrix, firstRow: Int, into values: UnsafeMutableBufferPointer<Float>
  ) {
    guard weight.inputs > 0, !values.isEmpty else { return }
    let pitch = Self.pitch(weight.inputs)
    let rows = values.count / weight.inputs
    var packed = [UInt16](repeating: 0, count: rows * pitch)
    packed.withUnsafeMutableBytes { download(weight.address.advanced(by: firstRow * pitch * 2), into: $0) }
    let element = device.element
    packed.withUnsafeBufferPointer { packed in
      for row in 0..<rows {
        for column in 0..<weight.inputs {
          values[row * weight.inputs + column] = element.float(packed[row * pitch + column])
        }
      }
    }
  }

  /// Elements from row to row of a weight.
  static func pitch(_ inputs: Int) -> Int { Int(polar_weight_pitch(Int32(inputs))) }

  // MARK: Dense ops

  public func embed(_ out: Tensor, tokens: Tensor, table: PackedMatrix) {
    launch(
      .embed, LaunchGeometry(grid: tokens.count, block: rowThreads),
      PolarEmbedArgs(
        out: out.device, tokens: tokens.device, table: table.address.device, columns: Int32(table.inputs),
        out_stride: out.stride, table_stride: Int32(Self.pitch(table.inputs)), reserved: 0), op: "embed")
  }

  public func gatherRows(_ out: Tensor, _ x: Tensor, indices: Tensor) {
    launch(
      .gatherRows, LaunchGeometry(grid: indices.count, block: rowThreads),
      PolarGatherRowsArgs(
        out: out.device, x: x.device, indices: indices.device, columns: Int32(out.columns),
        out_stride: out.stride, x_stride: x.stride, reserved: 0), op: "gatherRows")
  }

  public func rmsNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, epsilon: Float) {
    norm(out, x, delta: nil, weight: weight, epsilon: epsilon, columns: x.columns, vectors: 1, op: "rmsNorm")
  }

  public func addRMSNorm(
    _ out: Tensor, residual: Tensor, delta: Tensor, weight: Tensor, epsilon: Float
  ) {
    norm(
      out, residual, delta: delta, weight: weight, epsilon: epsilon, columns: residual.columns, vectors: 1,
      op: "addRMSNorm")
  }

  public func headRMSNorm(_ x: Tensor, weight: Tensor, epsilon: Float, heads: Int) {
    norm(
      x, x, delta: nil, weight: weight, epsilon: epsilon, columns: weight.columns, vectors: heads,
      op: "headRMSNorm")
  }

  private func norm(
    _ out: Tensor, _ x: Tensor, delta: Tensor?, weight: Tensor, epsilon: Float, columns: Int, vectors: Int,
    op: StaticString
  ) {
    launch(
      .rmsNorm, LaunchGeometry(grid: x.rows, vectors, block: rowThreads),
      PolarRMSNormArgs(
        out: out.device, x: x.device, delta: delta?.device ?? 0, weight: weight.device,
        columns: Int32(columns), out_stride: out.stride, x_stride: x.stride,
        delta_stride: delta?.stride ?? 0, epsilon: epsilon, reserved: 0), op: op)
  }

  public func layerNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Float) {
    launch(
      .layerNorm, LaunchGeometry(grid: x.rows, block: rowThreads),
      PolarLayerNormArgs(
        out: out.device, x: x.device, weight: weight.device, bias: bias.device, columns: Int32(x.columns),
        out_stride: out.stride, x_stride: x.stride, epsilon: epsilon), op: "layerNorm")
  }

  public func linear(_ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?) {
    let (rows, outputs, inputs) = (x.rows, weight.outputs, weight.inputs)
    guard rows > 0, outputs > 0 else { return }
    if rows > Self.libraryRows, usesLibrary, multiply(out, x, weight: weight, bias: bias) { return }
    let tokens = Int(polar_token_tile(Int32(rows)))
    let splits = Int(polar_linear_splits(Int32(outputs), Int32(inputs)))
    var partial = Address(0)
    if splits > 1 {
      guard let memory = working(.product, splits * rows * outputs * 4) else { return }
      partial = memory
    }
    launch(
      .linear(tokens: tokens),
      LaunchGeometry(
        grid: ceilDiv(outputs, Int(POLAR_UP_OUTPUTS)), ceilDiv(rows, tokens), splits,
        block: Int(POLAR_GEMM_THREADS), shared: Int(polar_up_shared(Int32(tokens), 0))),
      PolarLinearArgs(
        out: out.device, x: x.device, weight: weight.address.device, bias: bias?.device ?? 0,
        partial: partial.device, rows: Int32(rows), inputs: Int32(inputs), outputs: Int32(outputs),
        out_stride: out.stride, x_stride: x.stride, weight_stride: Int32(Self.pitch(inputs)),
        splits: Int32(splits), reserved: 0), op: "linear")
    guard splits > 1 else { return }
    launch(
      .reduce, flat(outputs, rows),
      PolarReduceArgs(
        out: out.device, partial: partial.device, bias: bias?.device ?? 0, count: 0, rows: Int32(rows),
        columns: Int32(outputs), out_stride: out.stride, splits: Int32(splits), capacity: 0, reserved: 0),
      op: "linear")
  }

  /// A linear layer by the vendor's library, which takes its input in elements; false when it has none for the shape.
  private func multiply(_ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?) -> Bool {
    let pitch = Self.pitch(weight.inputs)
    var product = MatrixProduct(
      out: out.address, outStride: out.rowStride, x: Address(0), weight: weight.address, bias: bias?.address,
      rows: x.rows, outputs: weight.outputs, inputs: weight.inputs, pitch: pitch)
    guard device.supports(product), let rounded = working(.rounded, x.rows * pitch * 2) else { return false }
    launch(
      .convert, flat(weight.inputs, x.rows),
      PolarElementwiseArgs(
        out: rounded.device, x: x.device, columns: Int32(weight.inputs), out_stride: Int32(pitch),
        x_stride: x.stride, threshold: 0), op: "linear")
    product.x = rounded
    device.multiply(product)
    return true
  }

  public func siluMul(_ out: Tensor, _ gateUp: Tensor) { elementwise(.siluMul, out, gateUp, op: "siluMul") }

  public func reluMul(_ out: Tensor, _ gateUp: Tensor, threshold: Float) {
    elementwise(.reluMul, out, gateUp, threshold: threshold, op: "reluMul")
  }

  public func relu(_ x: Tensor) { elementwise(.relu, x, x, op: "relu") }

  public func gelu(_ x: Tensor) { elementwise(.gelu, x, x, op: "gelu") }

  public func add(_ x: Tensor, _ y: Tensor) { elementwise(.add, x, y, op: "add") }

  private func elementwise(
    _ kernel: Kernel, _ out: Tensor, _ x: Tensor, threshold: Float = 0, op: StaticString
  ) {
    launch(
      kernel, flat(out.columns, out.rows),
      PolarElementwiseArgs(
        out: out.device, x: x.device, columns: Int32(out.columns), out_stride: out.stride,
        x_stride: x.stride, threshold: threshold), op: op)
  }

  /// Threads of row-wise kernels.
  var rowThreads: Int { Int(POLAR_ROW_THREADS) }

  /// The grid of an element-wise kernel over `[rows, columns]`.
  func flat(_ columns: Int, _ rows: Int) -> LaunchGeometry {
    LaunchGeometry(
      grid: ceilDiv(columns, Int(POLAR_FLAT_THREADS)), rows, block: Int(POLAR_FLAT_THREADS))
  }
}

/// `a / b`, rounded up.
@inline(__always) func ceilDiv(_ a: Int, _ b: Int) -> Int { (a + b - 1) / b }

extension Address {
  /// The address as kernels take it.
  @inline(__always) var device: PolarAddress { PolarAddress(bits) }
}

extension Tensor {
  /// The first element's address as kernels take it.
  @inline(__always) var device: PolarAddress { PolarAddress(address.bits) }
  /// The row stride as kernels take it.
  @inline(__always) var stride: Int32 { Int32(rowStride) }
}
