/// What a gated MLP applies to its gate.
public enum GateActivation: Sendable, Equatable {
  /// `x * sigmoid(x)`, see ``Backend/siluMul(_:_:)``.
  case silu
  /// x where it is greater than the threshold, else 0, see ``Backend/reluMul(_:_:threshold:)``.
  case relu(threshold: Float)
}

/// A device that computes: about twenty named ops over plain tensor views.
///
/// Ops write into outputs they are given, never allocate, and may assume that shapes fit (the model and the loader
/// check shapes once, at load). Activations are f32; an op's `out` may not alias an input unless its comment says so.
/// A row of an op's result depends on that row's inputs alone, bit for bit: results do not change with the batch.
public protocol Backend: AnyObject, Sendable {
  /// A short name such as `cpu-avx2`.
  var name: String { get }
  /// The element type K and V are stored in.
  var kvDType: DType { get }
  /// The element type of neuron-major MLP weights (see ``selectiveUp(_:_:weight:bias:threshold:neurons:)``).
  var neuronDType: DType { get }
  /// Elements from one row to the next of neuron-major MLP weights of `columns` columns.
  func neuronStride(columns: Int) -> Int
  /// The order in which K and V are stored.
  var kvLayout: KVLayout { get }
  /// Whether decode and prefill attention of the same row agree bit for bit, so that a preempted request goes on with the
  /// very same text. Where they do not, they differ by rounding.
  var prefillMatchesDecode: Bool { get }
  /// Asks, once per model and at load, whether the backend can run attention of this shape, and makes it ready to.
  /// - Throws: ``PolarError/configuration(field:reason:)`` when it cannot.
  func prepare(_ shape: AttentionShape) throws(PolarError)

  // MARK: Memory

