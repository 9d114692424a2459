import PolarCore
import PolarModels
import PolarSparsity

/// What the engine keeps of a request beside its sequence: how to choose, to whom to tell.
final class LiveRequest {
  let parameters: SamplingParameters
  let promptTokenCount: Int
  private let endTokens: Set<Int32>
  private let continuation: AsyncThrowingStream<GenerationEvent, any Error>.Continuation
  private var text: (any TokenTextStream)?
  private var matcher: StopMatcher
  var sampling: SamplerState
  private var generated = 0
  private var started: ContinuousClock.Instant?
  private var firstToken: ContinuousClock.Instant?
  private var lastToken: ContinuousClock.Instant?

  init(
    _ request: GenerationRequest, endTokens: Set<Int32>, text: (any TokenTextStream)?,
    continuation: AsyncThrowingStream<GenerationEvent, any Error>.Continuation
  ) {
    parameters = request.parameters
    promptTokenCount = request.promptTokens.count
    self.endTokens = endTokens
    self.text = text
    self.continuation = continuation
    matcher = StopMatcher(request.parameters.stop)
    sampling = SamplerState(parameters: request.parameters, prompt: request.promptTokens)
  }

  /// Notes that its prompt is being worked on.
  func start(_ now: ContinuousClock.Instant) {
    if started == nil { started = now }
  }

  /// Delivers a token. Returns why the request ends with it, or nil when it goes on.
  func deliver(
    _ token: Int32, logprobs: TokenLogprobs?, isFull: Bool, now: ContinuousClock.Instant
  ) -> CompletionInfo.StopReason? {
    generated += 1
    if firstToken == nil { firstToken = now }
    lastToken = now
    var reason: CompletionInfo.StopReason? = isFull ? .length : nil
    var emitted = ""
    if endTokens.contains(token) || parameters.stopTokens.contains(token) {
      // The text of an end token is not part of the text.
      reason = .stop
    } else if let piece = text?.append(token) {
      let (emit, stopped) = matcher.append(piece)
      emitted = emit
      if stopped {
        continuation.yield(.token(id: token, text: emitted, logprobs: logprobs))
        return .stop
      }
    }
    if reason != nil, let rest = text?.finish() {
      let (emit, stopped) = matcher.append(rest)
      emitted += emit
      if stopped { reason = .stop } else { emitted += matcher.finish() }
    }
    continuation.yield(.token(id: token, text: emitted, logprobs: logprobs))
    return reason
  }

  func finish(_ reason: CompletionInfo.StopReason, preemptions: Int) {
    continuation.onTermination = nil
    continuation.yield(
      .finished(
        CompletionInfo(
          promptTokenCount: promptTokenCount, generationTokenCount: generated, stopReason: reason,
          promptTime: Self.seconds(from: started, to: firstToken),
          generateTime: Self.seconds(from: firstToken, to: lastToken), preemptions: preemptions)))
    continuation.finish()
  }

  func fail(_ error: PolarError) {
    continuation.onTermination = nil
    continuation.finish(throwing: error)
  }

  private static func seconds(
    from start: ContinuousClock.Instant?, to end: ContinuousClock.Instant?
  ) -> Double {
    guard let start, let end else { return 0 }
    return (end - start) / .seconds(1)
  }
}

extension Engine {
  /// One step: frees what was cancelled, computes prompts' rows, then one row of each decoding sequence.
  func runStep() {
    for id in cancellations.take() {
      scheduler.remove(id)
      live[id] = nil
    }
    scheduler.schedule(into: &step)
    guard !step.isEmpty else { return }
    counters.steps += 1
    // Committed before the tokens are chosen: a sequence that ends takes its pages with it.
    if !step.prefill.isEmpty { runPrefill() }
    if !step.decode.isEmpty { runDecode() }
    if let failure = runner.backend.failure { fail(failure) }
  }

  /// The device has failed: nothing that is under way can go on.
  private func fail(_ error: PolarError) {
    for id in live.keys.sorted() {
      scheduler.remove(id)
      live.removeValue(forKey: id)?.fail(error)
    }
  }

