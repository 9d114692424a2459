public import PolarCore

/// What one request's sampling carries from token to token: its random numbers and the tokens it has seen.
///
/// It belongs to the request alone, so what else is in the batch never changes a draw.
public struct SamplerState: Sendable {
  struct Seen: Sendable {
    var outputs: Int32
  }

  var random: RandomStream
  /// Tokens of the prompt (for the repetition penalty) and the output, with how often the output has them.
  private(set) var seen: [Int32: Seen] = [:]
  private let counts: Bool

  /// The state before the first token.
  public init(parameters: SamplingParameters, prompt: [Int32]) {
    random = RandomStream(seed: parameters.seed ?? UInt64.random(in: .min ... .max))
    counts = parameters.hasPenalties
    if parameters.repetitionPenalty != 1 {
      for token in prompt { seen[token] = Seen(outputs: 0) }
    }
  }

  /// Records a chosen token.
  public mutating func record(_ token: Int32) {
    if counts { seen[token, default: Seen(outputs: 0)].outputs += 1 }
  }
}

/// Chooses tokens from logits. One sampler serves all requests of an engine; it holds only scratch memory, made once.
public final class Sampler {
  /// What a row of logits that are not numbers gives.
  static let notANumber = PolarError.request(
    field: "logits", reason: "the model's output is not a number")

  private let vocabulary: Int
  /// Logits after penalties; then weights relative to the most likely token: [vocabulary].
  private let weights: HostArray<Float>
  /// Tokens that are still candidates: [vocabulary].
  private let candidates: HostArray<Int32>

  /// A sampler for rows of `vocabulary` logits.
  public init(vocabulary: Int) throws(PolarError) {
    self.vocabulary = vocabulary
    weights = try HostArray(count: vocabulary, what: "sampler", initial: 0)
    candidates = try HostArray(count: vocabulary, what: "sampler", initial: 0)
  }

  /// The token of one row of logits `[vocabulary]`, recorded in `state`.
  ///
  /// - Parameter peak: What ``Backend/argmax(_:logits:)`` chooses, where that is known.
  /// - Throws: ``PolarError/request(field:reason:)`` with the field `logits` when they are not numbers.
  public func sample(
    _ logits: UnsafeBufferPointer<Float>, peak: Int32? = nil, parameters: SamplingParameters,
    state: inout SamplerState
  ) throws(PolarError) -> Int32 {
    precondition(logits.count == vocabulary, "\(logits.count) logits for \(vocabulary) tokens")
    var row = logits
    if parameters.hasPenalties {
      penalise(logits, parameters: parameters, state: state)
      row = UnsafeBufferPointer(weights.buffer)
    }
    let best: Int32
    if let peak, !parameters.hasPenalties {
      best = peak
    } else {
      best = Self.argmax(row) ?? -1
    }
    guard best >= 0 else { throw Self.notANumber }
    let token =
      parameters.temperature == 0
      ? Int(best) : draw(row, peak: row[Int(best)], parameters: parameters, random: &state.random)
    state.record(Int32(token))
    return Int32(token)
  }

  /// The lowest index of the largest logit; nil when one is not a number or none is finite.
  public static func argmax(_ logits: UnsafeBufferPointer<Float>) -> Int32? {
    guard let peak = VectorMath.peak(logits), peak.value.isFinite else { return nil }
    return Int32(peak.index)
  }

