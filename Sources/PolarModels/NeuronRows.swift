internal import PolarCore

/// A neuron-major weight while it is read from a file: a host copy in the backend's dtype, uploaded when complete.
final class NeuronRows {
  /// `[neurons, width]` in the backend's memory.
  let tensor: Tensor
  private let backend: any Backend
  private var halves: [UInt16] = []
  private var floats: [Float] = []

  /// Reserves the tensor's memory with `take`; the host copy is made by the first value that is stored.
  init(take: (Int) -> Address, _ backend: any Backend, neurons: Int, width: Int) {
    tensor = backend.neuronWeight(
      take(backend.neuronByteCount(neurons: neurons, columns: width)), neurons: neurons, columns: width)
    self.backend = backend
  }

  /// Stores consecutive values of one row, at `column` and on.
  func store(_ values: Slice<UnsafeBufferPointer<Float>>, row: Int, from column: Int) {
    store(values, first: row * tensor.rowStride + column, step: 1)
  }

  /// Stores one column, a value for each neuron.
  func store(_ values: Slice<UnsafeBufferPointer<Float>>, column: Int) {
    store(values, first: column, step: tensor.rowStride)
  }

  private func store(_ values: Slice<UnsafeBufferPointer<Float>>, first: Int, step: Int) {
    if tensor.dtype == .f16 {
      if halves.isEmpty { halves = Array(repeating: 0, count: tensor.rows * tensor.rowStride) }
      var index = first
      for value in values {
        halves[index] = Float16(value).bitPattern
        index += step
      }
    } else if tensor.dtype == .bf16 {
      if halves.isEmpty { halves = Array(repeating: 0, count: tensor.rows * tensor.rowStride) }
      halves.withUnsafeMutableBufferPointer { halves in
        var index = first
        for value in values {
          // Weights are finite, so that rounding to nearest even needs no care for NaN.
          let bits = value.bitPattern
          halves[index] = UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ (bits >> 16 & 1)) >> 16)
          index &+= step
        }
      }
    } else {
      if floats.isEmpty { floats = Array(repeating: 0, count: tensor.rows * tensor.rowStride) }
      var index = first
      for value in values {
        floats[index] = value
        index += step
      }
    }
  }

  /// Copies what was stored to the backend and gives the host copy back.
  func upload() {
    if tensor.dtype != .f32 {
      halves.withUnsafeBytes { backend.upload($0, to: tensor.address) }
    } else {
      floats.withUnsafeBytes { backend.upload($0, to: tensor.address) }
    }
    halves = []
    floats = []
  }
}
