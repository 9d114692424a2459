internal import PolarCore

/// A linear layer: weight `[outputs, inputs]` and, where the family has one, a bias f32 `[outputs]`.
struct Linear: BitwiseCopyable, Sendable {
  let weight: PackedMatrix
  let bias: Tensor?

  /// `out = x weight' + bias`; x `[rows, inputs]`, out `[rows, outputs]`.
  func callAsFunction(_ out: Tensor, _ x: Tensor, on backend: any Backend) {
    backend.linear(out, x, weight: weight, bias: bias)
  }
}
