public import Foundation
public import PolarBench
import PolarCPU
import PolarCUDA
public import PolarCore
public import PolarFormats
import PolarReference
public import PolarSparsity

/// Where a model runs. This target is the only one that names concrete backends.
public enum Device: Sendable, Equatable {
  /// The first NVIDIA GPU where there is one that can be used, else the CPU.
  case automatic
  /// The CPU, with this many threads (all cores when nil).
  case cpu(threads: Int? = nil)
  /// An NVIDIA GPU, by its number. With `batchInvariant` a row's result is the same in every batch, at some cost.
  case cuda(ordinal: Int = 0, batchInvariant: Bool = false)
  /// The slow, obvious f32 backend that others are checked against.
  case reference

  /// The device's backend, which stores K and V as `kv` says.
  ///
  /// A GPU computes in bf16, or in f16 with `weights` f16 and for a `model` whose file is mostly f16.
  /// - Throws: what is wrong with the model's file, ``PolarError/configuration(field:reason:)`` for a thread count that makes no sense or a GPU with int8, and
  ///   ``PolarError/device(name:reason:)`` when a GPU, its driver or the compiler of its kernels is missing.
  public func makeBackend(
    kv: KVFormat = .bf16, weights: WeightPrecision = .stored, model: URL? = nil
  ) throws(PolarError) -> any Backend {
    switch self {
    case .automatic:
      guard kv == .bf16, CUDAReport().isUsable else {
        return try Device.cpu().makeBackend(kv: kv, weights: weights)
      }
      return try Device.cuda().makeBackend(weights: weights, model: model)
    case .cuda where kv == .int8:
      throw .configuration(field: "kv", reason: "GPUs store K and V in 16 bits only")
    case .cuda(let ordinal, let batchInvariant):
      let element = try Self.element(weights: weights, model: model)
      return try CUDABackend(
        ordinal: ordinal, options: .init(batchInvariant: batchInvariant, element: element))
    case .cpu where weights == .f16:
      throw .configuration(
        field: "weights", reason: "the CPU has no f16 weights; it keeps those of f16 files as bf16")
    case .cpu(let threads): return try CPUBackend(threads: threads, kvDType: kv.dtype)
    case .reference: return ReferenceBackend(kvDType: kv.dtype)
    }
  }

  /// What a GPU computes in: f16 where it is asked for or where most of the model's file is f16, else bf16.
  static func element(weights: WeightPrecision, model: URL?) throws(PolarError) -> CUDAElement {
    if weights == .f16 { return .f16 }
    guard weights == .stored, let model else { return .bf16 }
    let tensors = try ModelFile.open(model).tensors
    let half = tensors.reduce(0) { $1.dtype == WeightEncoding.f16.rawValue ? $0 + $1.byteCount : $0 }
    return 2 * half > tensors.reduce(0) { $0 + $1.byteCount } ? .f16 : .bf16
  }

  /// The device of a name: `automatic`, `cpu`, `cuda`, `cuda:1`, `reference`. Nil for anything else.
  /// - Parameter threads: of the CPU; all cores when nil.
  public init?(_ name: String, threads: Int? = nil) {
    switch name {
    case "automatic": self = threads == nil ? .automatic : .cpu(threads: threads)
    case "cpu": self = .cpu(threads: threads)
    case "reference": self = .reference
    case "cuda": self = .cuda()
    default:
      guard name.hasPrefix("cuda:"), let ordinal = Int(name.dropFirst(5)), ordinal >= 0 else { return nil }
      self = .cuda(ordinal: ordinal)
    }
  }

  /// GB/s (bytes read and written) at which a GPU copies within its memory; GB/s at which the CPU reads.
  public static func measureCopyBandwidth(
    _ backend: any Backend, byteCount: Int = 4 << 30
  ) throws(PolarError) -> Double {
    if let cuda = backend as? CUDABackend { return try cuda.measuredCopyBandwidth(byteCount: byteCount) }
    return (backend as? CPUBackend)?.measuredReadBandwidth(byteCount: byteCount) ?? 0
  }

  /// Measures what the CPU can do at best; takes about a second.
  public static func measureLimits(threads: Int? = nil) throws(PolarError) -> MachineLimits {
    let backend = try CPUBackend(threads: threads)
    return MachineLimits(
      readBandwidth: backend.measuredReadBandwidth(), arithmeticPeak: backend.measuredFMAPeak(),
      integerPeak: backend.measuredIntegerPeak())
  }
}

/// How K and V are stored.
public enum KVFormat: String, Sendable, CaseIterable {
  /// 16 bits: bf16, or f16 on a GPU that computes in it (on the reference device 32 bits).
  case bf16
  /// 8 bits with a scale per token and head: half the memory and, where attention waits for memory, half its time.
  case int8

  var dtype: DType { self == .int8 ? .i8 : .bf16 }
}

/// Which profile a model decodes with, and how.
public struct SparsitySetting: Sendable {
  /// The profile's file.
  public var profile: URL
  /// Mean density of heads over the sparse layers, in (0, 1]; the profile's own when nil.
  public var density: Double?
  /// What is sparse; as the profile says when nil.
  public var mode: SparsityMode?
  /// How heads are chosen and what the others do.
  public var heads: HeadMode

  /// A setting.
  public init(
    profile: URL, mode: SparsityMode? = nil, density: Double? = nil, heads: HeadMode = .adaptive
  ) {
    self.profile = profile
    self.mode = mode
    self.density = density
    self.heads = heads
  }
}
