public import Foundation
public import PolarCore
public import PolarEngine
public import PolarFormats
import PolarModels
public import PolarSparsity
public import PolarTokenizer

/// A model ready to generate: weights on a device, a tokenizer, and an engine that batches all requests.
///
/// ```swift
/// let model = try await LanguageModel.load(from: url, profile: profileURL)
/// for try await event in try await model.generate("Once upon a time", parameters: .init(maxTokens: 64)) {
///   switch event {
///   case .text(let text): print(text, terminator: "")
///   case .finished(let info): print(info.generation.tokensPerSecond)
///   }
/// }
/// ```
/// Requests that run at the same time share every step. Cancelling the task that reads a stream cancels its request.
public final class LanguageModel: Sendable {
  /// How much a model may take.
  public struct Limits: Sendable {
    /// The most requests in one step.
    public var sequences: Int
    /// The longest context in tokens; the model's own when nil.
    public var context: Int?
    /// The most memory for K and V in bytes; 80 % of what is free when nil.
    public var kvBytes: Int?
    /// How K and V are stored.
    public var kvFormat: KVFormat

    /// Limits.
    public init(
      sequences: Int = 64, context: Int? = nil, kvBytes: Int? = nil, kvFormat: KVFormat = .bf16
    ) {
      self.sequences = sequences
      self.context = context
      self.kvBytes = kvBytes
      self.kvFormat = kvFormat
    }
  }

  /// What ``generate(_:parameters:)`` delivers.
  public enum Event: Sendable {
    /// More text.
    case text(String)
    /// The end.
    case finished(Info)
  }

  /// Facts of a finished generation.
  public struct Info: Sendable {
    /// Token counts, rates and why it ended.
    public var generation: CompletionInfo
    /// Attention heads computed in full over those a dense model computes, over all decode steps of the model so far.
    public var headDensity: Double
    /// The same for MLP neurons, by layer and step.
    public var neuronDensity: Double
  }

  /// The model's file, weights and tokenizer.
  public let loaded: LoadedModel
  /// The engine all requests go through.
  public let engine: Engine
  /// The profile in use.
  public let profile: SparsityProfile?
  /// Tokens that the KV cache holds.
  public let kvTokens: Int
  /// Bytes that the KV cache takes.
  public let kvBytes: Int
  private let statistics: SelectionStatistics

  /// Loads a model and makes its engine.
  ///
  /// - Parameters:
  ///   - url: a GGUF file, or a folder in Hugging Face layout.
  ///   - sparsity: the profile to decode with; dense when nil.
  ///   - weights: how wide weights are in memory; as in the file by default.
  ///   - device: where it runs.
  ///   - limits: batch, context and memory.
  /// - Throws: ``PolarError`` that names the file or field at fault.
  public static func load(
    from url: URL, sparsity: SparsitySetting? = nil, weights: WeightPrecision = .stored,
    device: Device = .automatic, limits: Limits = Limits()
  ) async throws -> LanguageModel {
    let backend = try device.makeBackend(kv: limits.kvFormat, weights: weights, model: url)
    let selectsNeurons = try sparsity.map { setting in
      let profile = try SparsityProfile(path: setting.profile.path)
      return (setting.mode ?? profile.defaultMode).selectsNeurons && profile.neurons != nil
    }
    // Where they can be chosen: a model whose neurons cannot be is refused with the profile's name when that is checked.
    let loaded = try ModelLoader.load(
      from: url, precision: weights, on: backend, neuronSparse: selectsNeurons == true ? nil : false)
    return try LanguageModel(loaded, sparsity: sparsity, backend: backend, limits: limits)
  }

  /// Loads a model with the profile at `profile`, at the profile's own density.
  public static func load(
    from url: URL, profile: URL?, device: Device = .automatic
  ) async throws -> LanguageModel {
    try await load(
      from: url, sparsity: profile.map { SparsitySetting(profile: $0) }, device: device)
  }

