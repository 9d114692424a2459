import Foundation
import PolarCore
import PolarFormats
import PolarModels
import Testing

/// How far results may be from those of Hugging Face transformers in float32. Hidden states have a standard deviation
/// of about 1 and logits of 3.
private struct Tolerance {
  /// The largest difference of any element.
  let worst: Float
  /// The root of the mean squared difference.
  let rootMeanSquare: Float

  static func of(_ device: Device) -> Tolerance {
    switch device {
    // Differs in the order of sums only.
    case .reference: Tolerance(worst: 5e-5, rootMeanSquare: 5e-6)
    // Keeps K and V in bf16, of 8 significant bits, and with AVX-512 multiplies bf16 activations.
    case .cpu: Tolerance(worst: 0.25, rootMeanSquare: 0.03)
    // The same: bf16 activations in products, bf16 K and V.
    case .emulatedCUDA: Tolerance(worst: 0.25, rootMeanSquare: 0.03)
    // 11 significant bits instead of 8; a gate beside a threshold above zero may fall on its other side.
    case .emulatedCUDAHalf: Tolerance(worst: 0.0625, rootMeanSquare: 0.004)
    }
  }
}

/// Gathers differences.
private struct Difference {
  private(set) var worst: Float = 0
  private var squares = 0.0
  private var count = 0

  var rootMeanSquare: Float { Float((squares / Double(max(1, count))).squareRoot()) }

  /// Compares `mine` with rows `range` of `theirs`; a value that is not a number is infinitely far.
  mutating func add(_ mine: ArraySlice<Float>, _ theirs: [Float], _ range: Range<Int>, _ width: Int) {
    let expected = theirs[range.lowerBound * width..<range.upperBound * width]
    #expect(mine.count == expected.count)
    for (a, b) in zip(mine, expected) {
      let difference = (a - b).isNaN ? .infinity : abs(a - b)
      worst = max(worst, difference)
      squares += Double(difference) * Double(difference)
    }
    count += expected.count
  }

  func check(_ tolerance: Tolerance) {
    #expect(count > 0)
    #expect(worst <= tolerance.worst)
    #expect(rootMeanSquare <= tolerance.rootMeanSquare)
  }
}

@Suite("Goldens of Hugging Face transformers")
struct GoldenTests {
  /// Prefill of unequal prompts in one ragged batch, then decode steps of all of them together: hidden states at every
  /// layer's entry and after the final norm, logits, and the greedy token of every step.
  @Test(arguments: Golden.names, Device.allCases)
  func hiddenStatesAndLogits(name: String, device: Device) throws {
    let golden = try Golden(name)
    let backend = try device.make()
    let config = golden.file.config
    let model = try ModelRegistry.make(
      config: config, reader: WeightReader(golden.file), backend: backend)
    let session = try Session(model, on: backend)
    var (hidden, scores) = (Difference(), Difference())
    var (equalTokens, allTokens) = (0, 0)

    /// Runs rows `rows` of every prompt and compares.
    func step(_ rows: [Range<Int>], decode: Bool) throws {
      let tap = RecordingTap()
      let logits = try session.run(
        golden.prompts.enumerated().map {
          .init(sequence: $0.offset, tokens: Array($0.element.tokens[rows[$0.offset]]))
        }, decode: decode, tap: tap)
      #expect(tap.layers == Array(0...config.layers))
      var batchRow = 0
      for (index, prompt) in golden.prompts.enumerated() {
        let range = rows[index]
        scores.add(logits[index][...], prompt.logits, range, config.vocabulary)
        for (layer, state) in tap.hidden.enumerated() {
          let mine = batchRow * config.hidden..<(batchRow + range.count) * config.hidden
          hidden.add(state[mine], prompt.hidden[layer], range, config.hidden)
        }
        batchRow += range.count
        if range.upperBound < prompt.tokens.count {
          let last = logits[index].suffix(config.vocabulary)
          let greedy = Int(prompt.tokens[range.upperBound])
          // Where two tokens are as good as each other, rounding may choose the other one.
          let behind = (last.max() ?? .nan) - last[last.startIndex + greedy]
          #expect(behind <= 2 * Tolerance.of(device).worst, "token \(range.upperBound) of prompt \(index)")
          equalTokens += behind == 0 ? 1 : 0
          allTokens += 1
        }
      }
    }
    try step(golden.prompts.map { 0..<$0.length }, decode: false)
    for offset in 0..<golden.steps {
      try step(
        golden.prompts.map { $0.length + offset..<$0.length + offset + 1 }, decode: true)
    }
    print(
      "\(name) on \(backend.name): largest and mean difference of hidden states \(hidden.worst),",
      "\(hidden.rootMeanSquare), of logits \(scores.worst), \(scores.rootMeanSquare)")
    print("\(name) on \(backend.name): \(equalTokens) of \(allTokens) greedy tokens")
    #expect(allTokens == golden.prompts.count * golden.steps)
    #expect(equalTokens == allTokens || device != .reference)
    #expect(equalTokens * 10 >= allTokens * 9)
    hidden.check(.of(device))
    scores.check(.of(device))
  }

  /// A GGUF file with the same weights, its q and k rows in llama.cpp's order, is the same model bit for bit.
  @Test(arguments: Golden.ggufNames)
  func ggufEqualsSafetensors(name: String) throws {
    let golden = try Golden(name)
    let file = try ModelFile.open(Golden.folder(name).appendingPathComponent("model.gguf"))
    // Mistral's architecture in GGUF is Llama's, and its metadata here names no special tokens.
    var config = file.config
    config.architecture = golden.file.config.architecture
    config.bosToken = golden.file.config.bosToken
    config.eosTokens = golden.file.config.eosTokens
    #expect(config == golden.file.config)

    let backend = try Device.reference.make()
    let tokens = golden.prompts[2].tokens
    let logits = try [golden.file, file].map { file in
      let model = try ModelRegistry.make(
        config: file.config, reader: WeightReader(file), backend: backend)
      return try Session(model, on: backend).run([.init(sequence: 0, tokens: tokens)])
    }
    #expect(logits[0] == logits[1])
  }
}
