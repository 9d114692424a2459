import PolarCore
import PolarReference
import Synchronization
import Testing

@testable import PolarEngine

extension Engine {
  fileprivate var liveCount: Int { live.count }

  /// Submits requests, runs three steps and shuts down, all in one turn on the engine's thread.
  fileprivate func startThenShutDown(
    _ requests: [GenerationRequest]
  ) throws -> [AsyncThrowingStream<GenerationEvent, any Error>] {
    let streams = try requests.map { try submit($0) }
    for _ in 0..<3 { runStep() }
    shutdown()
    return streams
  }

  /// Runs two requests, drops the stream of one, and returns the free pages before, and after one more step.
  fileprivate func dropOneOfTwo(
    _ kept: GenerationRequest, _ dropped: GenerationRequest
  ) throws -> (stream: AsyncThrowingStream<GenerationEvent, any Error>, before: Int, after: Int) {
    let stream = try submit(kept)
    var other: AsyncThrowingStream<GenerationEvent, any Error>? = try submit(dropped)
    for _ in 0..<5 { runStep() }
    let before = scheduler.pool.freePages
    _ = other
    other = nil
    runStep()
    return (stream, before, scheduler.pool.freePages)
  }
}

@Suite struct EngineTests {
  private func prompts(_ count: Int, longest: Int = 60) -> [[Int32]] {
    var random = TestRandom(77)
    return (0..<count).map { _ in
      (0..<Int.random(in: 1...longest, using: &random)).map { _ in Int32.random(in: 0..<97, using: &random) }
    }
  }

  /// What each prompt gives when it is alone in an engine with room for everything.
  private func alone(
    _ prompts: [[Int32]], _ parameters: (Int) -> SamplingParameters
  ) async throws -> [[Int32]] {
    let engine = try mockEngine(MockModel(pages: 64), pages: 64, sequences: 1, rows: 256)
    var result: [[Int32]] = []
    for (index, prompt) in prompts.enumerated() {
      result.append(try await engine.run(prompt, parameters(index)).tokens)
    }
    return result
  }

  private func together(
    _ engine: Engine, _ prompts: [[Int32]], _ parameters: (Int) -> SamplingParameters
  ) async throws -> [Outcome] {
    // In one visit to the actor, so that no step runs before all are queued.
    let streams = try await engine.submitAll(
      prompts.indices.map {
        GenerationRequest(promptTokens: prompts[$0], parameters: parameters($0))
      })
    var outcomes: [Outcome] = []
    for stream in streams { outcomes.append(try await collect(stream)) }
    return outcomes
  }

  @Test func unequalPromptsJoinAndLeaveAndGiveTheSameTokens() async throws {
    let prompts = prompts(24)
    let parameters = { (index: Int) in SamplingParameters(maxTokens: 5 + index * 3) }
    let wanted = try await alone(prompts, parameters)
    let engine = try mockEngine(MockModel(pages: 200), pages: 200, sequences: 6, rows: 30)
    let outcomes = try await together(engine, prompts, parameters)
    #expect(outcomes.map(\.tokens) == wanted)
    for (index, outcome) in outcomes.enumerated() {
      let info = try #require(outcome.info)
      #expect(info.stopReason == .length && info.preemptions == 0)
      #expect(info.promptTokenCount == prompts[index].count)
      #expect(info.generationTokenCount == 5 + index * 3)
    }
    let statistics = await engine.statistics
    #expect(statistics.freePages == 200 && statistics.running == 0 && statistics.waiting == 0)
    #expect(statistics.generatedTokens == wanted.reduce(0) { $0 + $1.count })
    #expect(statistics.promptTokens == prompts.reduce(0) { $0 + $1.count })
  }

  @Test func preemptedRequestsGiveTheSameTokens() async throws {
    let prompts = prompts(10, longest: 30)
    for sampled in [false, true] {
      let parameters = { (index: Int) in
        SamplingParameters(maxTokens: 80, temperature: sampled ? 1.5 : 0, seed: UInt64(index))
      }
      let wanted = try await alone(prompts, parameters)
      let engine = try mockEngine(MockModel(pages: 12), pages: 12, sequences: 6, rows: 24)
      let outcomes = try await together(engine, prompts, parameters)
      #expect(outcomes.map(\.tokens) == wanted)
      let statistics = await engine.statistics
      #expect(statistics.preemptions > 0 && statistics.replayedTokens > 0, "nothing was preempted")
      #expect(outcomes.reduce(0) { $0 + ($1.info?.preemptions ?? 0) } == statistics.preemptions)
      #expect(statistics.freePages == 12)
    }
  }