  private init(
    _ loaded: LoadedModel, sparsity: SparsitySetting?, backend: any Backend, limits: Limits
  ) throws {
    let config = loaded.model.config
    let statistics = SelectionStatistics(
      layers: config.layers, heads: config.heads, neurons: config.intermediate, maximumRows: limits.sequences)
    var policy: any SparsityPolicy = DensePolicy()
    profile = try sparsity.map { try loaded.profile(at: $0.profile) }
    if let sparsity, let profile {
      policy = try profile.policy(
        sparsity.mode, heads: sparsity.heads, density: sparsity.density, on: backend)
    }
    policy = CountingPolicy(policy, statistics: statistics)
    let context = min(limits.context ?? config.context, config.context)
    // No more than every sequence at the full context needs, and no more than 80 % of what is free.
    let most = limits.sequences * ((context + KVPage.tokens - 1) / KVPage.tokens)
    let available = limits.kvBytes ?? backend.availableMemory ?? KVBudget.availableMemory() ?? 1 << 30
    let pages = try KVBudget.pages(
      available: available, config: config, dtype: backend.kvDType,
      fraction: limits.kvBytes == nil ? 0.8 : 1, most: most)
    let runner = try ModelRunner(
      model: loaded.model, backend: backend, cachePages: pages,
      maximumRows: max(512, limits.sequences), maximumSequences: limits.sequences,
      maximumContext: context, policyBytes: policy.workspaceByteCount(rows: limits.sequences),
      statistics: statistics)
    runner.warmUp(policy: policy)
    if let failure = backend.failure { throw failure }
    self.loaded = loaded
    self.statistics = statistics
    kvTokens = pages * KVPage.tokens
    kvBytes = pages * KVCache.bytesPerPage(config, dtype: backend.kvDType)
    let tokenizer = loaded.tokenizer
    engine = try Engine(
      runner: runner, policy: policy, endTokens: loaded.endTokens,
      text: { StreamingDecoder(tokenizer: tokenizer) })
  }

  /// Continues `prompt`.
  /// - Throws: ``PolarError/request(field:reason:)`` for an empty or too long prompt or bad parameters.
  public func generate(
    _ prompt: String, parameters: SamplingParameters = SamplingParameters()
  ) async throws -> AsyncThrowingStream<Event, any Error> {
    try await generate(tokens: loaded.tokenizer.encode(prompt), parameters: parameters)
  }

  /// Answers a chat, in the model's own chat format. Special tokens that messages spell are ordinary text to the model.
  /// - Parameters:
  ///   - messages: what was said so far.
  ///   - tools: functions that the model may call, in JSON schema.
  /// - Throws: ``PolarError`` for a template that cannot be read or that refuses the messages.
  public func generate(
    messages: [ChatMessage], tools: [ChatValue] = [], parameters: SamplingParameters = SamplingParameters()
  ) async throws -> AsyncThrowingStream<Event, any Error> {
    let format = try loaded.chatFormat()
    let prompt = try format.render(messages: messages, tools: tools)
    var parameters = parameters
    parameters.stop += format.stopStrings
    return try await generate(
      tokens: format.encode(prompt, with: loaded.tokenizer), parameters: parameters)
  }

  /// Continues a prompt given as token ids.
  public func generate(
    tokens: [Int32], parameters: SamplingParameters = SamplingParameters()
  ) async throws -> AsyncThrowingStream<Event, any Error> {
    let events = try await engine.submit(
      GenerationRequest(promptTokens: tokens, parameters: parameters))
    let statistics = statistics
    return AsyncThrowingStream { continuation in
      let task = Task {
        do {
          for try await event in events {
            switch event {
            case .token(_, let text, _):
              if !text.isEmpty { continuation.yield(.text(text)) }
            case .finished(let info):
              continuation.yield(
                .finished(
                  Info(
                    generation: info, headDensity: statistics.density(),
                    neuronDensity: statistics.neuronDensity())))
            }
          }
          continuation.finish()
        } catch {
          continuation.finish(throwing: error)
        }
      }
      continuation.onTermination = { _ in task.cancel() }
    }
  }
}

extension LoadedModel {
  /// Reads a sparsity profile made for this model.
  /// - Throws: ``PolarError/profile(path:reason:)`` when it was made for another one or is damaged.
  public func profile(at url: URL) throws(PolarError) -> SparsityProfile {
    let profile = try SparsityProfile(path: url.path)
    try profile.check(config: model.config, fingerprint: fingerprint, path: url.path)
    return profile
  }
}
