import Foundation
import PolarCore
import PolarFormats
import PolarModels
import PolarSparsity
import Testing

@Suite("Models")
struct ModelTests {
  private func load(
    _ golden: Golden, on backend: any Backend, config: ModelConfig? = nil
  ) throws -> any CausalLM {
    try ModelRegistry.make(
      config: config ?? golden.file.config, reader: WeightReader(golden.file), backend: backend)
  }

  // MARK: Batches

  /// A sequence's logits do not depend on what else is in the batch, in prefill and in decode steps.
  @Test(arguments: Golden.names, Device.allCases)
  func batchEqualsAlone(name: String, device: Device) throws {
    let golden = try Golden(name)
    let backend = try device.make()
    let model = try load(golden, on: backend)
    let together = try Session(model, on: backend)
    let alone = try Session(model, on: backend)
    let prompts = golden.prompts

    let prefill = try together.run(
      prompts.enumerated().map { .init(sequence: $0, tokens: Array($1.tokens[..<$1.length])) })
    for (index, prompt) in prompts.enumerated() {
      let tokens = Array(prompt.tokens[..<prompt.length])
      #expect(try alone.run([.init(sequence: index, tokens: tokens)]) == [prefill[index]])
    }
    for step in 0..<golden.steps {
      let tokens = prompts.map { [$0.tokens[$0.length + step]] }
      let logits = try together.run(
        tokens.enumerated().map { .init(sequence: $0, tokens: $1) }, decode: true)
      for index in prompts.indices {
        let chunk = Session.Chunk(sequence: index, tokens: tokens[index])
        #expect(try alone.run([chunk], decode: true) == [logits[index]])
      }
    }
  }

  /// A prompt in pieces of any size, or token by token as decode steps, gives what it gives in one piece.
  @Test(arguments: Golden.names, Device.matching)
  func chunkedPrefillEqualsWhole(name: String, device: Device) throws {
    let golden = try Golden(name)
    let backend = try device.make()
    let model = try load(golden, on: backend)
    let session = try Session(model, on: backend)
    let tokens = golden.prompts[2].tokens
    let whole = try session.run([.init(sequence: 0, tokens: tokens)])[0]

    var chunked: [Float] = []
    var rest = tokens[...]
    for size in [7, 1, 16, 13, tokens.count] where !rest.isEmpty {
      chunked += try session.run([.init(sequence: 1, tokens: Array(rest.prefix(size)))])[0]
      rest = rest.dropFirst(size)
    }
    #expect(chunked == whole)

    var single: [Float] = []
    for token in tokens {
      single += try session.run([.init(sequence: 2, tokens: [token])], decode: true)[0]
    }
    #expect(single == whole)
  }

  /// Without wanted logits the head is left out, and K and V are stored all the same.
  @Test(arguments: Golden.names)
  func noLogitRows(name: String) throws {
    let golden = try Golden(name)
    let backend = try Device.reference.make()
    let session = try Session(try load(golden, on: backend), on: backend)
    let tokens = golden.prompts[1].tokens
    let whole = try session.run([.init(sequence: 0, tokens: tokens)])[0]
    let none = try session.run(
      [.init(sequence: 1, tokens: Array(tokens.dropLast()))], wantLogits: false)
    #expect(none.isEmpty)
    let last = try session.run([.init(sequence: 1, tokens: [tokens[tokens.count - 1]])])[0]
    #expect(last == Array(whole.suffix(golden.file.config.vocabulary)))
  }

  /// A pass takes as much scratch as promised for its size, neither more nor less, and smaller ones fit in it.
  @Test(arguments: Golden.names, [(1, true), (3, false), (17, true), (41, false), (41, true)])
  func workspaceIsAsPromised(name: String, size: (rows: Int, logits: Bool)) throws {
    let golden = try Golden(name)
    let backend = try Device.reference.make()
    let model = try load(golden, on: backend)
    let session = try Session(model, on: backend, rows: 41, logitRows: 41)
    let tokens = Array(golden.prompts[2].tokens.prefix(size.rows))
    _ = try session.run([.init(sequence: 0, tokens: tokens)], wantLogits: size.logits)
    let promised = model.workspaceByteCount(
      rows: size.rows, logitRows: size.logits ? size.rows : 0)
    #expect(session.workspacePeak == promised)
    #expect(promised <= model.workspaceByteCount(rows: 41, logitRows: 41))
  }

  // MARK: Sparsity

  /// Selects the same heads in every row and writes down what it was asked.
  private final class FixedHeads: SparsityPolicy, @unchecked Sendable {
    let heads: Set<Int>
    private let count: Int
    /// What the policy was shown, in the order of its calls.
    private(set) var asked: [(layer: Int, input: [Float], residual: [Float])] = []

