/// How far a backend's results may lie from the reference, by op. This is the one place where that is fixed.
///
/// An error is measured against the largest magnitude in its row of the reference result (or the floor that the case
/// gives, where a row may cancel to almost nothing): `|got - want| <= tolerance * max(max_j |want_j|, floor)`.
///
/// Weights, table entries, K, V and queries of the cases are representable in bf16, so that storing them in bf16 is
/// exact and what remains is the order of f32 sums and the approximation of elementary functions.
public enum Tolerance {
  /// Moves, comparisons and single f32 operations: bit for bit.
  public static let exact: Float = 0

  /// A dot product of at most 1090 f32 products, summed in f32 in any order. Measured against `sqrt(K) / 3`, the typical
  /// size of such a sum, rounding adds up to about `sqrt(K) * 2^-24 = 2e-6`; seven times that is allowed.
  public static let linear: Float = 1.5e-5

  /// A linear layer on quantised weights. The codes of the activations are fixed by ``WeightFormat`` and the sum of a
  /// group's products is an exact integer, so that what remains is the f32 sum over the groups, as in ``linear``.
  public static let linearQuantized: Float = linear

  /// ``linear`` with activations that bf16 cannot represent, on a backend that rounds them to bf16 (as the AVX-512 and
  /// AMX bf16 instructions need): up to 2^-8 each, random in sign, so that a sum is off by a fraction of 2^-8.
  public static let linearRounded: Float = 0x1p-8

  /// Norms over at most 576 elements: an f32 sum and a reciprocal square root that may come from a Newton step.
  public static let norm: Float = 1e-5

  /// SiLU and GELU by polynomial approximations of `exp` and `erf` with an absolute error near 1e-6.
  public static let activation: Float = 1e-5

  /// Rotary embedding at positions up to 1100: the angle itself is an f32 product, whose rounding is
  /// 1100 * 2^-24 = 6.6e-5 radians.
  public static let rotary: Float = 1e-4

  /// Softmax attention in f32: dot products as in ``linear``, an `exp` with a relative error near 1e-6, and f32 sums.
  public static let attention: Float = 2e-5

  /// Attention on a backend that rounds activations to bf16: softmax weights (and queries, where bf16 cannot represent
  /// them) are off by up to 2^-9 each, random in sign. An element of a row in which few keys matter is off by up to
  /// 2^-8 of |V|, which may be several times what is left of a sum that cancels: the worst of the suite's rows was off
  /// by 1.01 * 2^-7 of the row's largest element.
  public static let attentionRounded: Float = 3 * 0x1p-8

  /// Attention over an i8 cache, measured against the values that its codes and scales stand for: queries may be integers
  /// of 16 bits relative to their largest element (off by 2^-17 of it, times `sqrt(headDim)` random terms of a score),
  /// weights of 15 bits relative to the largest so far of up to 512 tokens (off by 2^-15 of it at most, random in sign).
  public static let attentionInt8: Float = 5e-4

  /// A number stored as i8, relative to the largest of its vector: half a step of a scale that is up to 2^-7 too large.
  public static let storedInt8: Float = 0.5 / 127 * (1 + 0x1p-7)

  /// Norms of heads, and the square root of a Gram form of up to 128 * 128 terms, in f32.
  public static let headMeasures: Float = 2e-5

  /// Weights, K and V that bf16 cannot represent, relative to each value: half of the 2^-7 between neighbours,
  /// since they are rounded to the nearest.
  public static let storedRounding: Float = 0x1p-8
}