  private func runPrefill() {
    let now = ContinuousClock.now
    runner.begin()
    for chunk in step.prefill {
      live[chunk.id]?.start(now)
      counters.promptTokens += chunk.positions.count
      guard let sequence = scheduler.runningSequence(chunk.id) else { continue }
      sequence.prompt.withUnsafeBufferPointer { prompt in
        sequence.pages.withUnsafeBufferPointer { pages in
          runner.append(
            UnsafeBufferPointer(rebasing: prompt[chunk.positions]), at: chunk.positions.lowerBound,
            pages: pages, logits: chunk.samples ? .last : .none)
        }
      }
    }
    let logits = runner.run(.prefill)
    scheduler.commitPrefill(step)
    var row = 0
    for chunk in step.prefill where chunk.samples {
      choose(chunk.id, logits: logits, row: row)
      row += 1
    }
  }

  private func runDecode() {
    runner.begin()
    for row in step.decode {
      guard let sequence = scheduler.runningSequence(row.id) else { continue }
      runner.append(sequence.token(at: row.position), at: row.position, pages: sequence.pages)
    }
    if drawsOnDevice() { return drawTokens() }
    let logits = runner.run(.decode, policy: policy, replaying: true)
    let peaks = runner.mostLikelyTokens()
    scheduler.commitDecode(step)
    for (index, row) in step.decode.enumerated() {
      if row.samples {
        choose(row.id, logits: logits, row: index, peak: peaks?[index])
      } else {
        counters.replayedTokens += 1
      }
    }
  }

  /// Whether the device can choose all tokens of the step: no request asks for penalties or log probabilities.
  private func drawsOnDevice() -> Bool {
    guard runner.backend.tokenDrawing != nil else { return false }
    return step.decode.allSatisfy { row in
      guard let parameters = live[row.id]?.parameters else { return true }
      return !parameters.hasPenalties && parameters.logprobs == nil
    }
  }

  /// Computes the step and chooses its tokens on the device, so that only their ids come back.
  private func drawTokens() {
    for (index, row) in step.decode.enumerated() {
      draws.buffer[index] = TokenDraw(temperature: 0, topP: 1, minP: 0, topK: 0, uniform: 0)
      guard row.samples, let request = live[row.id], request.parameters.temperature > 0 else { continue }
      let parameters = request.parameters
      draws.buffer[index] = TokenDraw(
        temperature: parameters.temperature, topP: parameters.topP, minP: parameters.minP,
        topK: Int32(clamping: parameters.topK), uniform: request.sampling.random.nextUnit())
    }
    let wanted = UnsafeBufferPointer(rebasing: draws.buffer[0..<step.decode.count])
    let tokens = runner.runDrawing(wanted, policy: policy, replaying: true)
    scheduler.commitDecode(step)
    for (index, row) in step.decode.enumerated() {
      guard row.samples else {
        counters.replayedTokens += 1
        continue
      }
      if tokens[index] >= 0 {
        deliver(tokens[index], logprobs: nil, to: row.id)
      } else {
        scheduler.remove(row.id)
        live.removeValue(forKey: row.id)?.fail(Sampler.notANumber)
      }
    }
  }

  /// Chooses the next token of a sequence from its row of logits `[rows, vocabulary]`; `peak` as ``Sampler`` takes it.
  private func choose(
    _ id: SequenceID, logits: UnsafeBufferPointer<Float>, row: Int, peak: Int32? = nil
  ) {
    guard let request = live[id] else { return }
    let line = UnsafeBufferPointer(rebasing: logits[row * vocabulary..<(row + 1) * vocabulary])
    do throws(PolarError) {
      let token = try sampler.sample(
        line, peak: peak, parameters: request.parameters, state: &request.sampling)
      var logprobs: TokenLogprobs?
      if let top = request.parameters.logprobs {
        logprobs = try Sampler.logprobs(line, chosen: token, top: top)
      }
      deliver(token, logprobs: logprobs, to: id)
    } catch {
      scheduler.remove(id)
      live.removeValue(forKey: id)?.fail(error)
    }
  }

  /// Appends a chosen token to its sequence and hands it to the request's reader.
  private func deliver(_ token: Int32, logprobs: TokenLogprobs?, to id: SequenceID) {
    guard let request = live[id] else { return }
    counters.generatedTokens += 1
    let isFull = scheduler.append(token, to: id)
    let reason = request.deliver(token, logprobs: logprobs, isFull: isFull, now: .now)
    if let reason { end(id, reason) }
  }

  /// Takes a request out of the engine and finishes its stream.
  func end(_ id: SequenceID, _ reason: CompletionInfo.StopReason) {
    let sequence = scheduler.remove(id)
    live.removeValue(forKey: id)?.finish(reason, preemptions: sequence?.preemptions ?? 0)
  }
}
