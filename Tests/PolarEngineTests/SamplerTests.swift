import Foundation
import PolarCore
import Testing

@testable import PolarEngine

@Suite struct SamplerTests {
  private func logits(_ count: Int, seed: UInt64, scale: Double = 3) -> [Float] {
    var random = TestRandom(seed)
    return (0..<count).map { _ in
      Float((Double.random(in: -1...1, using: &random) + Double.random(in: -1...1, using: &random)) * scale)
    }
  }

  /// The distribution by definition: full sort, double precision.
  private func expected(_ logits: [Float], _ p: SamplingParameters) -> [Double] {
    let scaled = logits.map { Double($0) / Double(p.temperature) }
    let peak = scaled.max()!
    var weights = scaled.map { exp($0 - peak) }
    weights = weights.map { $0 >= Double(p.minP) ? $0 : 0 }
    var order = weights.indices.sorted { (weights[$0], $1) > (weights[$1], $0) }
    if p.topK > 0 { order = Array(order.prefix(p.topK)) }
    let total = order.reduce(0) { $0 + weights[$1] }
    var kept: [Int] = []
    var mass = 0.0
    for token in order where weights[token] > 0 {
      kept.append(token)
      mass += weights[token]
      if mass >= Double(p.topP) * total { break }
    }
    var result = Array(repeating: 0.0, count: logits.count)
    for token in kept { result[token] = weights[token] / mass }
    return result
  }

  private func histogram(_ logits: [Float], _ parameters: SamplingParameters, draws: Int) throws -> [Int] {
    let sampler = try Sampler(vocabulary: logits.count)
    var state = SamplerState(parameters: parameters, prompt: [])
    var counts = Array(repeating: 0, count: logits.count)
    for _ in 0..<draws {
      let token = try logits.withUnsafeBufferPointer { row throws in
        try sampler.sample(row, parameters: parameters, state: &state)
      }
      counts[Int(token)] += 1
    }
    return counts
  }

  @Test(arguments: [
    SamplingParameters(temperature: 1, seed: 1), SamplingParameters(temperature: 0.6, seed: 2),
    SamplingParameters(temperature: 1.3, topK: 5, seed: 3),
    SamplingParameters(temperature: 1, topP: 0.7, seed: 4),
    SamplingParameters(temperature: 1, minP: 0.1, seed: 5),
    SamplingParameters(temperature: 1.5, topK: 12, topP: 0.8, minP: 0.02, seed: 6),
    SamplingParameters(temperature: 1, topK: 1, seed: 7),
    SamplingParameters(temperature: 1, topP: 1e-6, seed: 8),
  ])
  func drawsFollowTheFilteredDistribution(parameters: SamplingParameters) throws {
    let logits = logits(37, seed: 11)
    let draws = 6000
    let wanted = expected(logits, parameters)
    let counts = try histogram(logits, parameters, draws: draws)
    for token in logits.indices {
      let mean = wanted[token] * Double(draws)
      if wanted[token] == 0 {
        #expect(counts[token] == 0, "token \(token) is filtered out")
      } else {
        let deviation = (mean * (1 - wanted[token])).squareRoot()
        #expect(abs(Double(counts[token]) - mean) <= 5 * deviation + 1, "token \(token)")
      }
    }
  }

  @Test(arguments: 0..<60) func cutsEqualAFullSort(seed: Int) throws {
    var random = TestRandom(UInt64(seed) + 1)
    let count = Int.random(in: 1...400, using: &random)
    // Coarse values make many ties.
    let weights = (0..<count).map { _ in Float(Int.random(in: 1...20, using: &random)) / 20 }
    let order = weights.indices.sorted { (weights[$0], $1) > (weights[$1], $0) }
    let limit = Int.random(in: 1...count, using: &random)
    let share = Double.random(in: 0.01...1, using: &random)
    var list = (0..<count).map { Int32($0) }
    list.shuffle(using: &random)
    weights.withUnsafeBufferPointer { weights in
      list.withUnsafeMutableBufferPointer { list in
        var selection = TokenSelection(weights: weights, candidates: list, count: count)
        selection.keepMostLikely(limit)
        #expect(Set(list[..<selection.count].map { Int($0) }) == Set(order.prefix(limit)))
        let total = order.prefix(limit).reduce(0.0) { $0 + Double(weights[$1]) }
        var wanted = 0
        var mass = 0.0
        while wanted < limit, mass < share * total - 1e-9 {
          mass += Double(weights[order[wanted]])
          wanted += 1
        }
        selection.keepMass(share * total - 1e-9)
        #expect(Set(list[..<selection.count].map { Int($0) }) == Set(order.prefix(max(1, wanted))))
      }
    }
  }

