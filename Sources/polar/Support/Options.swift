public import ArgumentParser
import Foundation
import Polar
import PolarCore
import PolarEngine
public import PolarFormats
public import PolarSparsity

/// Which model, on what, with which profile.
struct ModelOptions: ParsableArguments {
  @Argument(help: "A GGUF file, or a folder with config.json, *.safetensors and tokenizer.json.")
  var model: String

  @Option(
    help: """
      Weights in memory: bf16, f16 (GPU), int8 or q4; as stored in the file by default (4-bit blocks stay \
      4-bit, wider blocks become int8; f16 files stay f16 on a GPU).
      """)
  var weights: WeightPrecision = .stored

  @OptionGroup var place: DeviceOptions

  @Option(
    name: .customLong("kv"),
    help:
      "How K and V are stored: bf16 (f16 with f16 weights), or int8 with a scale per token and head (CPU).")
  var kvFormat = KVFormat.bf16

  var threads: Int? { place.threads }
  var url: URL { URL(fileURLWithPath: model) }
  var device: Device { place.device }

  /// The device's backend for this model.
  func makeBackend() throws(PolarError) -> any Backend {
    try device.makeBackend(kv: kvFormat, weights: weights, model: url)
  }
}

/// Where to compute.
struct DeviceOptions: ParsableArguments {
  @Option(
    name: .customLong("device"),
    help: "automatic (default: a GPU that can be used, else the CPU), cpu, cuda or cuda:N.")
  var deviceName = "automatic"

  @Option(help: "Threads of the CPU to compute with; all cores by default.")
  var threads: Int?

  var device: Device { Device(deviceName, threads: threads) ?? .automatic }

  func validate() throws {
    guard Device(deviceName) != nil else {
      throw ValidationError("--device: '\(deviceName)' is not automatic, cpu, cuda or cuda:N")
    }
    if let threads, !(1...1024).contains(threads) {
      throw ValidationError("--threads: must be between 1 and 1024, is \(threads)")
    }
  }
}

/// Which sparsity profile, what of it, and at which density.
struct SparsityOptions: ParsableArguments {
  @Option(help: "A sparsity profile made by `polar calibrate`; without one decoding is dense.")
  var profile: String?

  @Option(help: "What is sparse: dense, mlp, heads or polar (both); as the profile says by default.")
  var sparsity: SparsityMode?

  @Option(
    help: "Mean fraction of heads computed in full, over 0 and at most 1; the profile's own by default.")
  var density: Double?

  @Option(help: "How heads are chosen: adaptive (default) or paper (top-k by norm, others zero).")
  var heads: HeadMode = .adaptive

  func validate() throws {
    if profile == nil, density != nil {
      throw ValidationError("--density needs --profile")
    }
    if profile == nil, heads != .adaptive {
      throw ValidationError("--heads \(heads.rawValue) needs --profile")
    }
    if profile == nil, let sparsity, sparsity != .dense {
      throw ValidationError("--sparsity \(sparsity.rawValue) needs --profile")
    }
  }

  var setting: SparsitySetting? {
    profile.map {
      SparsitySetting(
        profile: URL(fileURLWithPath: $0), mode: sparsity, density: density, heads: heads)
    }
  }
}

extension HeadMode: ExpressibleByArgument {}
extension KVFormat: ExpressibleByArgument {}
extension SparsityMode: ExpressibleByArgument {}

/// How tokens are chosen.
struct SamplingOptions: ParsableArguments {
  @Option(name: [.customShort("n"), .long], help: "The most tokens to generate.")
  var maxTokens = 128
  @Option(help: "0 takes the most likely token.")
  var temperature: Float = 0
  @Option(help: "Keep the K most likely tokens; 0 keeps all.")
  var topK = 0
  @Option(help: "Keep the most likely tokens up to this probability.")
  var topP: Float = 1
  @Option(help: "Keep tokens at least this many times as likely as the most likely one.")
  var minP: Float = 0
  @Option(help: "Penalty on tokens that occurred; 1 is none.")
  var repetitionPenalty: Float = 1
  @Option(help: "Penalty on tokens in the output.")
  var presencePenalty: Float = 0
  @Option(help: "Penalty on each occurrence in the output.")
  var frequencyPenalty: Float = 0
  @Option(help: "Makes sampling repeatable.")
  var seed: UInt64?
  @Option(help: "A string that ends the text; may be given more than once.")
  var stop: [String] = []
  @Flag(help: "Go on after the model's end token.")
  var ignoreEos = false

  var parameters: SamplingParameters {
    SamplingParameters(
      maxTokens: maxTokens, temperature: temperature, topK: topK, topP: topP, minP: minP,
      repetitionPenalty: repetitionPenalty, presencePenalty: presencePenalty,
      frequencyPenalty: frequencyPenalty, seed: seed, stop: stop, ignoreEOS: ignoreEos)
  }
}

extension WeightPrecision: ExpressibleByArgument {}
