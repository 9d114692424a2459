/// What calibration asks of a device beside the ops of a forward pass: to reduce what is recorded, so that little of it
/// crosses the bus, and to train routers.
///
/// As with ``Backend``, ops write into outputs they are given and shapes fit; every sum has a fixed order, so that the same
/// calls give the same bits. Ops may be called from several threads at a time; those of one thread take effect in order.
/// Tensors are f32 unless said otherwise, row lists i32 `[1, n]`. A device may round the operands of matrix products to bf16
/// (as it does in ``Backend/linear(_:_:weight:bias:)``); sums are f32.
public protocol TrainingOps: AnyObject, Sendable {
  /// How many layers may be trained at the same time: what the device gains from, and has memory for.
  var concurrentLayers: Int { get }
  /// Whether recorded inputs lie in memory of the device's own rather than the host's.
  var hasOwnMemory: Bool { get }
  /// Makes all of these ops ready. To be called once before the others.
  func prepareTraining() throws(PolarError)
  /// Zeroed memory, 64-byte aligned. It must not be freed before work that uses it is done; ``download(_:into:)`` waits.
  func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory
  /// Copies host bytes to the device.
  func upload(_ bytes: UnsafeRawBufferPointer, to address: Address)
  /// Waits for earlier work, then copies from the device.
  func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer)
  /// The first error of the device that an op could not report; from then on results mean nothing.
  var failure: PolarError? { get }

  // MARK: Recording

  /// How far adding `delta` turns each row of `x`: `out[i] = 1 - cos(x[i, :], x[i, :] + delta[i, :])`, 0 where either is
  /// zero; out `[1, rows]`.
  func turns(_ out: Tensor, _ x: Tensor, _ delta: Tensor)
  /// `out[j] = sum of x[i, j]` over the listed rows, or all of them, in order; out `[1, columns]`.
  func sumRows(_ out: Tensor, _ x: Tensor, rows: Tensor?)
  /// `out[i, :] = x[rows[i], :]`, rounded to nearest even; out bf16 `[n, columns]`.
  func storeRows(_ out: Tensor, _ x: Tensor, rows: Tensor)
  /// Which elements of the listed rows are not zero: bit `j % 8` of `out[i, j / 8]` is `x[rows[i], j] != 0`, bits past the
  /// last column are 0; out u8 `[n, bytes]`, rows and their distance whole 8-byte words.
  func packActive(_ out: Tensor, _ x: Tensor, rows: Tensor)

  // MARK: Training

  /// Mean and reciprocal standard deviation of every column over each `step`-th row, or 1 where a column hardly varies;
  /// samples bf16 `[tokens, columns]`, outputs `[1, columns]`.
  func moments(mean: Tensor, scale: Tensor, of samples: Tensor, step: Int)
  /// `out[i, j] = (samples[rows[i], j] - mean[j]) * scale[j]`; samples bf16, out `[n, columns]`.
  func gatherScaled(_ out: Tensor, _ samples: Tensor, rows: Tensor, mean: Tensor, scale: Tensor)
  /// `out = a b`, or `out += a b` when `adding`; a `[m, k]`, b `[k, n]`, out `[m, n]`, which is neither of them.
  func multiply(_ out: Tensor, _ a: MatrixOperand, _ b: MatrixOperand, adding: Bool)
  /// `x[i, j] += bias[j]`, and then `max(0, _)` when `rectifying`.
  func addBias(_ x: Tensor, _ bias: Tensor, rectifying: Bool)
  /// `x[i, j] = 0` where `activations[i, j]` is not above 0: back through a ReLU.
  func maskInactive(_ x: Tensor, _ activations: Tensor)
  /// Turns scores into the derivatives by them of the weighted binary cross-entropy, summed over rows, in place.
  /// Element (i, j) has the label `bits[rows[i]]`, bit j, weight 1 where that is 1, else `negativeWeight`. Columns from
  /// `units` on become 0. bits u8 as ``packActive(_:_:rows:)`` makes them.
  func crossEntropySlopes(_ scores: Tensor, bits: Tensor, rows: Tensor, units: Int, negativeWeight: Float)
  /// The same for half the squared distance to `targets[rows[i], j]`; targets `[tokens, units]`.
  func squaredErrorSlopes(_ scores: Tensor, targets: Tensor, rows: Tensor)
  /// One update by AdamW (Loshchilov and Hutter 2019) of contiguous parameters; `mean` and `square` are the moments.
  func adamW(_ parameters: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, update: AdamWUpdate)
  /// Solves `(gram + penalty I) out = cross` for a symmetric positive `gram` `[n, n]`, in double precision; cross and out
  /// `[n, columns]`.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)`` when the factor does not fit.
  func solveRidge(_ out: Tensor, gram: Tensor, cross: Tensor, penalty: Double) throws(PolarError)
}

/// A matrix as it lies in memory, or its transpose.
@frozen public enum MatrixOperand: BitwiseCopyable, Sendable {
  /// As it lies.
  case plain(Tensor)
  /// Columns for rows.
  case transposed(Tensor)
}

/// The numbers of one update by AdamW, `g` being the gradient times ``gradientScale``:
/// `m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; p = decay p - scale m / (sqrt(correction v) + epsilon)`.
@frozen public struct AdamWUpdate: BitwiseCopyable, Sendable, Equatable {
  /// Decay of the first moment.
  public var beta1: Float = 0.9
  /// Decay of the second moment.
  public var beta2: Float = 0.999
  /// What a zero second moment is divided by.
  public var epsilon: Float = 1e-8
  /// What makes a mean over a batch of gradients that are sums over it. Sums keep their operands where 16 bits hold them.
  public var gradientScale: Float
  /// Learning rate over `1 - beta1^t`.
  public var scale: Float
  /// `1 / (1 - beta2^t)`.
  public var correction: Float
  /// 1 less the learning rate times the weight decay.
  public var decay: Float

  /// The update of step `step`, from 1.
  public init(step: Int, rate: Float, gradientScale: Float = 1, weightDecay: Float = 0.01) {
    self.gradientScale = gradientScale
    var (power1, power2): (Float, Float) = (1, 1)
    for _ in 0..<min(step, 10_000) {
      power1 *= beta1
      power2 *= beta2
    }
    scale = rate / (1 - power1)
    correction = 1 / (1 - power2)
    decay = 1 - rate * weightDecay
  }
}
