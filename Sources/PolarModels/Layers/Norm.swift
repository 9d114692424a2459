internal import PolarCore
internal import PolarFormats

/// Root-mean-square normalisation (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + epsilon) * weight`.
struct RMSNorm: BitwiseCopyable, Sendable {
  /// f32 `[width]`.
  let weight: Tensor
  let epsilon: Float

  /// Loads `prefix.weight`, of `width` elements (nil: the hidden size).
  init(
    _ loader: WeightLoader, _ prefix: String, width: Int? = nil, _ config: ModelConfig
  ) throws(PolarError) {
    weight = try loader.vector([(prefix + ".weight", width ?? config.hidden)])
    epsilon = config.normEpsilon
  }

  /// `out = norm(x)`; both `[rows, hidden]`, `out` may be `x`.
  func callAsFunction(_ out: Tensor, _ x: Tensor, on backend: any Backend) {
    backend.rmsNorm(out, x, weight: weight, epsilon: epsilon)
  }

  /// Normalises each of `heads` vectors at the start of each row of `x`, in place.
  func callAsFunction(heads: Int, of x: Tensor, on backend: any Backend) {
    backend.headRMSNorm(x, weight: weight, epsilon: epsilon, heads: heads)
  }

  /// `residual += delta; out = norm(residual)`; all `[rows, hidden]`.
  func callAsFunction(_ out: Tensor, residual: Tensor, adding delta: Tensor, on backend: any Backend) {
    backend.addRMSNorm(out, residual: residual, delta: delta, weight: weight, epsilon: epsilon)
  }
}

/// Layer normalisation with weight and bias: `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
struct LayerNorm: BitwiseCopyable, Sendable {
  /// f32 `[hidden]`.
  let weight: Tensor
  /// f32 `[hidden]`.
  let bias: Tensor
  let epsilon: Float

  /// Loads `prefix.weight` and `prefix.bias`.
  init(_ loader: WeightLoader, _ prefix: String, _ config: ModelConfig) throws(PolarError) {
    weight = try loader.vector([(prefix + ".weight", config.hidden)])
    bias = try loader.vector([(prefix + ".bias", config.hidden)])
    epsilon = config.normEpsilon
  }

  /// `out = norm(x)`; both `[rows, hidden]`, `out` may be `x`.
  func callAsFunction(_ out: Tensor, _ x: Tensor, on backend: any Backend) {
    backend.layerNorm(out, x, weight: weight, bias: bias, epsilon: epsilon)
  }
}