  /// Log probabilities under the softmax of raw logits `[vocabulary]`: of `chosen`, and of the `top` most likely.
  public static func logprobs(
    _ logits: UnsafeBufferPointer<Float>, chosen: Int32, top: Int
  ) throws(PolarError) -> TokenLogprobs {
    guard let peak = VectorMath.maximum(logits), peak.isFinite else {
      throw Self.notANumber
    }
    let shift = Double(peak) + VectorMath.logOfSumOfExponentials(logits, peak: peak)
    var best: [TokenLogprobs.Entry] = []
    best.reserveCapacity(top + 1)
    if top > 0 {
      for (index, logit) in logits.enumerated() {
        // Indices rise, so an equal logit ranks after those that are there.
        guard best.count < top || logit > best[best.count - 1].logprob else { continue }
        let place = best.firstIndex { $0.logprob < logit } ?? best.count
        best.insert(.init(token: Int32(index), logprob: logit), at: place)
        if best.count > top { best.removeLast() }
      }
    }
    for index in best.indices { best[index].logprob = Float(Double(best[index].logprob) - shift) }
    return TokenLogprobs(
      chosen: .init(token: chosen, logprob: Float(Double(logits[Int(chosen)]) - shift)), top: best)
  }

  // MARK: Penalties

  /// Writes the logits, less what tokens already seen lose (vLLM's order: repetition, frequency, presence).
  private func penalise(
    _ logits: UnsafeBufferPointer<Float>, parameters: SamplingParameters, state: SamplerState
  ) {
    let weights = weights.buffer
    _ = weights.update(fromContentsOf: logits)
    for (token, seen) in state.seen where token >= 0 && token < vocabulary {
      var logit = weights[Int(token)]
      logit = logit > 0 ? logit / parameters.repetitionPenalty : logit * parameters.repetitionPenalty
      if seen.outputs > 0 {
        logit -= parameters.frequencyPenalty * Float(seen.outputs) + parameters.presencePenalty
      }
      weights[Int(token)] = logit
    }
  }

  // MARK: Drawing

  /// Draws from the filtered distribution. `row` may be `weights` itself.
  private func draw(
    _ row: UnsafeBufferPointer<Float>, peak: Float, parameters: SamplingParameters,
    random: inout RandomStream
  ) -> Int {
    let weights = weights.buffer
    // exp((logit - peak) / temperature): 1 for the most likely token.
    var total = VectorMath.exponentials(
      of: row, minus: peak, times: 1 / parameters.temperature, into: weights)
    let unit = random.nextUnit()
    let filtersCount = parameters.topK > 0 && parameters.topK < vocabulary
    guard filtersCount || parameters.topP < 1 || parameters.minP > 0 else {
      return pick(unit * total, count: vocabulary) { $0 }
    }
    // With top-p alone, tokens whose weights cannot add up to the share that is cut are out from the start: those
    // below `(1 - topP) / vocabulary` of the sum (half of it, for rounding). It spares most of a long tail.
    let isMassAlone = !filtersCount && parameters.minP == 0
    let floor =
      isMassAlone ? (1 - parameters.topP) / 2 * Float(total) / Float(vocabulary) : parameters.minP
    let list = candidates.buffer
    var count = 0
    for index in 0..<vocabulary {
      // No branch: half of the weights may pass, in no pattern. `count` never overtakes `index`.
      list[count] = Int32(index)
      count += weights[index] >= floor && weights[index] > 0 ? 1 : 0
    }
    var selection = TokenSelection(weights: UnsafeBufferPointer(weights), candidates: list, count: count)
    if filtersCount { selection.keepMostLikely(parameters.topK) }
    if parameters.topP < 1 {
      selection.keepMass(Double(parameters.topP) * (isMassAlone ? total : selection.mass))
    }
    total = selection.mass
    return pick(unit * total, count: selection.count) { Int(list[$0]) }
  }

  /// The first of `count` tokens at which the running sum of weights exceeds `target`.
  @inline(__always)
  private func pick(_ target: Double, count: Int, _ token: (Int) -> Int) -> Int {
    let weights = weights.buffer
    var sum = 0.0
    var last = 0
    for index in 0..<count {
      let candidate = token(index)
      let weight = weights[candidate]
      guard weight > 0 else { continue }
      sum += Double(weight)
      last = candidate
      if sum > target { return candidate }
    }
    // Rounding may leave the target a hair above the whole sum.
    return last
  }
}
