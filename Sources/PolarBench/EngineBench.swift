public import PolarCore
public import PolarEngine
import PolarFormats
public import PolarModels

/// Times the decode steps of a whole engine: requests in, tokens and text out. What a step takes beside its ops is the
/// host's part: scheduling, staging, sampling, detokenising, delivery.
public enum EngineBench {
  /// What was measured, means over the steps.
  public struct Result: Sendable, Codable {
    /// Sequences.
    public var batch: Int
    /// Prompt tokens of each sequence.
    public var promptTokens: Int
    /// Timed steps.
    public var steps: Int
    /// Wall seconds of a step.
    public var stepSeconds: Double
    /// Seconds of a step spent in the backend's ops.
    public var opSeconds: Double
    /// The part of a step that is not spent in ops.
    public var hostShare: Double { 1 - opSeconds / stepSeconds }
  }

  /// Decodes `batch` greedy requests of the same prompt together, `steps` steps after all of them have begun.
  ///
  /// - Parameter text: makes the text of a request's tokens.
  /// - Throws: ``PolarError/request(field:reason:)`` when prompt and steps exceed the model's context, and
  ///   ``PolarError/outOfMemory(what:bytes:)``.
  public static func run(
    model: any CausalLM, backend: any Backend, prompt: [Int32], batch: Int, steps: Int,
    text: @escaping @Sendable () -> any TokenTextStream
  ) async throws -> Result {
    guard batch >= 1, steps >= 1, !prompt.isEmpty else {
      throw PolarError.request(field: "batch", reason: "batch, context and steps must be at least 1")
    }
    let rows = max(512, batch)
    // The first requests decode while the last ones' prompts are computed.
    let warmUp = batch * prompt.count / rows + 8
    let context = prompt.count + warmUp + steps + 8
    guard context <= model.config.context else {
      throw PolarError.request(
        field: "context",
        reason:
          "\(prompt.count) + \(warmUp + steps + 8) steps exceed the model's \(model.config.context) tokens")
    }
    let profiler = ProfilingBackend(backend)
    let engine = try Engine(
      runner: try ModelRunner(
        model: model, backend: profiler, cachePages: batch * ((context + 15) / 16), maximumRows: rows,
        maximumSequences: batch, maximumContext: context),
      text: text)
    let request = GenerationRequest(
      promptTokens: prompt,
      parameters: SamplingParameters(maxTokens: warmUp + steps + 4, temperature: 0, ignoreEOS: true))
    var streams: [AsyncThrowingStream<GenerationEvent, any Error>] = []
    for _ in 0..<batch { streams.append(try await engine.submit(request)) }

    let clock = ContinuousClock()
    return try await withThrowingTaskGroup(of: Void.self) { group in
      for stream in streams.dropLast() {
        group.addTask { for try await _ in stream {} }
      }
      // The last request to begin: all others decode with it.
      var begin: (time: ContinuousClock.Instant, ops: Double)?
      var result: Result?
      var count = 0
      for try await event in streams[batch - 1] {
        guard case .token = event else { continue }
        count += 1
        if count == 4 { begin = (clock.now, profiler.opSeconds) }
        if count == 4 + steps, let begin {
          result = Result(
            batch: batch, promptTokens: prompt.count, steps: steps,
            stepSeconds: (clock.now - begin.time) / .seconds(1) / Double(steps),
            opSeconds: (profiler.opSeconds - begin.ops) / Double(steps))
        }
      }
      try await group.waitForAll()
      guard let result else {
        throw PolarError.request(field: "steps", reason: "a request ended before \(steps) steps")
      }
      return result
    }
  }
}
