// The ops are documented where they are declared, in PolarCore.TrainingOps.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

internal import CPolarCPU
public import PolarCore

/// Calibration on the host, for backends whose addresses are the host's pointers. Each op runs on the calling thread: layers
/// are trained in parallel.
public final class HostTrainingOps: TrainingOps {
  /// Ops without state.
  public init() {}

  public var concurrentLayers: Int { .max }
  public var hasOwnMemory: Bool { false }
  public var failure: PolarError? { nil }
  public func prepareTraining() throws(PolarError) {}

  // MARK: Memory

  public func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    guard byteCount >= 0, let pointer = polar_memory_allocate(byteCount) else {
      throw .outOfMemory(what: "memory for calibration", bytes: byteCount)
    }
    return Block(Address(UInt(bitPattern: pointer)), byteCount)
  }

  private final class Block: DeviceMemory {
    let base: Address
    let byteCount: Int

    init(_ base: Address, _ byteCount: Int) {
      self.base = base
      self.byteCount = byteCount
    }

    deinit { polar_memory_free(UnsafeMutableRawPointer(bitPattern: base.bits), byteCount) }
  }

  public func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) {
    guard let source = bytes.baseAddress else { return }
    UnsafeMutableRawPointer(bitPattern: address.bits)?.copyMemory(from: source, byteCount: bytes.count)
  }

  public func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    guard let source = UnsafeRawPointer(bitPattern: address.bits) else { return }
    bytes.baseAddress?.copyMemory(from: source, byteCount: bytes.count)
  }

  // MARK: Recording

  public func turns(_ out: Tensor, _ x: Tensor, _ delta: Tensor) {
    for row in 0..<x.rows {
      let (x, delta) = (x.host(row, as: Float.self), delta.host(row, as: Float.self))
      var (xx, xy, yy) = (0.0, 0.0, 0.0)
      for i in 0..<x.count {
        let (a, b) = (Double(x[i]), Double(x[i]) + Double(delta[i]))
        xx += a * a
        xy += a * b
        yy += b * b
      }
      out.host(0, as: Float.self)[row] = xx > 0 && yy > 0 ? Float(1 - xy / (xx * yy).squareRoot()) : 0
    }
  }

  public func sumRows(_ out: Tensor, _ x: Tensor, rows: Tensor?) {
    let sums = out.host(0, as: Float.self)
    sums.update(repeating: 0)
    let list = rows?.host(0, as: Int32.self)
    for i in 0..<(list?.count ?? x.rows) {
      let row = x.host(list.map { Int($0[i]) } ?? i, as: Float.self)
      for j in 0..<sums.count { sums[j] += row[j] }
    }
  }

  public func storeRows(_ out: Tensor, _ x: Tensor, rows: Tensor) {
    for (i, index) in rows.host(0, as: Int32.self).enumerated() {
      let (row, target) = (x.host(Int(index), as: Float.self), out.host(i, as: UInt16.self))
      for j in 0..<target.count { target[j] = BF16.bits(row[j]) }
    }
  }

  public func packActive(_ out: Tensor, _ x: Tensor, rows: Tensor) {
    for (i, index) in rows.host(0, as: Int32.self).enumerated() {
      let (row, bytes) = (x.host(Int(index), as: Float.self), out.host(i, as: UInt8.self))
      for byte in 0..<bytes.count {
        var bits: UInt8 = 0
        for j in min(row.count, byte * 8)..<min(row.count, byte * 8 + 8) where row[j] != 0 {
          bits |= 1 << UInt8(j & 7)
        }
        bytes[byte] = bits
      }
    }
  }

  // MARK: Training

  public func moments(mean: Tensor, scale: Tensor, of samples: Tensor, step: Int) {
    let (sum, square) = (mean.host(0, as: Float.self), scale.host(0, as: Float.self))
    sum.update(repeating: 0)
    square.update(repeating: 0)
    var taken: Float = 0
    for index in stride(from: 0, to: samples.rows, by: step) {
      let row = samples.host(index, as: UInt16.self)
      for j in 0..<sum.count {
        let value = BF16.value(row[j])
        sum[j] += value
        square[j] += value * value
      }
      taken += 1
    }
    for j in 0..<sum.count {
      sum[j] /= max(1, taken)
      let variance = square[j] / max(1, taken) - sum[j] * sum[j]
      square[j] = variance > 1e-10 ? 1 / variance.squareRoot() : 1
    }
  }

  public func gatherScaled(_ out: Tensor, _ samples: Tensor, rows: Tensor, mean: Tensor, scale: Tensor) {
    let (mean, scale) = (mean.host(0, as: Float.self), scale.host(0, as: Float.self))
    for (i, index) in rows.host(0, as: Int32.self).enumerated() {
      let (row, target) = (samples.host(Int(index), as: UInt16.self), out.host(i, as: Float.self))
      for j in 0..<target.count { target[j] = (BF16.value(row[j]) - mean[j]) * scale[j] }
    }
  }

  public func multiply(_ out: Tensor, _ a: MatrixOperand, _ b: MatrixOperand, adding: Bool) {
    switch b {
    case .plain(let b):
      FloatMatrix.multiply(out, a, b: b.hostBase(as: Float.self), ldb: b.rowStride, accumulate: adding)
    case .transposed(let b):
      // [n, k] -> [k, n]
      let plain = [Float](unsafeUninitializedCapacity: b.count) { plain, count in
        for row in 0..<b.rows {
          let values = b.host(row, as: Float.self)
          for column in 0..<b.columns { plain[column * b.rows + row] = values[column] }
        }
        count = b.count
      }
      plain.withUnsafeBufferPointer { plain in
        guard let base = plain.baseAddress else { return }
        FloatMatrix.multiply(out, a, b: base, ldb: b.rows, accumulate: adding)
      }
    }
  }

  public func addBias(_ x: Tensor, _ bias: Tensor, rectifying: Bool) {
    let bias = bias.host(0, as: Float.self)
    for row in 0..<x.rows {
      let values = x.host(row, as: Float.self)
      for j in 0..<values.count {
        let value = values[j] + bias[j]
        values[j] = rectifying ? max(0, value) : value
      }
    }
  }

  public func maskInactive(_ x: Tensor, _ activations: Tensor) {
    for row in 0..<x.rows {
      let (values, activations) = (x.host(row, as: Float.self), activations.host(row, as: Float.self))
      for j in 0..<values.count { values[j] = activations[j] > 0 ? values[j] : 0 }
    }
  }

  public func crossEntropySlopes(
    _ scores: Tensor, bits: Tensor, rows: Tensor, units: Int, negativeWeight: Float
  ) {
    let places = SIMD8<Int32>(0, 1, 2, 3, 4, 5, 6, 7)
    for (i, index) in rows.host(0, as: Int32.self).enumerated() {
      let (labels, slopes) = (bits.host(Int(index), as: UInt8.self), scores.host(i, as: Float.self))
      let whole = slopes.count & ~7
      for j in stride(from: 0, to: whole, by: 8) {
        let at = UnsafeMutableRawPointer(slopes.baseAddress! + j)
        let label = SIMD8<Float>((SIMD8(repeating: Int32(labels[j >> 3])) &>> places) & 1)
        let weight = negativeWeight + (1 - negativeWeight) * label
        let score = at.loadUnaligned(as: SIMD8<Float>.self)
        at.storeBytes(of: (Math.sigmoid(score) - label) * weight, as: SIMD8<Float>.self)
      }
      for j in whole..<slopes.count {
        let label: Float = labels[j >> 3] >> UInt8(j & 7) & 1 == 1 ? 1 : 0
        let sigmoid = Math.sigmoid(SIMD8(repeating: slopes[j]))[0]
        slopes[j] = (sigmoid - label) * (label > 0 ? 1 : negativeWeight)
      }
      for j in units..<max(units, slopes.count) { slopes[j] = 0 }
    }
  }

  public func squaredErrorSlopes(_ scores: Tensor, targets: Tensor, rows: Tensor) {
    for (i, index) in rows.host(0, as: Int32.self).enumerated() {
      let (targets, slopes) = (targets.host(Int(index), as: Float.self), scores.host(i, as: Float.self))
      for j in 0..<targets.count { slopes[j] -= targets[j] }
      for j in targets.count..<max(targets.count, slopes.count) { slopes[j] = 0 }
    }
  }

  public func adamW(
    _ parameters: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, update: AdamWUpdate
  ) {
    let (p, g) = (parameters.hostBase(as: Float.self), gradient.hostBase(as: Float.self))
    let (m, v) = (mean.hostBase(as: Float.self), square.hostBase(as: Float.self))
    let (b1, b2, epsilon) = (update.beta1, update.beta2, update.epsilon)
    let (scale, correction, decay) = (update.scale, update.correction, update.decay)
    for i in 0..<parameters.count {
      let gradient = g[i] * update.gradientScale
      m[i] = b1 * m[i] + (1 - b1) * gradient
      v[i] = b2 * v[i] + (1 - b2) * gradient * gradient
      p[i] = p[i] * decay - scale * m[i] / ((v[i] * correction).squareRoot() + epsilon)
    }
  }

  public func solveRidge(
    _ out: Tensor, gram: Tensor, cross: Tensor, penalty: Double
  ) throws(PolarError) {
    func doubles(_ tensor: Tensor) -> [Double] {
      (0..<tensor.rows).flatMap { tensor.host($0, as: Float.self).lazy.map(Double.init) }
    }
    let solution = FloatMatrix.solve(
      matrix: doubles(gram), ridge: penalty, rhs: doubles(cross), n: gram.rows, columns: cross.columns)
    for row in 0..<out.rows {
      let target = out.host(row, as: Float.self)
      for j in 0..<target.count { target[j] = Float(solution[row * target.count + j]) }
    }
  }
}

/// bf16 as bits.
enum BF16 {
  /// The nearest bf16, ties to even; NaN stays NaN.
  @inline(__always) static func bits(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    if value.isNaN { return UInt16(truncatingIfNeeded: bits >> 16) | 0x40 }
    return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
  }

  /// The value of a bf16.
  @inline(__always) static func value(_ bits: UInt16) -> Float { Float(bitPattern: UInt32(bits) << 16) }
}

extension Tensor {
  /// The first element, in the host's memory.
  func hostBase<Element>(as type: Element.Type) -> UnsafeMutablePointer<Element> {
    guard let pointer = UnsafeMutablePointer<Element>(bitPattern: address.bits) else {
      preconditionFailure("a tensor at address 0")
    }
    return pointer
  }

  /// Row `index`, in the host's memory.
  func host<Element>(_ index: Int, as type: Element.Type) -> UnsafeMutableBufferPointer<Element> {
    UnsafeMutableBufferPointer(start: hostBase(as: type) + index * rowStride, count: columns)
  }
}