    init(_ heads: Set<Int>, of count: Int) {
      self.heads = heads
      self.count = count
    }

    var name: String { "fixed" }
    func workspaceByteCount(rows: Int) -> Int { rows * count + 64 }
    func select(
      _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
    ) -> Selection {
      asked.append(
        (
          context.layer, download(context.input, from: backend),
          download(context.residual, from: backend)
        ))
      let rows = context.batch.rows
      let mask = workspace.take(rows: rows, columns: count, dtype: .u8)
      let bytes = (0..<rows * count).map { UInt8(heads.contains($0 % count) ? 1 : 0) }
      bytes.withUnsafeBytes { backend.upload($0, to: mask.address) }
      return Selection(heads: ActiveHeads(mask: mask, fallback: .zero))
    }
  }

  /// The policy is asked in decode steps only, once per layer, with the residual stream that the tap sees; all heads
  /// equal dense bit for bit, and an unselected head's output is zero.
  @Test(arguments: Golden.names, Device.allCases)
  func policyChoosesHeadsInDecodeSteps(name: String, device: Device) throws {
    let golden = try Golden(name)
    let backend = try device.make()
    let config = golden.file.config
    let model = try load(golden, on: backend)
    let session = try Session(model, on: backend, extraWorkspace: 4096)
    let prompt = golden.prompts[1]
    let tokens = Array(prompt.tokens[..<prompt.length])
    let all = FixedHeads(Set(0..<config.heads), of: config.heads)
    let some = FixedHeads([0], of: config.heads)
    for sequence in 0..<3 {
      // A batch of one row is prefill too, unless it says that it is a decode step.
      for piece in [tokens.dropLast(), tokens.suffix(1)] {
        _ = try session.run([.init(sequence: sequence, tokens: Array(piece))], policy: all)
      }
    }
    #expect(all.asked.isEmpty)

    let next = [prompt.tokens[prompt.length]]
    let dense = try session.run([.init(sequence: 0, tokens: next)], decode: true)
    let complete = try session.run(
      [.init(sequence: 1, tokens: next)], decode: true, policy: all)
    #expect(complete == dense)

    let tap = RecordingTap()
    let sparse = try session.run(
      [.init(sequence: 2, tokens: next)], decode: true, policy: some, tap: tap)
    #expect(sparse != dense)
    #expect(some.asked.map(\.layer) == Array(0..<config.layers))
    for (layer, output) in tap.attention.enumerated() {
      #expect(output[..<config.headDim].contains { $0 != 0 })
      #expect(output[config.headDim...].allSatisfy { $0 == 0 })
      #expect(some.asked[layer].residual == tap.hidden[layer])
      // A block that normalises first projects from another tensor than the residual stream.
      #expect((some.asked[layer].input == some.asked[layer].residual) == !config.normBefore)
    }
  }

  // MARK: Loading

  @Test(arguments: Golden.names)
  func outputProjectionIsTheFiles(name: String) throws {
    let golden = try Golden(name)
    let backend = try Device.reference.make()
    let config = golden.file.config
    let model = try load(golden, on: backend)
    let projection = model.outputProjection(layer: 1)
    #expect(projection.outputs == config.hidden)
    #expect(projection.inputs == config.heads * config.headDim)
    var mine = [Float](repeating: 0, count: projection.outputs * projection.inputs)
    mine.withUnsafeMutableBufferPointer { backend.unpackRows(projection, firstRow: 0, into: $0) }
    var files: [Float] = []
    let tensor =
      config.architecture.blocks == .opt
      ? "model.decoder.layers.1.self_attn.out_proj.weight" : "model.layers.1.self_attn.o_proj.weight"
    try WeightReader(golden.file).read(
      tensor, rows: projection.outputs, columns: projection.inputs
    ) { _, values in files += values }
    #expect(mine == files)
    #expect(model.weightByteCount >= 2 * mine.count * MemoryLayout<Float>.size)
  }