  @Test func seedsDoNotDependOnTheBatch() async throws {
    let prompts = Array(repeating: [Int32(4), 5, 6], count: 8)
    let parameters = { (index: Int) in
      SamplingParameters(maxTokens: 30, temperature: 3, topK: 50, topP: 0.95, seed: UInt64(index % 4))
    }
    let wanted = try await alone(prompts, parameters)
    let engine = try mockEngine(MockModel(pages: 64), pages: 64)
    let outcomes = try await together(engine, prompts, parameters)
    #expect(outcomes.map(\.tokens) == wanted)
    #expect(wanted[0] == wanted[4] && wanted[0] != wanted[1])
  }

  @Test func droppingAStreamFreesItsPagesWithinAStep() async throws {
    let model = MockModel(pages: 64)
    let engine = try mockEngine(model, pages: 64)
    let sequences = model.recordSequences()
    let (kept, before, after) = try await engine.dropOneOfTwo(
      GenerationRequest(promptTokens: [1, 2, 3], parameters: .init(maxTokens: 200)),
      GenerationRequest(promptTokens: Array(repeating: 4, count: 40), parameters: .init(maxTokens: 200)))
    // One page of the kept one, three of the other.
    #expect(before == 60 && after == 63)
    let outcome = try await collect(kept)
    #expect(outcome.tokens.count == 200)
    #expect(Array(sequences.all[..<5]) == [2, 2, 2, 2, 2])
    #expect(sequences.all.count > 190 && sequences.all[5...].allSatisfy { $0 == 1 })
    let statistics = await engine.statistics
    #expect(statistics.freePages == 64 && statistics.running == 0)
  }

  @Test func cancellingTheReadingTaskEndsTheRequest() async throws {
    let model = MockModel(context: 4096, pages: 512)
    let sequences = model.recordSequences(pause: 0.002)
    let engine = try mockEngine(model, pages: 512, context: 4096)
    let task = Task {
      var count = 0
      for try await event in try await engine.submit(
        GenerationRequest(promptTokens: [9], parameters: .init(maxTokens: 4000)))
      {
        if case .token = event { count += 1 }
        if count == 3 { withUnsafeCurrentTask { $0?.cancel() } }
      }
      return count
    }
    #expect(try await task.value < 4000)
    while await engine.statistics.running > 0 { try await Task.sleep(for: .milliseconds(2)) }
    #expect(await engine.statistics.freePages == 512)
    #expect(sequences.all.count < 4000, "it ran to its end")
  }