  @Test func greedyTakesTheLowestOfEquals() throws {
    for count in [1, 2, 7, 8, 9, 16, 31, 1000] {
      for place in Set([0, count / 2, count - 1]) {
        var row = Array(repeating: Float(-3), count: count)
        row[place] = 2
        if place + 1 < count { row[count - 1] = 2 }
        #expect(row.withUnsafeBufferPointer { Sampler.argmax($0) } == Int32(place))
      }
    }
    #expect([-Float.infinity, -5].withUnsafeBufferPointer { Sampler.argmax($0) } == 1)
  }

  @Test func notANumberIsAnError() throws {
    for place in [0, 5, 8, 18] {
      var row = logits(19, seed: 2)
      row[place] = .nan
      for temperature: Float in [0, 1] {
        #expect(throws: PolarError.self) {
          _ = try histogram(row, SamplingParameters(temperature: temperature), draws: 1)
        }
      }
      #expect(row.withUnsafeBufferPointer { Sampler.argmax($0) } == nil)
    }
    #expect(throws: PolarError.self) {
      _ = try histogram(Array(repeating: -.infinity, count: 9), SamplingParameters(), draws: 1)
    }
    var row = logits(19, seed: 2)
    row[3] = -.infinity
    #expect(try histogram(row, SamplingParameters(temperature: 2, seed: 1), draws: 2000)[3] == 0)
  }

  @Test func penaltiesFollowTheFormulas() throws {
    let row: [Float] = [2.0, 1.9, -1.0, 1.5, 0.1]
    let sampler = try Sampler(vocabulary: 5)
    func greedy(_ parameters: SamplingParameters, prompt: [Int32], output: [Int32]) throws -> Int32 {
      var state = SamplerState(parameters: parameters, prompt: prompt)
      for token in output { state.record(token) }
      return try row.withUnsafeBufferPointer { row throws in
        try sampler.sample(row, parameters: parameters, state: &state)
      }
    }
    #expect(try greedy(SamplingParameters(), prompt: [0], output: [0]) == 0)
    // 2.0 / 1.1 = 1.82 < 1.9: the prompt counts for repetition.
    #expect(try greedy(SamplingParameters(repetitionPenalty: 1.1), prompt: [0], output: []) == 1)
    #expect(try greedy(SamplingParameters(repetitionPenalty: 1.1), prompt: [0], output: [1]) == 0)
    // The prompt does not count for presence and frequency; the output does.
    #expect(try greedy(SamplingParameters(presencePenalty: 0.2), prompt: [0], output: []) == 0)
    #expect(try greedy(SamplingParameters(presencePenalty: 0.2), prompt: [], output: [0]) == 1)
    #expect(try greedy(SamplingParameters(presencePenalty: 0.2), prompt: [], output: [0, 0, 0, 1]) == 0)
    #expect(try greedy(SamplingParameters(frequencyPenalty: 0.2), prompt: [], output: [0, 0, 0, 1]) == 1)
    #expect(try greedy(SamplingParameters(frequencyPenalty: 0.2), prompt: [], output: [0, 0, 0, 1, 1]) == 1)
    #expect(
      try greedy(SamplingParameters(frequencyPenalty: 0.2), prompt: [], output: [0, 0, 0, 1, 1, 1]) == 3)
    // A negative logit is multiplied: it must fall, not rise.
    let low: [Float] = [-1.0, -1.2, -9]
    let small = try Sampler(vocabulary: 3)
    let parameters = SamplingParameters(repetitionPenalty: 1.5)
    var state = SamplerState(parameters: parameters, prompt: [0])
    let token = try low.withUnsafeBufferPointer { low throws in
      try small.sample(low, parameters: parameters, state: &state)
    }
    #expect(token == 1)
  }

  @Test func logprobsAreTheLogSoftmaxOfRawLogits() throws {
    let row = logits(1003, seed: 5, scale: 6)
    let peak = Double(row.max()!)
    let shift = peak + log(row.reduce(0.0) { $0 + exp(Double($1) - peak) })
    let order = row.indices.sorted { (row[$0], $1) > (row[$1], $0) }
    let result = try row.withUnsafeBufferPointer { row throws in
      try Sampler.logprobs(row, chosen: 77, top: 5)
    }
    #expect(result.top.map { Int($0.token) } == Array(order.prefix(5)))
    for entry in result.top + [result.chosen] {
      #expect(abs(Double(entry.logprob) - (Double(row[Int(entry.token)]) - shift)) < 2e-5)
    }
    #expect(result.chosen.token == 77)
    #expect(
      try row.withUnsafeBufferPointer { row throws in try Sampler.logprobs(row, chosen: 0, top: 0) }.top
        .isEmpty)
    let ties: [Float] = [1, 3, 3, 2, 3]
    let top = try ties.withUnsafeBufferPointer { row throws in try Sampler.logprobs(row, chosen: 0, top: 4) }
      .top
    #expect(top.map(\.token) == [1, 2, 4, 3])
  }

  @Test func exponentialsAreAccurate() {
    let arguments = (0..<3001).map { -Float($0) * 0.029 } + [-87.5, -1000, -Float.infinity, 0]
    var result = Array(repeating: Float(-1), count: arguments.count)
    let sum = arguments.withUnsafeBufferPointer { row in
      result.withUnsafeMutableBufferPointer {
        VectorMath.exponentials(of: row, minus: 0, times: 1, into: $0)
      }
    }
    var total = 0.0
    for (argument, value) in zip(arguments, result) {
      let wanted = argument < -87 ? 0 : exp(Double(argument))
      total += wanted
      #expect(abs(Double(value) - wanted) <= 4e-7 * wanted, "exp(\(argument))")
    }
    #expect(abs(sum - total) < 1e-5 * total)
  }

  @Test func theSameSeedDrawsTheSameTokens() throws {
    let row = logits(50, seed: 8)
    func draw(_ seed: UInt64?) throws -> [Int32] {
      let parameters = SamplingParameters(temperature: 2, seed: seed)
      let sampler = try Sampler(vocabulary: 50)
      var state = SamplerState(parameters: parameters, prompt: [])
      return try (0..<30).map { _ in
        try row.withUnsafeBufferPointer { row throws in
          try sampler.sample(row, parameters: parameters, state: &state)
        }
      }
    }
    #expect(try draw(1) == draw(1))
    #expect(try draw(1) != draw(2))
    #expect(try draw(nil) != draw(nil))
  }

  @Test func parametersOutOfRangeNameTheirField() {
    let bad: [(String, SamplingParameters)] = [
      ("maxTokens", .init(maxTokens: 0)), ("temperature", .init(temperature: -1)),
      ("temperature", .init(temperature: .nan)), ("temperature", .init(temperature: .infinity)),
      ("topK", .init(topK: -1)), ("topP", .init(topP: 0)), ("topP", .init(topP: 1.01)),
      ("topP", .init(topP: .nan)), ("minP", .init(minP: -0.1)), ("minP", .init(minP: 1.5)),
      ("repetitionPenalty", .init(repetitionPenalty: 0)),
      ("presencePenalty", .init(presencePenalty: 3)), ("presencePenalty", .init(presencePenalty: .nan)),
      ("frequencyPenalty", .init(frequencyPenalty: -2.1)), ("stop", .init(stop: ["a", ""])),
      ("logprobs", .init(logprobs: 21)), ("logprobs", .init(logprobs: -1)),
    ]
    for (field, parameters) in bad {
      do throws(PolarError) {
        try parameters.validate()
        Issue.record("\(field) was accepted")
      } catch {
        guard case .request(field, _) = error else {
          Issue.record("\(field): \(error)")
          continue
        }
      }
    }
    #expect(throws: Never.self) { try SamplingParameters().validate() }
  }
}