  /// Zeroed memory, 64-byte aligned.
  func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory
  /// Bytes of the backend's own memory that are free; nil where it is the host's.
  var availableMemory: Int? { get }
  /// Copies host bytes into device memory.
  func upload(_ bytes: UnsafeRawBufferPointer, to address: Address)
  /// Copies device memory into host bytes.
  func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer)
  /// Where the host reads the backend's memory in place, once earlier work is done; nil where it must ``download(_:into:)``.
  func hostPointer(_ address: Address) -> UnsafeRawPointer?
  /// Waits until all earlier work is done (a no-op on a synchronous backend).
  func synchronize()

  // MARK: Weights

  /// The 16-bit format of weights that are not quantised: bf16, or f16.
  var wideFormat: WeightFormat { get }
  /// The formats that weights may have; ``wideFormat`` is one of them.
  var weightFormats: Set<WeightFormat> { get }
  /// Bytes of a weight `[outputs, inputs]` in the backend's own layout. `inputs` must be even.
  func packedByteCount(outputs: Int, inputs: Int, format: WeightFormat) -> Int
  /// Stores rows `firstRow ..< firstRow + values.count / inputs` of a weight from row-major f32 values, rounded or
  /// quantised to the weight's format. Different rows may be packed at the same time.
  ///
  /// Quantising takes a scale that is rounded to f16, and then the nearest codes: for int8 `scale = max |w| / 127`; for
  /// int4 `w / -8` of the w with the largest magnitude; for int4Affine `minimum = min w`,
  /// `scale = (max w - minimum) / 15`.
  func packRows(_ weight: PackedMatrix, firstRow: Int, values: UnsafeBufferPointer<Float>)
  /// Stores rows that are given as ggml's blocks of the weight's format (see ``WeightFormat/blockByteCount``), row after
  /// row, without loss. Inputs are a multiple of 32. Different rows may be packed at the same time.
  func packBlocks(_ weight: PackedMatrix, firstRow: Int, blocks: UnsafeRawBufferPointer)
  /// Reads rows back as row-major f32 (rounded as stored).
  func unpackRows(_ weight: PackedMatrix, firstRow: Int, into values: UnsafeMutableBufferPointer<Float>)

  // MARK: Dense ops

  /// `out[i, :] = table[tokens[i], :]`; tokens i32 `[rows]`, out f32 `[rows, inputs]`.
  func embed(_ out: Tensor, tokens: Tensor, table: PackedMatrix)
  /// `out[i, :] = x[indices[i], :]`; indices i32 `[n]`, out f32 `[n, d]`.
  func gatherRows(_ out: Tensor, _ x: Tensor, indices: Tensor)
  /// `out = x / sqrt(mean(x^2) + epsilon) * weight`, by row; weight f32 `[d]`. `out` may be `x`.
  func rmsNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, epsilon: Float)
  /// `residual += delta; out = rmsNorm(residual)`.
  func addRMSNorm(_ out: Tensor, residual: Tensor, delta: Tensor, weight: Tensor, epsilon: Float)
  /// ``rmsNorm(_:_:weight:epsilon:)`` in place of each of the first `heads` vectors in each row of `x`
  /// `[rows, >= heads * headDim]`; weight f32 `[headDim]`, the same for all heads.
  func headRMSNorm(_ x: Tensor, weight: Tensor, epsilon: Float, heads: Int)
  /// `out = (x - mean) / sqrt(variance + epsilon) * weight + bias`, by row. `out` may be `x`.
  func layerNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Float)
  /// `out[i, n] = sum_k x[i, k] * weight[n, k] + bias[n]`; x f32 `[rows, inputs]`, out f32 `[rows, outputs]`.
  func linear(_ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?)
  /// `out[i, j] = silu(gateUp[i, j]) * gateUp[i, n + j]`; gateUp `[rows, 2n]`, out `[rows, n]`.
  func siluMul(_ out: Tensor, _ gateUp: Tensor)
  /// `out[i, j] = gateUp[i, j] > threshold ? gateUp[i, j] * gateUp[i, n + j] : 0`; gateUp `[rows, 2n]`, out `[rows, n]`.
  func reluMul(_ out: Tensor, _ gateUp: Tensor, threshold: Float)
  /// A linear layer to `[rows, 2n]`, gate then up, and the product of both with the gate's activation: what
  /// ``linear(_:_:weight:bias:)`` and then ``siluMul(_:_:)`` or ``reluMul(_:_:threshold:)`` compute, bit for bit.
  /// - Parameters:
  ///   - out: receives f32 `[rows, n]`.
  ///   - x: f32 `[rows, inputs]`.
  ///   - weight: `[2n, inputs]`.
  ///   - bias: f32 `[2n]`; nil is zero.
  ///   - scratch: f32 `[rows, 2n]`, undefined afterwards.
  func linearGated(
    _ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?, activation: GateActivation,
    scratch: Tensor)
  /// `x = max(x, 0)` in place.
  func relu(_ x: Tensor)
  /// `x = gelu(x)` in place, the exact (erf) form.
  func gelu(_ x: Tensor)
  /// `x += y`.
  func add(_ x: Tensor, _ y: Tensor)

  // MARK: Attention

  /// Rotary embedding of queries and keys (half-split pairing `(j, j + headDim / 2)`, as Hugging Face stores weights), and
  /// of keys and values to their slots in the cache, as ``storeKV(_:key:value:slots:)`` writes them.
  ///
  /// A vector's pair j turns by `positions[row] * inverseFrequencies[j]`. Queries are rotated in place; the keys' columns
  /// are undefined afterwards.
  /// - Parameters:
  ///   - x: f32 `[rows, (heads + 2 * kv.kvHeads) * headDim]`: queries, keys, values side by side.
  ///   - heads: heads of the queries, a multiple of `kv.kvHeads`.
  ///   - positions: i32 `[rows]`.
  ///   - inverseFrequencies: f32 `[headDim / 2]`.
  ///   - slots: i32 `[rows]`.
  func rotaryStoreKV(
    _ kv: KVLayer, _ x: Tensor, heads: Int, positions: Tensor, inverseFrequencies: Tensor, slots: Tensor)
  /// Writes `key` and `value` (f32 `[rows, kvHeads * headDim]`) to their slots in the cache.
  func storeKV(_ kv: KVLayer, key: Tensor, value: Tensor, slots: Tensor)
  /// Causal attention of every row over its sequence's cached K and V up to and including its own position.
  /// query, out f32 `[rows, heads * headDim]`; heads are a multiple of `kv.kvHeads`.
  func prefillAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, span: AttentionSpan)
  /// Attention of one row per sequence. With `heads == nil` it is dense. With a selection, only the pages of the
  /// selected heads' groups, and the local pages of the others, are read; with every head selected the result equals
  /// the dense one bit for bit, and both equal ``prefillAttention(_:query:kv:batch:scale:span:)`` of the same row where
  /// ``prefillMatchesDecode``.
  func decodeAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, heads: ActiveHeads?)

  // MARK: Routing

  /// Selects the `k` units of each row with the largest scores; ties go to the lower index.
  /// scores f32 `[rows, units]`; mask u8 `[rows, units * headsPerUnit]`.
  func selectTopK(_ mask: Tensor, scores: Tensor, k: Int, headsPerUnit: Int)
  /// Selects the units whose score is greater than `threshold`.
  func selectAbove(_ mask: Tensor, scores: Tensor, threshold: Float, headsPerUnit: Int)
  /// The most likely token of each row: `tokens[i]` = the lowest index of the largest logit of row i; -1 when one is NaN or
  /// the largest is not finite. tokens i32 `[rows]`, logits f32 `[rows, vocabulary]`.
  func argmax(_ tokens: Tensor, logits: Tensor)
  /// A router and its choice: the scores of `router` in `scores`, and in `mask` what
  /// ``selectTopK(_:scores:k:headsPerUnit:)`` or ``selectAbove(_:scores:threshold:headsPerUnit:)`` makes of them.
  /// - Parameters:
  ///   - mask: receives u8 `[rows, units * headsPerUnit]`.
  ///   - scores: receives f32 `[rows, units]`.
  ///   - x: f32 `[rows, inputs]`.
  ///   - scratch: f32 `[rows, router.scratchColumns]`, undefined afterwards; nil where the router has no hidden layer.
  func routeHeads(
    _ mask: Tensor, scores: Tensor, _ x: Tensor, router: HeadRouterMatrices, scratch: Tensor?,
    choice: ScoreChoice, headsPerUnit: Int)
  /// `out[i, h] = || attention[i, h, :] ||`; attention f32 `[rows, heads * headDim]`, out f32 `[rows, heads]`.
  func headNorms(_ out: Tensor, attention: Tensor)
  /// What replacing a head's output by a fallback changes, relative to the residual stream:
  /// `out[i, h] = sqrt(d' G_h d) / || residual[i, :] ||`, `d = attention[i, h, :] - fallback[i, h, :]`,
  /// with `G_h = W_o,h' W_o,h` f32 `[heads * headDim, headDim]`. `fallback` nil is zero.
  func headDeviations(_ out: Tensor, attention: Tensor, fallback: Tensor?, gram: Tensor, residual: Tensor)

  // MARK: Selective MLP

  // Weights of these ops are row-major tensors of `neuronDType`, one contiguous row per neuron, `neuronStride` apart
  // (see ``neuronWeight(_:neurons:columns:)``).
  // `neurons` nil means every neuron in order; a list of every neuron gives the same bits. Entry j of `neurons` is
  // neuron `n = neurons.indices[j]`, and only `j < neurons.count` are computed or read; the count is read on the device.
  // Given the list, a row of a result depends on that row's inputs alone, bit for bit.

  /// The first half of a ReLU MLP, compact. With `a = bias[0, n] + sum_k x[i, k] * weight[n, k]`:
  /// `out[i, j] = a > threshold ? a : 0`.
  ///
  /// Gated when a row of `weight` is two rows of `x` long, gate then up. With
  /// `b = bias[1, n] + sum_k x[i, k] * weight[n, hidden + k]`: `out[i, j] = a > threshold ? a * b : 0`.
  /// - Parameters:
  ///   - out: f32 `[rows, >= capacity]`; columns from the count on are undefined afterwards.
  ///   - x: f32 `[rows, hidden]`; `hidden` is even.
  ///   - weight: `[allNeurons, hidden]`, or gated `[allNeurons, 2 * hidden]`.
  ///   - bias: f32 `[1, allNeurons]`, or gated `[2, allNeurons]`; nil is zero.
  ///   - threshold: at least 0; 0 is ReLU, more is FATReLU.
  ///   - neurons: capacity at most `allNeurons`; `out` then has at least `capacity` columns, else `allNeurons`.
  func selectiveUp(
    _ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor?, threshold: Float, neurons: ActiveNeurons?)
  /// The second half: `out[i, d] = bias[d] + sum_j h[i, j] * weight[n, d]`, with no entry: the bias alone.
  /// - Parameters:
  ///   - out: f32 `[rows, hidden]`.
  ///   - h: f32 `[rows, >= capacity]`, compact as ``selectiveUp(_:_:weight:bias:threshold:neurons:)`` leaves it.
  ///   - weight: the down-projection transposed, `[allNeurons, hidden]`.
  ///   - bias: f32 `[hidden]`; nil is zero.
  ///   - neurons: as in the first half.
  func selectiveDown(_ out: Tensor, _ h: Tensor, weight: Tensor, bias: Tensor?, neurons: ActiveNeurons?)
  /// The published aggregate (Polar Sparsity, section 4.1): sums every neuron's positive scores over the batch and
  /// takes the `k` neurons of largest sum, ties to the lower index. A neuron that no row scores above zero is never
  /// taken, so that fewer than `k` may be.
  /// - Parameters:
  ///   - neurons: receives the list, ascending, and its count; capacity at least `min(k, allNeurons)`.
  ///   - sums: receives `sums[n] = sum_i max(scores[i, n], 0)`, rows added in order from 0: f32 `[allNeurons]`.
  ///   - scores: f32 `[rows, allNeurons]`; NaN counts as zero.
  func topKUnion(_ neurons: ActiveNeurons, sums: Tensor, scores: Tensor, k: Int)
  /// The true union: the neurons that at least one row scores above `threshold`.
  /// - Parameters:
  ///   - neurons: receives the list, ascending, and its count; capacity `allNeurons`.
  ///   - peaks: receives `peaks[n] = max_i scores[i, n]`, f32 `[allNeurons]`.
  ///   - scores: f32 `[rows, allNeurons]`, `rows >= 1`; NaN counts as minus infinity.
  func unionAbove(_ neurons: ActiveNeurons, peaks: Tensor, scores: Tensor, threshold: Float)
  /// The last product of a neuron router and its choice: the list of ``topKUnion(_:sums:scores:k:)`` (`largest`) or of
  /// ``unionAbove(_:peaks:scores:threshold:)`` (`above`) of the scores `x weight'`.
  /// - Parameters:
  ///   - neurons: receives the list, with the capacity that those ops ask for.
  ///   - x: f32 `[rows, rank]`, `rows >= 1`.
  ///   - weight: `[allNeurons, rank]`.
  ///   - scores: scratch f32 `[rows, allNeurons]`, undefined afterwards.
  ///   - aggregate: scratch f32 `[allNeurons]`, undefined afterwards.
  func routeNeurons(
    _ neurons: ActiveNeurons, _ x: Tensor, weight: PackedMatrix, scores: Tensor, aggregate: Tensor,
    choice: ScoreChoice)

  // MARK: Order, replay and failure

  /// Runs `side` and `main`, at the same time where the backend can; what follows sees the results of both.
  ///
  /// Neither may use what the other writes, and workspace that `side` takes must not be released before `overlap`
  /// returns. A backend without streams runs `side`, then `main`.
  func overlap(side: () -> Void, main: () -> Void)
  /// Whether ``record(_:)`` records; a batch is then padded to one of few sizes.
  var recordsWork: Bool { get }
  /// Records the ops of `body` so that they can be run again at a fraction of the cost of issuing them. The ops read
  /// their tensors anew at every replay, but keep the addresses, shapes and scalar arguments of the recording.
  ///
  /// Returns nil, without having called `body`, on a backend that gains nothing from it. `body` itself computes nothing:
  /// call ``RecordedWork/replay()`` for that. It must neither allocate, copy to or from the host, nor synchronise.
  func record(_ body: () -> Void) -> (any RecordedWork)?
  /// Chooses tokens where the logits are; nil on a backend whose logits the host can read at once.
  var tokenDrawing: (any TokenDrawing)? { get }
  /// What calibration does on the device; nil on a backend whose addresses are the host's pointers: there the host does it.
  var training: (any TrainingOps)? { get }
  /// The first error of the device that an op could not report; from then on results mean nothing. Nil while all is well.
  var failure: PolarError? { get }
}