  @Test func aThousandSubmitsAndCancelsLeaveNothing() async throws {
    let engine = try mockEngine(MockModel(pages: 40), pages: 40)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for index in 0..<1000 {
        group.addTask {
          let stream = try await engine.submit(
            GenerationRequest(
              promptTokens: Array(repeating: Int32(index % 97), count: 1 + index % 50),
              parameters: .init(maxTokens: 1 + index % 40)))
          var read = 0
          for try await _ in stream {
            read += 1
            if index % 3 == 0 && read > index % 7 { break }
          }
        }
      }
      try await group.waitForAll()
    }
    while await engine.statistics.running + engine.statistics.waiting > 0 {
      try await Task.sleep(for: .milliseconds(2))
    }
    let statistics = await engine.statistics
    #expect(statistics.freePages == 40)
    #expect(await engine.liveCount == 0)
  }

  @Test func endTokensStopUnlessIgnored() async throws {
    let model = MockModel(pages: 16, next: { _, position in Int32(position + 1) })
    let engine = try mockEngine(model, pages: 16, endTokens: [9])
    let stopped = try await engine.run([3, 4], SamplingParameters(maxTokens: 30))
    #expect(stopped.tokens == [2, 3, 4, 5, 6, 7, 8, 9])
    #expect(stopped.info?.stopReason == .stop)
    let ignored = try await engine.run([3, 4], SamplingParameters(maxTokens: 30, ignoreEOS: true))
    #expect(ignored.tokens.count == 30 && ignored.info?.stopReason == .length)
    let own = try await engine.run([3, 4], SamplingParameters(stopTokens: [5], ignoreEOS: true))
    #expect(own.tokens == [2, 3, 4, 5] && own.info?.stopReason == .stop)
  }

  @Test func theContextEndsAGeneration() async throws {
    let engine = try mockEngine(MockModel(context: 40, pages: 16), pages: 16, context: 40)
    let outcome = try await engine.run(Array(repeating: 1, count: 30), SamplingParameters(maxTokens: 99))
    #expect(outcome.tokens.count == 10 && outcome.info?.stopReason == .length)
  }

  @Test func stopStringsAreMatchedAcrossTokensAndBytes() async throws {
    // Token i is one byte of the text; the emoji takes four tokens.
    let text = Array("ab\u{1F600}cd STOP ef".utf8)
    let table = (0..<97).map { $0 < text.count ? [text[$0]] : [UInt8(ascii: ".")] }
    let model = MockModel(pages: 16, next: { _, position in Int32(position % 97) })
    let engine = try mockEngine(model, pages: 16, text: { TableText(table) })
    let outcome = try await engine.run([50], SamplingParameters(maxTokens: 40, stop: ["STOP"]))
    #expect(outcome.text == "ab\u{1F600}cd ")
    #expect(outcome.info?.stopReason == .stop)
    let emoji = try await engine.run([50], SamplingParameters(maxTokens: 40, stop: ["\u{1F600}c"]))
    #expect(emoji.text == "ab")
    // Held back ("ST" may be the beginning of a stop), then delivered with the last token.
    let cut = try await engine.run([50], SamplingParameters(maxTokens: 11, stop: ["STOP"]))
    #expect(cut.text == "ab\u{1F600}cd ST" && cut.info?.stopReason == .length)
    // An incomplete character at the end is shown as the replacement character.
    let half = try await engine.run([50], SamplingParameters(maxTokens: 4))
    #expect(half.text == "ab\u{FFFD}")
  }

  @Test func logprobsComeWithTheTokens() async throws {
    let engine = try mockEngine(MockModel(pages: 16), pages: 16)
    let outcome = try await engine.run([5, 6], SamplingParameters(maxTokens: 6, logprobs: 3))
    #expect(outcome.logprobs.count == 6)
    for (token, logprobs) in zip(outcome.tokens, outcome.logprobs) {
      #expect(logprobs.chosen.token == token && logprobs.top.count == 3)
      #expect(logprobs.top[0] == logprobs.chosen, "greedy takes the most likely")
      #expect(logprobs.top.map(\.logprob) == logprobs.top.map(\.logprob).sorted(by: >))
      #expect(logprobs.chosen.logprob < 0)
    }
    #expect(try await engine.run([5, 6], SamplingParameters(maxTokens: 6)).logprobs.isEmpty)
  }

  @Test func aFaultFailsOneRequestOnly() async throws {
    let model = MockModel(pages: 32, poison: 13, next: { _, position in Int32(20 + position) })
    let engine = try mockEngine(model, pages: 32)
    let good = try await engine.submit(
      GenerationRequest(promptTokens: [1, 2], parameters: .init(maxTokens: 40)))
    let bad = try await engine.submit(
      GenerationRequest(promptTokens: [1, 13], parameters: .init(maxTokens: 40)))
    await #expect(throws: PolarError.self) { _ = try await collect(bad) }
    #expect(try await collect(good).tokens.count == 40)
    #expect(await engine.statistics.freePages == 32)
  }

  @Test func badRequestsAreRefusedWithTheirField() async throws {
    let engine = try mockEngine(MockModel(pages: 8), pages: 8, context: 256)
    let bad: [(String, [Int32], SamplingParameters)] = [
      ("promptTokens", [], .init()), ("promptTokens", [1, -1], .init()), ("promptTokens", [97], .init()),
      ("promptTokens", Array(repeating: 1, count: 256), .init()), ("topP", [1], .init(topP: 2)),
      ("maxTokens", [1], .init(maxTokens: 200)), ("stop", [1], .init(stop: ["x"])),
      ("stopTokens", [1], .init(stopTokens: [97])),
    ]
    for (field, prompt, parameters) in bad {
      do {
        _ = try await engine.submit(GenerationRequest(promptTokens: prompt, parameters: parameters))
        Issue.record("\(field) was accepted")
      } catch {
        guard case .request(field, _) = error else {
          Issue.record("\(field): \(error)")
          continue
        }
      }
    }
    #expect(await engine.statistics.waiting == 0)
  }

  @Test func shutdownEndsEverything() async throws {
    weak var gone: Engine?
    weak var model: MockModel?
    do {
      let mock = MockModel(pages: 32)
      model = mock
      let engine = try mockEngine(mock, pages: 32, sequences: 2)
      gone = engine
      let request = GenerationRequest(promptTokens: [1, 2], parameters: .init(maxTokens: 200))
      let streams = try await engine.startThenShutDown(Array(repeating: request, count: 5))
      for (index, stream) in streams.enumerated() {
        let outcome = try await collect(stream)
        #expect(outcome.info?.stopReason == .cancelled)
        #expect(outcome.tokens.count == (index < 2 ? 3 : 0), "two run, three wait")
      }
      #expect(await engine.statistics.freePages == 32)
      await #expect(throws: PolarError.self) { try await engine.run([1]) }
    }
    for _ in 0..<10000 where gone != nil || model != nil { try await Task.sleep(for: .milliseconds(1)) }
    #expect(gone == nil && model == nil, "the engine or its model outlives its last use")
  }

  @Test func requestsInFlightKeepTheEngineAlive() async throws {
    let stream: AsyncThrowingStream<GenerationEvent, any Error>
    do {
      let engine = try mockEngine(MockModel(pages: 32), pages: 32)
      stream = try await engine.submit(
        GenerationRequest(promptTokens: [1, 2], parameters: .init(maxTokens: 200)))
    }
    #expect(try await collect(stream).tokens.count == 200)
  }
}
