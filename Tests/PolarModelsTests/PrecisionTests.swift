import Foundation
import PolarCore
import PolarFormats
import PolarModels
import Testing

@Suite struct PrecisionTests {
  private func logits(
    _ name: String, _ precision: WeightPrecision, _ device: Device
  ) throws -> (values: [Float], bytes: Int) {
    let golden = try Golden(name)
    let backend = try device.make()
    let model = try ModelRegistry.make(
      config: golden.file.config, reader: WeightReader(golden.file, precision: precision),
      backend: backend)
    let session = try Session(model, on: backend)
    let values = try session.run([
      .init(sequence: 0, tokens: (0..<20).map { $0 * 5 % 96 }), .init(sequence: 1, tokens: [7, 3, 90]),
    ])
    return (values.flatMap { $0 }, model.weightByteCount)
  }

  private func difference(_ a: [Float], _ b: [Float]) -> Float {
    let squares = zip(a, b).reduce(0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
    return Float((squares / Double(a.count)).squareRoot())
  }

  /// Weights of 8 and 4 bits, a tied table and stacked tensors among them: both backends agree as far as their K and V
  /// do, and results are as far from bf16's as the width lets expect. Logits have a standard deviation of 3.
  @Test(arguments: ["llama-gqa-tied", "opt"])
  func narrowWeights(name: String) throws {
    let wide = try logits(name, .bf16, .cpu)
    for (precision, worst): (WeightPrecision, Float) in [(.int8, 0.2), (.q4, 1.5)] {
      let fast = try logits(name, precision, .cpu)
      let exact = try logits(name, precision, .reference)
      #expect(difference(fast.values, exact.values) < 0.15, "\(precision)")
      let loss = difference(exact.values, wide.values)
      #expect(loss > 1e-3 && loss < worst, "\(precision)")
      #expect(fast.bytes < wide.bytes, "\(precision)")
    }
  }
}
