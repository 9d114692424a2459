import PolarFormats
import PolarSparsity

extension ShapeBench.Shape {
  /// The shapes that Polar Sparsity (arXiv 2505.14884) reports, with its densities and the mean sizes of its published lists of
  /// neurons.
  public static let published: [ShapeBench.Shape] = [
    opt("opt-6.7b", layers: 32, hidden: 4096, heads: 32, density: 0.5, neurons: opt6B),
    opt("opt-30b", layers: 48, hidden: 7168, heads: 56, density: 0.4, neurons: opt30B),
    // All of it does not fit on one device: three layers stand for 64.
    opt("opt-66b", layers: 64, hidden: 9216, heads: 72, density: 0.3, neurons: opt66B, sampled: 3),
    llama("llama-2-7b", layers: 32, hidden: 4096, heads: 32, kvHeads: 32, intermediate: 11008, 32000, 0.5),
    llama("llama-2-13b", layers: 40, hidden: 5120, heads: 40, kvHeads: 40, intermediate: 13824, 32000, 0.5),
    llama(
      "llama-3.1-8b", layers: 32, hidden: 4096, heads: 32, kvHeads: 8, intermediate: 14336, 128256, 0.625),
    llama("mistral-7b", layers: 32, hidden: 4096, heads: 32, kvHeads: 8, intermediate: 14336, 32000, 0.5),
    llama(
      "llama-3.1-70b", layers: 80, hidden: 8192, heads: 64, kvHeads: 8, intermediate: 28672, 128256, 0.625,
      sampled: 3),
  ]

  /// The same kinds of model at a size that a test runs in a second.
  public static let tiny: [ShapeBench.Shape] = [
    opt(
      "tiny-opt", layers: 3, hidden: 64, heads: 4, density: 0.5, neurons: [(1, 64), (64, 128)],
      vocabulary: 128),
    opt(
      "tiny-opt-sampled", layers: 8, hidden: 64, heads: 4, density: 0.5, neurons: [(64, 64)], sampled: 3,
      vocabulary: 128),
    llama("tiny-llama", layers: 2, hidden: 64, heads: 8, kvHeads: 4, intermediate: 96, 128, 0.5),
  ]

  private static let opt6B = [
    (1, 1564), (2, 2500), (4, 3380), (8, 4744), (16, 6516), (32, 8472), (48, 9540), (64, 10208), (128, 11588),
    (256, 12656),
  ]
  private static let opt30B = [
    (1, 2155), (2, 2808), (4, 4035), (8, 5984), (16, 8707), (32, 12000), (48, 13944), (64, 15197),
    (128, 17595), (256, 19376),
  ]
  private static let opt66B = [
    (1, 2768), (2, 2932), (4, 4272), (8, 6454), (16, 9686), (32, 13770), (48, 16308), (64, 18058),
    (128, 21444), (256, 23628),
  ]

  private static func opt(
    _ name: String, layers: Int, hidden: Int, heads: Int, density: Double, neurons: [(Int, Int)],
    sampled: Int? = nil, vocabulary: Int = 50272
  ) -> ShapeBench.Shape {
    let config = ModelConfig(
      architecture: .opt, hidden: hidden, layers: layers, heads: heads, kvHeads: heads,
      headDim: hidden / heads, intermediate: 4 * hidden, vocabulary: vocabulary, context: 2048,
      normEpsilon: 1e-5, activation: .relu, tiedEmbeddings: true, qkvBias: true, outputBias: true,
      mlpBias: true, embeddingDim: hidden)
    return ShapeBench.Shape(
      name: name, config: config, headDensity: density,
      neurons: neurons.map { NeuronSparsity.Budget(batch: $0.0, neurons: $0.1) }, sampledLayers: sampled)
  }

  private static func llama(
    _ name: String, layers: Int, hidden: Int, heads: Int, kvHeads: Int, intermediate: Int, _ vocabulary: Int,
    _ density: Double, sampled: Int? = nil
  ) -> ShapeBench.Shape {
    let config = ModelConfig(
      architecture: .llama, hidden: hidden, layers: layers, heads: heads, kvHeads: kvHeads,
      headDim: hidden / heads, intermediate: intermediate, vocabulary: vocabulary, context: 8192,
      normEpsilon: 1e-5, activation: .silu, ropeTheta: 500_000, tiedEmbeddings: false, qkvBias: false,
      outputBias: false, mlpBias: false, embeddingDim: hidden)
    return ShapeBench.Shape(name: name, config: config, headDensity: density, sampledLayers: sampled)
  }
}
