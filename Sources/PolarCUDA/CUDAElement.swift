package import PolarCore

/// What weights, K and V are on a GPU, and what activations are rounded to as operands of products.
public enum CUDAElement: String, Sendable, CaseIterable {
  /// bfloat16: the range of f32 with 8 significant bits.
  case bf16
  /// IEEE half precision: 11 significant bits, up to 65504. For models that were trained and stored in it.
  case f16

  package var dtype: DType { self == .f16 ? .f16 : .bf16 }
  package var weightFormat: WeightFormat { self == .f16 ? .f16 : .bf16 }

  /// The macro that kernels are compiled with.
  var define: String { "POLAR_ELEMENT_F16=\(self == .f16 ? 1 : 0)" }

  /// The nearest element, ties to even; NaN stays NaN.
  @inline(__always) func bits(_ value: Float) -> UInt16 {
    if self == .f16 { return Float16(value).bitPattern }
    let bits = value.bitPattern
    if value.isNaN { return UInt16(truncatingIfNeeded: bits >> 16) | 0x40 }
    return UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ (bits >> 16 & 1)) >> 16)
  }

  /// The value of an element.
  @inline(__always) func float(_ bits: UInt16) -> Float {
    self == .f16 ? Float(Float16(bitPattern: bits)) : Float(bitPattern: UInt32(bits) << 16)
  }
}