/// Ops that a backend has recorded (see ``Backend/record(_:)``).
public protocol RecordedWork: AnyObject, Sendable {
  /// Runs the recorded ops, in order with all other work of the backend.
  func replay()
}

extension Backend {
  /// The order of ``KVLayer``.
  public var kvLayout: KVLayout { .byHead }
  /// The host's.
  public var availableMemory: Int? { nil }
  /// Bit for bit.
  public var prefillMatchesDecode: Bool { true }
  /// Every shape will do.
  public func prepare(_ shape: AttentionShape) throws(PolarError) {}

  /// One op after the other.
  public func linearGated(
    _ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?, activation: GateActivation,
    scratch: Tensor
  ) {
    linearThenGate(out, x, weight: weight, bias: bias, activation: activation, scratch: scratch)
  }

  /// ``linearGated(_:_:weight:bias:activation:scratch:)`` by the two ops that it stands for.
  public func linearThenGate(
    _ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?, activation: GateActivation,
    scratch: Tensor
  ) {
    linear(scratch, x, weight: weight, bias: bias)
    switch activation {
    case .silu: siluMul(out, scratch)
    case .relu(let threshold): reluMul(out, scratch, threshold: threshold)
    }
  }

  /// Runs `side`, then `main`.
  public func overlap(side: () -> Void, main: () -> Void) {
    side()
    main()
  }

