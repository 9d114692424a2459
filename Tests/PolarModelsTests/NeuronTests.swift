import PolarCore
import PolarFormats
import PolarModels
import PolarSparsity
import Testing

@Suite("Neuron sparsity in models")
struct NeuronTests {
  /// Selects the same neurons in every layer and writes down when it was asked.
  private final class FixedNeurons: SparsityPolicy, @unchecked Sendable {
    private let chosen: [Int32]
    private(set) var layers: [Int] = []

    init(_ chosen: [Int32]) { self.chosen = chosen }

    var name: String { "fixed" }
    func workspaceByteCount(rows: Int) -> Int { chosen.count * 4 + 192 }
    func select(
      _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
    ) -> Selection {
      layers.append(context.layer)
      let list = ActiveNeurons(
        indices: workspace.keep(columns: chosen.count, dtype: .i32),
        count: workspace.keep(columns: 1, dtype: .i32))
      chosen.withUnsafeBytes { backend.upload($0, to: list.indices.address) }
      withUnsafeBytes(of: Int32(chosen.count)) { backend.upload($0, to: list.count.address) }
      return Selection(neurons: list)
    }
  }

  /// Keeps what MLPs computed.
  private final class MLPTap: ForwardTap {
    private(set) var activations: [[Float]] = []
    func mlp(
      layer: Int, activations: Tensor, neurons: ActiveNeurons?, workspace: inout Workspace,
      on backend: any Backend
    ) {
      self.activations.append(download(activations, from: backend))
    }
  }

  private static let reluModels = Golden.names.filter {
    (try? Golden($0).file.config.activation == .relu) ?? false
  }

  private func decode(
    _ name: String, _ device: Device, policy: any SparsityPolicy, tap: (any ForwardTap)? = nil
  ) throws -> [[Float]] {
    let golden = try Golden(name)
    let backend = try device.make()
    let model = try ModelRegistry.make(
      config: golden.file.config, reader: WeightReader(golden.file), backend: backend)
    let session = try Session(model, on: backend, extraWorkspace: 1 << 16)
    for (index, prompt) in golden.prompts.enumerated() {
      _ = try session.run(
        [.init(sequence: index, tokens: Array(prompt.tokens[..<prompt.length]))], policy: policy)
    }
    return try session.run(
      golden.prompts.enumerated().map { .init(sequence: $0, tokens: [$1.tokens[$1.length]]) },
      decode: true, policy: policy, tap: tap)
  }

  /// Every neuron on the list is the dense step, bit for bit; prefill never asks; fewer neurons change the result.
  @Test(arguments: reluModels, Device.allCases)
  func everyNeuronIsDense(name: String, device: Device) throws {
    let neurons = try Golden(name).file.config.intermediate
    let all = FixedNeurons(Array(0..<Int32(neurons)))
    let dense = try decode(name, device, policy: DensePolicy())
    #expect(try decode(name, device, policy: all) == dense)
    #expect(all.layers == Array(0..<(try Golden(name).file.config.layers)))
    let some = FixedNeurons(Array(0..<Int32(neurons / 2)))
    #expect(try decode(name, device, policy: some) != dense)
  }

  /// The neurons that are active give the dense result, and what the tap sees are their activations.
  @Test(arguments: reluModels)
  func activeNeuronsSuffice(name: String) throws {
    let config = try Golden(name).file.config
    let (denseTap, sparseTap) = (MLPTap(), MLPTap())
    let dense = try decode(name, .reference, policy: DensePolicy(), tap: denseTap)
    let oracle = try OracleNeuronPolicy(neurons: config.intermediate, size: .active)
    let sparse = try decode(name, .reference, policy: oracle, tap: sparseTap)
    #expect(sparse == dense)
    #expect(denseTap.activations.count == config.layers)
    for (all, active) in zip(denseTap.activations, sparseTap.activations) {
      #expect(all.count { $0 != 0 } > 0)
      #expect(all.filter { $0 != 0 }.sorted() == active.filter { $0 != 0 && $0.isFinite }.sorted())
    }
  }

  /// A model whose activation is never zero has no neurons to leave out.
  @Test func otherActivationsAreRefused() throws {
    let golden = try Golden("llama-mha")
    let error = #expect(throws: PolarError.self) {
      _ = try ModelRegistry.make(
        config: golden.file.config, reader: WeightReader(golden.file), backend: Device.reference.make(),
        neuronSparse: true)
    }
    #expect(error?.description.contains("activation") == true)
  }
}
