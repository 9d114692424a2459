/// AdamW (Loshchilov and Hutter 2019) over one flat array of parameters.
struct AdamW {
  private var mean: [Float]
  private var square: [Float]
  private var step = 0
  private let beta1: Float = 0.9
  private let beta2: Float = 0.999
  private let weightDecay: Float

  /// Moments for `count` parameters.
  init(count: Int, weightDecay: Float = 0.01) {
    mean = Array(repeating: 0, count: count)
    square = Array(repeating: 0, count: count)
    self.weightDecay = weightDecay
  }

  /// One update of `parameters` by `gradient` at a learning rate.
  mutating func update(_ parameters: inout [Float], gradient: [Float], rate: Float) {
    step += 1
    var (power1, power2): (Float, Float) = (1, 1)
    for _ in 0..<min(step, 10_000) {
      power1 *= beta1
      power2 *= beta2
    }
    let scale = rate / (1 - power1)
    let correction = 1 / (1 - power2)
    let decay = 1 - rate * weightDecay
    let (b1, b2) = (beta1, beta2)
    parameters.withUnsafeMutableBufferPointer { p in
      gradient.withUnsafeBufferPointer { g in
        mean.withUnsafeMutableBufferPointer { m in
          square.withUnsafeMutableBufferPointer { v in
            for i in 0..<p.count {
              m[i] = b1 * m[i] + (1 - b1) * g[i]
              v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i]
              p[i] = p[i] * decay - scale * m[i] / ((v[i] * correction).squareRoot() + 1e-8)
            }
          }
        }
      }
    }
  }
}
