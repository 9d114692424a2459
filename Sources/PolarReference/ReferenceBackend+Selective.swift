// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

public import PolarCore

extension ReferenceBackend {
  public var neuronDType: DType { .f32 }
  public func neuronStride(columns: Int) -> Int { columns }

  public func selectiveUp(
    _ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor?, threshold: Float, neurons: ActiveNeurons?
  ) {
    let hidden = x.columns
    let gated = weight.columns == 2 * hidden
    for (j, n) in list(neurons, of: weight.rows).enumerated() {
      for i in 0..<x.rows {
        let first = dot(x.f32(i), weight.f32(n), hidden) + Double(bias?.f32(0)[n] ?? 0)
        var factor: Float = 1
        if gated {
          factor = Float(dot(x.f32(i), weight.f32(n) + hidden, hidden) + Double(bias?.f32(1)[n] ?? 0))
        }
        // Rounded where the dense ops round, so that a list of every neuron gives their bits.
        out.f32(i)[j] = Float(first) > threshold ? Float(first) * factor : 0
      }
    }
  }

  public func selectiveDown(
    _ out: Tensor, _ h: Tensor, weight: Tensor, bias: Tensor?, neurons: ActiveNeurons?
  ) {
    let list = list(neurons, of: weight.rows)
    for i in 0..<out.rows {
      var sums = [Double](repeating: 0, count: out.columns)
      for (j, n) in list.enumerated() {
        for d in 0..<out.columns { sums[d] += Double(h.f32(i)[j]) * Double(weight.f32(n)[d]) }
      }
      for d in 0..<out.columns { out.f32(i)[d] = Float(sums[d] + Double(bias?.f32(0)[d] ?? 0)) }
    }
  }

  public func topKUnion(_ neurons: ActiveNeurons, sums: Tensor, scores: Tensor, k: Int) {
    let sum = sums.f32(0)
    for n in 0..<scores.columns {
      sum[n] = 0
      for i in 0..<scores.rows where scores.f32(i)[n] > 0 { sum[n] += scores.f32(i)[n] }
    }
    let positive = (0..<scores.columns).filter { sum[$0] > 0 }
    let order = positive.sorted { a, b in sum[a] > sum[b] || (sum[a] == sum[b] && a < b) }
    store(order.prefix(k).sorted(), in: neurons)
  }

  public func unionAbove(_ neurons: ActiveNeurons, peaks: Tensor, scores: Tensor, threshold: Float) {
    let peak = peaks.f32(0)
    for n in 0..<scores.columns {
      peak[n] = -.infinity
      for i in 0..<scores.rows where scores.f32(i)[n] > peak[n] { peak[n] = scores.f32(i)[n] }
    }
    store((0..<scores.columns).filter { peak[$0] > threshold }, in: neurons)
  }

  private func list(_ neurons: ActiveNeurons?, of all: Int) -> [Int] {
    guard let neurons else { return Array(0..<all) }
    let count = Int(neurons.count.i32(0)[0])
    return (0..<count).map { Int(neurons.indices.i32(0)[$0]) }
  }

  private func store(_ list: [Int], in neurons: ActiveNeurons) {
    for (j, n) in list.enumerated() { neurons.indices.i32(0)[j] = Int32(n) }
    neurons.count.i32(0)[0] = Int32(list.count)
  }
}
