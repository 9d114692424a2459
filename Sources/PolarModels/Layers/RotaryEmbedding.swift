internal import Foundation
internal import PolarCore
internal import PolarFormats

/// Rotary position embedding (Su et al. 2021), half-split pairing, with the frequencies of one model.
struct RotaryEmbedding: BitwiseCopyable, Sendable {
  /// f32 `[headDim / 2]`.
  let inverseFrequencies: Tensor

  /// Computes the frequencies that `config` asks for.
  init(_ loader: WeightLoader, _ config: ModelConfig) {
    inverseFrequencies = loader.constant(Self.frequencies(config))
  }

  /// The angle per position of each pair: `theta^(-2j / headDim)`, then scaled as the model says.
  ///
  /// Llama 3 keeps wavelengths below `originalContext / highFrequencyFactor`, divides those above
  /// `originalContext / lowFrequencyFactor` by `factor`, and blends linearly (in turns per original context) between.
  private static func frequencies(_ config: ModelConfig) -> [Float] {
    (0..<config.headDim / 2).map { pair in
      let base = pow(config.ropeTheta, -2 * Double(pair) / Double(config.headDim))
      switch config.ropeScaling {
      case .none: return Float(base)
      case .linear(let factor): return Float(base / factor)
      case .factors(let factors): return Float(base / factors[pair])
      case .llama3(let factor, let low, let high, let originalContext):
        let turns = Double(originalContext) * base / (2 * Double.pi)
        if turns > high { return Float(base) }
        if turns < low { return Float(base / factor) }
        let kept = (turns - low) / (high - low)
        return Float((1 - kept) * base / factor + kept * base)
      }
    }
  }
}
