// The ops are documented where they are declared, in PolarCore.TrainingOps.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCUDA
public import PolarCore
internal import Synchronization

extension CUDABackend {
  /// Calibration happens on the GPU.
  public var training: (any TrainingOps)? { self }
}

extension CUDABackend: TrainingOps {
  // The GPU is busy with one layer while the host draws, folds and judges the weights of others.
  public var concurrentLayers: Int { 4 }
  public var hasOwnMemory: Bool { true }

  public func prepareTraining() throws(PolarError) {
    for kernel in Kernel.allCases where kernel.isForTraining {
      try device.prepare(kernel, headDim: 0, sharedBytes: 0)
    }
  }

  // MARK: Recording

  public func turns(_ out: Tensor, _ x: Tensor, _ delta: Tensor) {
    launch(
      .turns, LaunchGeometry(grid: x.rows, block: rowThreads),
      PolarTurnsArgs(
        out: out.device, x: x.device, delta: delta.device, columns: Int32(x.columns), x_stride: x.stride,
        delta_stride: delta.stride, reserved: 0), op: "turns")
  }

  public func sumRows(_ out: Tensor, _ x: Tensor, rows: Tensor?) {
    launch(
      .sumRows, flat(out.columns, 1),
      PolarSumRowsArgs(
        out: out.device, x: x.device, rows: rows?.device ?? 0, count: Int32(rows?.count ?? x.rows),
        columns: Int32(out.columns), x_stride: x.stride, reserved: 0), op: "sumRows")
  }

  public func storeRows(_ out: Tensor, _ x: Tensor, rows: Tensor) {
    launch(
      .storeRows, LaunchGeometry(grid: rows.count, block: rowThreads),
      PolarStoreRowsArgs(
        out: out.device, x: x.device, rows: rows.device, columns: Int32(out.columns), out_stride: out.stride,
        x_stride: x.stride, reserved: 0), op: "storeRows")
  }

  public func packActive(_ out: Tensor, _ x: Tensor, rows: Tensor) {
    let words = out.columns / 4
    launch(
      .packActive, flat(words * 32, rows.count),
      PolarPackActiveArgs(
        out: out.device, x: x.device, rows: rows.device, columns: Int32(x.columns), words: Int32(words),
        out_stride: Int32(out.rowStride / 4), x_stride: x.stride), op: "packActive")
  }

  // MARK: Samples

  public func moments(mean: Tensor, scale: Tensor, of samples: Tensor, step: Int) {
    launch(
      .moments, flat(samples.columns, 1),
      PolarMomentsArgs(
        mean: mean.device, scale: scale.device, samples: samples.device, rows: Int32(samples.rows),
        columns: Int32(samples.columns), samples_stride: samples.stride, step: Int32(step)), op: "moments")
  }

  public func gatherScaled(_ out: Tensor, _ samples: Tensor, rows: Tensor, mean: Tensor, scale: Tensor) {
    launch(
      .gatherScaled, LaunchGeometry(grid: rows.count, block: rowThreads),
      PolarGatherScaledArgs(
        out: out.device, samples: samples.device, rows: rows.device, mean: mean.device, scale: scale.device,
        columns: Int32(out.columns), out_stride: out.stride, samples_stride: samples.stride, reserved: 0),
      op: "gatherScaled")
  }

  // MARK: Products

  public func multiply(_ out: Tensor, _ a: MatrixOperand, _ b: MatrixOperand, adding: Bool) {
    // The layers' product takes both operands with the summed dimension innermost: a `[m, k]` f32, b `[n, k]` in elements.
    product.withLock { _ in
      guard let x = rowsOperand(a), let weight = weightOperand(b) else { return }
      guard adding else { return linear(out, x, weight: weight, bias: nil) }
      guard let memory = working(.addend, out.count * 4) else { return }
      let addend = Tensor(memory, rows: out.rows, columns: out.columns)
      linear(addend, x, weight: weight, bias: nil)
      add(out, addend)
    }
  }

  private func rowsOperand(_ operand: MatrixOperand) -> Tensor? {
    switch operand {
    case .plain(let x): return x
    case .transposed(let x):
      guard let memory = working(.operand, x.count * 4) else { return nil }
      let turned = Tensor(memory, rows: x.columns, columns: x.rows)
      transpose(.transpose, to: turned.device, turned.stride, x)
      return turned
    }
  }

  private func weightOperand(_ operand: MatrixOperand) -> PackedMatrix? {
    let (outputs, inputs) =
      switch operand {
      case .plain(let x): (x.columns, x.rows)
      case .transposed(let x): (x.rows, x.columns)
      }
    let pitch = Self.pitch(inputs)
    guard let memory = working(.weight, outputs * pitch * 2) else { return nil }
    switch operand {
    case .plain(let x): transpose(.transposeElements, to: memory.device, Int32(pitch), x)
    case .transposed(let x):
      launch(
        .convert, flat(inputs, outputs),
        PolarElementwiseArgs(
          out: memory.device, x: x.device, columns: Int32(inputs), out_stride: Int32(pitch),
          x_stride: x.stride, threshold: 0), op: "multiply")
    }
    return PackedMatrix(memory, outputs: outputs, inputs: inputs, format: wideFormat)
  }