  /// The Llama 3 rule given as a divisor for each frequency, as GGUF files have it, is the same model.
  @Test func rotaryFactorsEqualTheRule() throws {
    let golden = try Golden("llama-rope3")
    var config = golden.file.config
    guard case .llama3(let factor, let low, let high, let context) = config.ropeScaling else {
      Issue.record("the fixture has no Llama 3 scaling")
      return
    }
    let backend = try Device.reference.make()
    let tokens = golden.prompts[2].tokens
    let expected = try Session(load(golden, on: backend), on: backend)
      .run([.init(sequence: 0, tokens: tokens)])[0]
    config.ropeScaling = .factors(
      (0..<config.headDim / 2).map { pair in
        let wavelength =
          2 * Double.pi * pow(config.ropeTheta, 2 * Double(pair) / Double(config.headDim))
        if wavelength < Double(context) / high { return 1 }
        if wavelength > Double(context) / low { return factor }
        let smooth = (Double(context) / wavelength - low) / (high - low)
        return 1 / ((1 - smooth) / factor + smooth)
      })
    let logits = try Session(load(golden, on: backend, config: config), on: backend)
      .run([.init(sequence: 0, tokens: tokens)])[0]
    #expect(zip(logits, expected).allSatisfy { abs($0 - $1) < 5e-5 })
    config.ropeScaling = .none
    let unscaled = try Session(load(golden, on: backend, config: config), on: backend)
      .run([.init(sequence: 0, tokens: tokens)])[0]
    #expect(!zip(unscaled, expected).allSatisfy { abs($0 - $1) < 0.1 })
  }

  /// Without the window, or with one token more in it, a model with a window gives something else.
  @Test(arguments: ["mistral", "qwen2-window"], Device.allCases)
  func windowsMatter(name: String, device: Device) throws {
    let golden = try Golden(name)
    let backend = try device.make()
    let tokens = golden.prompts[2].tokens
    func logits(_ config: ModelConfig) throws -> (prefill: [Float], decode: [Float]) {
      let session = try Session(load(golden, on: backend, config: config), on: backend)
      return (
        try session.run([.init(sequence: 0, tokens: Array(tokens.dropLast()))])[0],
        try session.run([.init(sequence: 0, tokens: Array(tokens.suffix(1)))], decode: true)[0]
      )
    }
    let config = golden.file.config
    let windows = config.windows.compactMap { $0 }
    let window = try #require(windows.first)
    #expect(window < golden.prompts[1].length)
    let expected = try logits(config)
    var wider = config
    wider.windows = config.windows.map { $0.map { $0 + 1 } }
    var open = config
    open.windows = []
    for other in [try logits(wider), try logits(open)] {
      // Rows that see everything are equal; later ones are not.
      #expect(
        other.prefill.prefix(window * config.vocabulary)
          == expected.prefill.prefix(window * config.vocabulary))
      #expect(other.prefill != expected.prefill)
      #expect(other.decode != expected.decode)
    }
    // All of the context is as good as no window.
    wider.windows = config.windows.map { $0.map { _ in tokens.count } }
    #expect(try logits(wider) == logits(open))
  }

  /// What of a configuration a test changes, so that it no longer fits the file.
  enum Change: CaseIterable {
    case missingBias, missingHeadNorm, unusedLayer, missingLayer, otherWidth, oddWidth, otherActivation,
      fewWindows

    func apply(_ config: inout ModelConfig) {
      switch self {
      case .missingBias: config.qkvBias = true
      case .missingHeadNorm: config.headNorms = true
      case .fewWindows: config.windows = [16]
      case .unusedLayer: config.layers -= 1
      case .missingLayer: config.layers += 1
      case .otherWidth: config.intermediate += 2
      case .oddWidth: config.intermediate -= 1
      case .otherActivation: config.activation = .gelu
      }
    }
  }

  /// A configuration that does not fit the file is refused with an error that names the tensor or the field.
  @Test(arguments: Change.allCases)
  func misfitsAreRefused(change: Change) throws {
    let golden = try Golden("llama-mha")
    var config = golden.file.config
    change.apply(&config)
    let backend = try Device.reference.make()
    let error = #expect(throws: PolarError.self) {
      _ = try ModelRegistry.make(
        config: config, reader: WeightReader(golden.file), backend: backend)
    }
    switch (change, error) {
    case (.otherActivation, .configuration(let field, _)): #expect(field == "activation")
    case (.fewWindows, .configuration(let field, _)): #expect(field == "sliding window")
    case (.missingBias, .weight(let name, _)): #expect(name.hasSuffix("proj.bias"))
    case (.missingHeadNorm, .weight(let name, _)): #expect(name == "model.layers.0.self_attn.q_norm.weight")
    case (.unusedLayer, .weight(let name, _)): #expect(name.hasPrefix("model.layers.1."))
    case (.missingLayer, .weight(let name, _)): #expect(name.hasPrefix("model.layers.2."))
    case (.otherWidth, .weight(let name, _)), (.oddWidth, .weight(let name, _)):
      #expect(name.contains(".mlp."))
    default: Issue.record("\(change): \(String(describing: error))")
    }
  }
}
