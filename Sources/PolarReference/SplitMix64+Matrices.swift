public import PolarCore

extension SplitMix64 {
  /// A uniform number in `-1 ..< 1`, exactly representable in bf16 when `bf16` is true.
  public mutating func symmetric(bf16: Bool = true) -> Float {
    let value = Float(Int32(truncatingIfNeeded: next() >> 32) >> 8) * 0x1p-23
    return bf16 ? value.roundedToBF16 : value
  }

  /// A matrix of ``symmetric(bf16:)`` numbers times `scale` (a power of two keeps them representable).
  public mutating func matrix(
    _ rows: Int, _ columns: Int, scale: Float = 1, bf16: Bool = true
  ) -> HostTensor<Float> {
    var values: [Float] = []
    values.reserveCapacity(rows * columns)
    for _ in 0..<rows * columns { values.append(symmetric(bf16: bf16) * scale) }
    return HostTensor(values, rows: rows, columns: columns)
  }
}

extension Float {
  /// The nearest number with bfloat16's eight significant bits; ties go to even.
  public var roundedToBF16: Float {
    guard isFinite else { return self }
    let bits = bitPattern
    return Float(bitPattern: (bits &+ 0x7fff &+ (bits >> 16 & 1)) & 0xffff_0000)
  }
}
