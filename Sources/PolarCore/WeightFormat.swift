/// How a packed weight holds its values.
///
/// All but bf16 and f16 are in groups of ``groupSize`` inputs of one output, as ggml's block formats named here. Backends
/// multiply them with activations that they quantise on the way, each row by itself, to 8 bits. ``superblockSize`` inputs share a
/// scale `s = max(max |x|, 2^-57) / 127`, which is halved for a group of 32 as often as its own values allow, up to 24 times:
/// `code = round(x / (s * 2^-k))`, ties to even, with the largest k for which no code exceeds 127.
@frozen public enum WeightFormat: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// bfloat16.
  case bf16
  /// `scale * code`, f16 scale, codes -128...127 (Q8_0).
  case int8
  /// `scale * (code - 8)`, f16 scale, codes 0...15 (Q4_0).
  case int4
  /// `scale * code + minimum`, f16 scale and minimum, codes 0...15 (Q4_1).
  case int4Affine
  /// IEEE half precision.
  case f16

  /// Inputs that share a scale.
  public static let groupSize = 32

  /// Inputs whose activations share a scale, but for powers of two.
  public static let superblockSize = 128

  /// Bytes of one group in ggml's block of this format; nil for bf16 and f16, which have none.
  ///
  /// A block is the scale (and the minimum) followed by the codes: one byte each, or, for 4 bits, 16 bytes of which byte
  /// i holds code i in its low and code 16 + i in its high half.
  @inlinable public var blockByteCount: Int? {
    switch self {
    case .bf16, .f16: nil
    case .int8: 34
    case .int4: 18
    case .int4Affine: 20
    }
  }
}
