import EmulatedCUDA
import PolarCPU
import PolarCUDA
import PolarCore
import PolarFormats
import PolarModels
import PolarReference
import PolarSparsity
import Testing

/// The backends a test runs on.
enum Device: String, CaseIterable, CustomTestStringConvertible {
  case reference, cpu
  /// The CUDA backend on the emulator.
  case emulatedCUDA
  /// The same with f16 weights, K and V.
  case emulatedCUDAHalf

  /// Those whose decode and prefill attention agree bit for bit.
  static let matching: [Device] = [.reference, .cpu]

  var testDescription: String { rawValue }

  func make() throws -> any Backend {
    switch self {
    case .reference: ReferenceBackend()
    case .cpu: try CPUBackend()
    case .emulatedCUDA: try CUDABackend(device: EmulatedDevice())
    case .emulatedCUDAHalf: try CUDABackend(device: EmulatedDevice(element: .f16))
    }
  }
}

/// Runs batches of a model over a few sequences whose pages lie scattered in the cache.
final class Session {
  /// The next tokens of one sequence.
  struct Chunk {
    let sequence: Int
    let tokens: [Int32]
  }

  let model: any CausalLM
  let backend: any Backend
  let promised: (rows: Int, logitRows: Int)
  private(set) var workspacePeak = 0
  private let cache: KVCache
  private let workspaceMemory: any DeviceMemory
  private let sequences: Int
  private var lengths: [Int]

  static let pagesPerSequence = 4

  /// A session with room for `sequences` sequences of 64 tokens.
  init(
    _ model: any CausalLM, on backend: any Backend, sequences: Int = 3, rows: Int = 128,
    logitRows: Int = 128, extraWorkspace: Int = 0
  ) throws {
    self.model = model
    self.backend = backend
    self.sequences = sequences
    promised = (rows, logitRows)
    lengths = Array(repeating: 0, count: sequences)
    cache = try KVCache(
      config: model.config, pages: sequences * Self.pagesPerSequence, on: backend)
    workspaceMemory = try backend.allocate(
      byteCount: model.workspaceByteCount(rows: rows, logitRows: logitRows) + extraWorkspace)
  }

  /// The pages of a sequence, in an order that is neither ascending nor consecutive.
  private func pages(_ sequence: Int) -> [Int32] {
    (0..<Self.pagesPerSequence).map {
      Int32((Self.pagesPerSequence - 1 - $0) * sequences + sequence)
    }
  }

  /// Runs one batch and returns the logits of each chunk's rows (`[rows * vocabulary]`), or of none.
  func run(
    _ chunks: [Chunk], decode: Bool = false, wantLogits: Bool = true,
    policy: any SparsityPolicy = DensePolicy(), tap: (any ForwardTap)? = nil
  ) throws -> [[Float]] {
    var tokens: [Int32] = []
    var positions: [Int32] = []
    var slots: [Int32] = []
    var rowSequences: [Int32] = []
    var longest = 0
    for (index, chunk) in chunks.enumerated() {
      let pages = pages(chunk.sequence)
      for token in chunk.tokens {
        let position = lengths[chunk.sequence]
        tokens.append(token)
        positions.append(Int32(position))
        slots.append(pages[position / KVPage.tokens] * 16 + Int32(position % KVPage.tokens))
        rowSequences.append(Int32(index))
        lengths[chunk.sequence] += 1
        longest = max(longest, position + 1)
      }
    }
    var staging: [any DeviceMemory] = []
    func stage(_ values: [Int32], rows: Int = 1) throws -> Tensor {
      let memory = try backend.allocate(byteCount: max(64, values.count * 4))
      values.withUnsafeBytes { backend.upload($0, to: memory.base) }
      staging.append(memory)
      return Tensor(memory.base, rows: rows, columns: values.count / rows, dtype: .i32)
    }
    let batch = ForwardBatch(
      tokens: try stage(tokens), positions: try stage(positions), slots: try stage(slots),
      rowSequences: try stage(rowSequences),
      blockTables: try stage(chunks.flatMap { pages($0.sequence) }, rows: chunks.count),
      logitRows: try stage(wantLogits ? tokens.indices.map { Int32($0) } : []),
      isDecode: decode, longestContext: longest)

    var workspace = Workspace(workspaceMemory)
    let logits = model.forward(
      batch, cache: cache, policy: policy, tap: tap, workspace: &workspace, on: backend)
    workspacePeak = workspace.peak
    let values = download(logits, from: backend)
    guard wantLogits else { return values.isEmpty ? [] : [values] }
    var row = 0
    return withExtendedLifetime(staging) {
      chunks.map { chunk in
        defer { row += chunk.tokens.count }
        let width = model.config.vocabulary
        return Array(values[row * width..<(row + chunk.tokens.count) * width])
      }
    }
  }
}

/// The elements of an f32 tensor, row by row.
func download(_ tensor: Tensor, from backend: any Backend) -> [Float] {
  var values = [Float](repeating: 0, count: tensor.count)
  for row in 0..<tensor.rows {
    let range = row * tensor.columns..<(row + 1) * tensor.columns
    values[range].withUnsafeMutableBytes {
      backend.download(tensor.rows(row..<row + 1).address, into: $0)
    }
  }
  return values
}

/// Keeps the hidden states and attention outputs of a pass.
final class RecordingTap: ForwardTap {
  /// `[layers + 1][rows * hidden]`
  private(set) var hidden: [[Float]] = []
  /// `[layers][rows * heads * headDim]`
  private(set) var attention: [[Float]] = []
  /// Layers in the order of their calls.
  private(set) var layers: [Int] = []

  func hiddenState(layer: Int, _ state: Tensor, on backend: any Backend) {
    layers.append(layer)
    hidden.append(download(state, from: backend))
  }

  func attention(
    _ context: AttentionContext, output: Tensor, workspace: inout Workspace, on backend: any Backend
  ) {
    attention.append(download(output, from: backend))
  }
}