  /// False.
  public var recordsWork: Bool { false }
  /// Records nothing.
  public func record(_ body: () -> Void) -> (any RecordedWork)? { nil }

  /// The host chooses.
  public var tokenDrawing: (any TokenDrawing)? { nil }

  /// The host calibrates.
  public var training: (any TrainingOps)? { nil }

  /// Memory is the device's own by default.
  public func hostPointer(_ address: Address) -> UnsafeRawPointer? { nil }

  /// Ops of a backend that computes on the host do not fail.
  public var failure: PolarError? { nil }
}

extension Backend {
  /// bf16.
  public var wideFormat: WeightFormat { .bf16 }

  /// The neuron-major weight `[neurons, columns]` that lies at `address`, in ``neuronByteCount(neurons:columns:)`` bytes.
  public func neuronWeight(_ address: Address, neurons: Int, columns: Int) -> Tensor {
    Tensor(
      address, rows: neurons, columns: columns, rowStride: neuronStride(columns: columns),
      dtype: neuronDType)
  }

  /// Bytes of a neuron-major weight `[neurons, columns]`.
  public func neuronByteCount(neurons: Int, columns: Int) -> Int {
    neurons * neuronStride(columns: columns) * neuronDType.byteCount
  }

  /// Bytes of a weight `[outputs, inputs]` of ``wideFormat`` in the backend's own layout.
  public func packedByteCount(outputs: Int, inputs: Int) -> Int {
    packedByteCount(outputs: outputs, inputs: inputs, format: wideFormat)
  }
}