@Suite struct StopMatcherTests {
  /// Feeds `text` cut at every way in two and byte-wise by characters; all must give the same.
  private func check(_ text: String, stops: [String], emits: String, stopped: Bool) {
    let scalars = Array(text.unicodeScalars)
    func join(_ part: ArraySlice<Unicode.Scalar>) -> String {
      var view = String.UnicodeScalarView()
      view.append(contentsOf: part)
      return String(view)
    }
    var ways = (0...scalars.count).map { [join(scalars[..<$0]), join(scalars[$0...])] }
    ways.append(scalars.map { String($0) })
    for pieces in ways {
      var matcher = StopMatcher(stops)
      var emitted = ""
      var found = false
      for piece in pieces where !found {
        let (emit, stopped) = matcher.append(piece)
        emitted += emit
        found = stopped
        #expect(text.utf8.starts(with: emitted.utf8))
      }
      if !found { emitted += matcher.finish() }
      #expect(Array(emitted.utf8) == Array(emits.utf8) && found == stopped, "\(pieces)")
    }
  }

  @Test func stopsAreFoundWhereverTheTextIsCut() {
    check("hello END world", stops: ["END"], emits: "hello ", stopped: true)
    check("hello EN world", stops: ["END"], emits: "hello EN world", stopped: false)
    check("aaab", stops: ["aab"], emits: "a", stopped: true)
    check("héé\u{1F600}x", stops: ["é\u{1F600}"], emits: "hé", stopped: true)
    check("one\n\ntwo", stops: ["###", "\n\n"], emits: "one", stopped: true)
    check("tail EN", stops: ["END"], emits: "tail EN", stopped: false)
    check("no stops", stops: [], emits: "no stops", stopped: false)
    // Equal bytes, not canonical equivalence.
    check("cafe\u{301}", stops: ["\u{e9}"], emits: "cafe\u{301}", stopped: false)
  }

  @Test func whatMayBeAStopIsHeldBack() {
    var matcher = StopMatcher(["stop!"])
    let emitted = ["go st", "op", "ping", " sto"].map { matcher.append($0).emit }
    #expect(emitted == ["go ", "", "stopping", " "])
    #expect(matcher.finish() == "sto")
  }
}
