import PolarCore
import Testing

@testable import PolarFormats

@Suite struct DequantizerTests {
  private func expand(_ tensor: GGUF.Tensor, _ gguf: GGUF) throws -> [Float] {
    let count = tensor.shape.reduce(1, *)
    return try gguf.file.withBytes(tensor.range) { bytes in
      [Float](unsafeUninitializedCapacity: count) { buffer, initialised in
        Dequantizer.expand(
          tensor.encoding, bytes, into: UnsafeMutableBufferPointer(rebasing: buffer[..<count]))
        initialised = count
      }
    }
  }

  /// The fixture holds blocks of random bits and what the `gguf` Python package makes of them.
  @Test(arguments: ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
  func equalsTheReference(_ format: String) throws {
    let gguf = try GGUF(path: Fixtures.quants)
    let stored = try #require(gguf.tensors.first { $0.name == "stored." + format })
    let reference = try #require(gguf.tensors.first { $0.name == "expected." + format })
    #expect(stored.encoding.rawValue == format)
    #expect(reference.encoding == .f32)
    #expect(stored.shape == [3, 512])
    let values = try expand(stored, gguf)
    let expected = try expand(reference, gguf)
    #expect(Set(expected).count > 100)
    #expect(values.map(\.bitPattern) == expected.map(\.bitPattern))
  }

  @Test func halvesOfEveryBitPattern() {
    for bits in UInt16.min...UInt16.max {
      let value = Dequantizer.half(bits)
      let reference = Float(Float16(bitPattern: bits))
      #expect(value.isNaN ? reference.isNaN : value.bitPattern == reference.bitPattern)
    }
  }

  @Test func byteCountsAreChecked() {
    #expect(WeightEncoding.q41.byteCount(values: 64) == 40)
    #expect(WeightEncoding.q41.byteCount(values: 63) == nil)
    #expect(WeightEncoding.q6K.byteCount(values: 512) == 420)
    #expect(WeightEncoding.f32.byteCount(values: .max) == nil)
    #expect(WeightEncoding.f32.byteCount(values: -1) == nil)
    #expect(WeightEncoding.f32.byteCount(values: 0) == 0)
  }
}
