public import PolarCore

/// Times linear layers by themselves, on weights that come from memory, as fractions of the limit that binds.
public struct LinearBench {
  /// One shape, format and batch.
  public struct Row: Sendable, Codable {
    /// Outputs of the layer.
    public var outputs: Int
    /// Inputs of the layer.
    public var inputs: Int
    /// How the weights are stored.
    public var format: String
    /// Rows of activations.
    public var batch: Int
    /// Median seconds of one call.
    public var seconds: Double
    /// Bytes of packed weights.
    public var bytes: Int
    /// GB/s at which weights are read.
    public var bandwidth: Double
    /// GFLOP/s, or GOP/s of quantised weights.
    public var arithmetic: Double
    /// The larger of the least times for bytes and for operations, over the measured time.
    public var fractionOfLimit: Double
    /// `memory` or `arithmetic`: what the least time is made of.
    public var limit: String
  }

  private let backend: any Backend
  private let limits: MachineLimits

  /// A bench on `backend`, whose machine has `limits`.
  public init(_ backend: any Backend, limits: MachineLimits) {
    self.backend = backend
    self.limits = limits
  }

  /// Times `[outputs, inputs]` in one format at every batch size, `rounds` times in turn. Weights rotate over at least
  /// `coldBytes`.
  public func run(
    outputs: Int, inputs: Int, format: WeightFormat, batches: [Int], rounds: Int, coldBytes: Int = 300 << 20
  ) throws(PolarError) -> [Row] {
    let bytes = backend.packedByteCount(outputs: outputs, inputs: inputs, format: format)
    let copies = max(1, (coldBytes + bytes - 1) / bytes)
    let most = batches.reduce(1, max)
    let weights = try backend.allocate(byteCount: copies * bytes)
    let activations = try backend.allocate(byteCount: most * (inputs + outputs) * DType.f32.byteCount)
    let matrices = (0..<copies).map {
      PackedMatrix(
        weights.base.advanced(by: $0 * bytes), outputs: outputs, inputs: inputs, format: format)
    }
    fill(matrices)
    let x = (0..<most * inputs).map { Float($0 * 40503 >> 3 & 2047) / 1024 - 1 }
    x.withUnsafeBytes { backend.upload($0, to: activations.base) }
    let behind = activations.base.advanced(by: most * inputs * DType.f32.byteCount)

    var next = 0
    var samples = batches.map { _ in [Double]() }
    for _ in 0..<rounds {
      for (index, batch) in batches.enumerated() {
        let input = Tensor(activations.base, rows: batch, columns: inputs)
        let out = Tensor(behind, rows: batch, columns: outputs)
        // Several calls in one timing where a call is short; one before them takes what the last case left in caches.
        let calls = min(64, max(1, 40_000_000 / (2 * batch * inputs * outputs)))
        func call() {
          backend.linear(out, input, weight: matrices[next % copies], bias: nil)
          next += 1
        }
        call()
        samples[index].append(seconds { for _ in 0..<calls { call() } } / Double(calls))
      }
    }
    return withExtendedLifetime((weights, activations)) {
      zip(batches, samples).map { batch, samples in
        row(
          Double(2 * batch) * Double(inputs * outputs), median(samples), bytes: bytes, batch: batch,
          matrices[0])
      }
    }
  }

  /// Packs small numbers into the first copy and copies them to the others.
  private func fill(_ matrices: [PackedMatrix]) {
    let first = matrices[0]
    var values = [Float](repeating: 0, count: first.inputs)
    for row in 0..<first.outputs {
      for column in values.indices {
        values[column] = Float((row &* 131 &+ column &* 7919) % 2001 - 1000) / 1000
      }
      values.withUnsafeBufferPointer { backend.packRows(first, firstRow: row, values: $0) }
    }
    let bytes = backend.packedByteCount(
      outputs: first.outputs, inputs: first.inputs, format: first.format)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
    defer { buffer.deallocate() }
    backend.download(first.address, into: buffer)
    for copy in matrices.dropFirst() {
      backend.upload(UnsafeRawBufferPointer(buffer), to: copy.address)
    }
  }

  private func row(
    _ operations: Double, _ seconds: Double, bytes: Int, batch: Int, _ matrix: PackedMatrix
  ) -> Row {
    let peak = matrix.format == .bf16 ? limits.arithmeticPeak : limits.integerPeak
    let memory = Double(bytes) / (limits.readBandwidth * 1e9)
    let arithmetic = operations / (peak * 1e9)
    return Row(
      outputs: matrix.outputs, inputs: matrix.inputs, format: "\(matrix.format)", batch: batch,
      seconds: seconds, bytes: bytes, bandwidth: Double(bytes) / seconds / 1e9,
      arithmetic: operations / seconds / 1e9, fractionOfLimit: max(memory, arithmetic) / seconds,
      limit: memory >= arithmetic ? "memory" : "arithmetic")
  }
}
