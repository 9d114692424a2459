import PolarCore

/// Samples with the moments that standardise their inputs.
struct TrainingData: Sendable {
  let samples: LayerSamples
  let ops: any TrainingOps
  /// `[inputs]`.
  let mean: [Float]
  let scale: [Float]
  private let means: OwnedTensor
  private let scales: OwnedTensor
  /// 0, 1, 2, ...
  private let inOrder: OwnedTensor

  /// Samples standardised by the moments of the first `tokens`, or scaled alone.
  init(_ samples: LayerSamples, tokens: Int, centred: Bool = true) throws(PolarError) {
    self.samples = samples
    ops = samples.ops
    let sums = try OwnedTensor(columns: samples.inputs, on: ops)
    scales = try OwnedTensor(columns: samples.inputs, on: ops)
    // A few thousand evenly spaced tokens give moments that are good to a few per cent, which is all scaling needs.
    ops.moments(
      mean: sums.tensor, scale: scales.tensor, of: samples.inputRows(0..<tokens), step: max(1, tokens / 4096))
    scale = scales.read()
    if centred {
      mean = sums.read()
      means = sums
    } else {
      mean = Array(repeating: 0, count: samples.inputs)
      means = try OwnedTensor(columns: samples.inputs, on: ops)
    }
    inOrder = try OwnedTensor(columns: max(1, samples.count), dtype: .i32, on: ops)
    inOrder.write((0..<Int32(samples.count)).map { $0 })
  }

  /// The standardised inputs of the listed tokens, as many columns as `out` has.
  func gather(_ out: Tensor, rows: Tensor) {
    ops.gatherScaled(
      out, samples.inputRows(0..<samples.count), rows: rows, mean: means.tensor, scale: scales.tensor)
  }

  /// The token list `range`.
  func list(_ range: Range<Int>) -> Tensor { inOrder.tensor.columns(range) }
}

/// The steps of minibatch descent: every epoch a new order of all tokens, cut into batches, at a rate that falls by half a
/// cosine from `rate` to 0.
struct Minibatches {
  let tokens: Int
  let epochs: Int
  let batch: Int
  let rate: Float
  let seed: UInt64

  /// One step.
  struct Step {
    /// The tokens.
    let tokens: ArraySlice<Int32>
    /// The same where routers are trained.
    let rows: Tensor
    let rate: Float
  }

  /// Calls `body` for each step in order, and `epochEnded` after each epoch; false ends training.
  func forEach(
    on ops: any TrainingOps, _ body: (Step) -> Void,
    epochEnded: () throws(PolarError) -> Bool = { () throws(PolarError) in true }
  ) throws(PolarError) {
    var generator = SplitMix64(seed: seed ^ 0x5EED)
    var order = (0..<Int32(tokens)).map { $0 }
    let rows = try OwnedTensor(columns: max(1, tokens), dtype: .i32, on: ops)
    // The lists may go only when they are no longer in use.
    defer { rows.wait() }
    let steps = (tokens + batch - 1) / batch
    for epoch in 0..<epochs {
      order.shuffle(using: &generator)
      rows.write(order)
      for step in 0..<steps {
        let range = step * batch..<min(tokens, (step + 1) * batch)
        let progress = Double(epoch * steps + step) / Double(epochs * steps)
        body(
          Step(
            tokens: order[range], rows: rows.tensor.columns(range),
            rate: rate * Float(0.5 * (1 + Math.cos(.pi * progress)))))
      }
      guard try epochEnded() else { return }
    }
  }
}

/// Parameters under training, with their gradient and AdamW's moments.
struct Trainee {
  let values: OwnedTensor
  /// What the backward pass leaves.
  let gradient: OwnedTensor
  private let mean: OwnedTensor
  private let square: OwnedTensor
  private let ops: any TrainingOps
  private var step = 0

  init(_ values: [Float], rows: Int = 1, on ops: any TrainingOps) throws(PolarError) {
    self.values = try OwnedTensor(values, rows: rows, on: ops)
    let columns = self.values.tensor.columns
    gradient = try OwnedTensor(rows: rows, columns: columns, on: ops)
    mean = try OwnedTensor(rows: rows, columns: columns, on: ops)
    square = try OwnedTensor(rows: rows, columns: columns, on: ops)
    self.ops = ops
  }

  /// One update at a learning rate; the gradient is a sum over `batch` tokens.
  mutating func update(rate: Float, batch: Int) {
    step += 1
    ops.adamW(
      values.tensor, gradient: gradient.tensor, mean: mean.tensor, square: square.tensor,
      update: AdamWUpdate(step: step, rate: rate, gradientScale: 1 / Float(batch)))
  }
}