  private func transpose(_ kernel: Kernel, to out: PolarAddress, _ stride: Int32, _ x: Tensor) {
    let tile = Int(POLAR_TRANSPOSE_TILE)
    launch(
      kernel,
      LaunchGeometry(
        grid: ceilDiv(x.columns, tile), ceilDiv(x.rows, tile), block: Int(POLAR_TRANSPOSE_THREADS)),
      PolarTransposeArgs(
        out: out, x: x.device, rows: Int32(x.rows), columns: Int32(x.columns), out_stride: stride,
        x_stride: x.stride), op: "multiply")
  }

  // MARK: Losses and updates

  public func addBias(_ x: Tensor, _ bias: Tensor, rectifying: Bool) {
    launch(
      .addBias, flat(x.columns, x.rows),
      PolarPairArgs(
        x: x.device, other: bias.device, columns: Int32(x.columns), x_stride: x.stride, other_stride: 0,
        rectify: rectifying ? 1 : 0), op: "addBias")
  }

  public func maskInactive(_ x: Tensor, _ activations: Tensor) {
    launch(
      .maskInactive, flat(x.columns, x.rows),
      PolarPairArgs(
        x: x.device, other: activations.device, columns: Int32(x.columns), x_stride: x.stride,
        other_stride: activations.stride, rectify: 0), op: "maskInactive")
  }

  public func crossEntropySlopes(
    _ scores: Tensor, bits: Tensor, rows: Tensor, units: Int, negativeWeight: Float
  ) {
    launch(
      .crossEntropySlopes, flat(scores.columns, rows.count),
      PolarSlopesArgs(
        x: scores.device, labels: bits.device, targets: 0, rows: rows.device,
        columns: Int32(scores.columns), units: Int32(units), x_stride: scores.stride,
        labels_stride: bits.stride, targets_stride: 0, negative_weight: negativeWeight),
      op: "crossEntropySlopes")
  }

  public func squaredErrorSlopes(_ scores: Tensor, targets: Tensor, rows: Tensor) {
    launch(
      .squaredErrorSlopes, flat(scores.columns, rows.count),
      PolarSlopesArgs(
        x: scores.device, labels: 0, targets: targets.device, rows: rows.device,
        columns: Int32(scores.columns), units: Int32(targets.columns), x_stride: scores.stride,
        labels_stride: 0, targets_stride: targets.stride, negative_weight: 0), op: "squaredErrorSlopes")
  }

  public func adamW(
    _ parameters: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, update: AdamWUpdate
  ) {
    launch(
      .adamW, flat(parameters.count, 1),
      PolarAdamWArgs(
        parameters: parameters.device, gradient: gradient.device, mean: mean.device, square: square.device,
        count: PolarAddress(parameters.count), beta1: update.beta1, beta2: update.beta2,
        epsilon: update.epsilon, gradient_scale: update.gradientScale, scale: update.scale,
        correction: update.correction, decay: update.decay, reserved: 0),
      op: "adamW")
  }

  public func solveRidge(
    _ out: Tensor, gram: Tensor, cross: Tensor, penalty: Double
  ) throws(PolarError) {
    let (n, units, threads) = (gram.rows, cross.columns, Int(POLAR_RIDGE_THREADS))
    let factor = try allocate(byteCount: (n + units) * n * 8)
    // The factor may go only when it is no longer in use.
    defer { synchronize() }
    var arguments = PolarRidgeArgs(
      matrix: factor.base.device, gram: gram.device, cross: cross.device, out: out.device, penalty: penalty,
      n: Int32(n), units: Int32(units), gram_stride: gram.stride, cross_stride: cross.stride,
      out_stride: out.stride, first: 0)
    launch(.ridgeBegin, flat(n, n + units), arguments, op: "solveRidge")
    for first in stride(from: 0, to: n, by: Int(POLAR_RIDGE_BLOCK)) {
      arguments.first = Int32(first)
      let tiles = ceilDiv(n - first, Int(POLAR_RIDGE_TILE))
      launch(.ridgeFactor, LaunchGeometry(grid: 1, block: threads), arguments, op: "solveRidge")
      launch(
        .ridgePanel,
        LaunchGeometry(
          grid: ceilDiv(n + units - first, Int(POLAR_RIDGE_ROWS)), block: Int(POLAR_RIDGE_ROWS)),
        arguments, op: "solveRidge")
      launch(
        .ridgeUpdate,
        LaunchGeometry(grid: tiles, tiles + ceilDiv(units, Int(POLAR_RIDGE_TILE)), block: threads),
        arguments, op: "solveRidge")
    }
    launch(.ridgeFinish, LaunchGeometry(grid: units, block: threads), arguments, op: "solveRidge")
  }
}
