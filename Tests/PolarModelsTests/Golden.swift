import Foundation
import PolarCore
import PolarFormats
import PolarTestSupport

/// A fixture of Tests/Fixtures/models: a tiny checkpoint and what Hugging Face transformers computes with it.
struct Golden {
  /// What belongs to one prompt; rows are its tokens, then the greedy ones of the decode steps.
  struct Prompt {
    let tokens: [Int32]
    /// `[layers + 1][rows * hidden]`
    let hidden: [[Float]]
    /// `[rows * vocabulary]`
    let logits: [Float]
    /// Rows of the prefill.
    let length: Int
  }

  static let names = [
    "llama-mha", "llama-gqa-tied", "llama-bias", "llama-rope3", "llama-rope-linear", "qwen2-sharded",
    "opt", "opt-gelu", "opt-350m", "mistral", "qwen2-window", "qwen3", "llama-relu", "llama-fatrelu",
  ]
  /// The fixtures that have a model.gguf with the same weights.
  static let ggufNames = ["mistral", "qwen2-sharded", "qwen3"]

  /// The folder of fixture `name`.
  static func folder(_ name: String) -> URL { Places.fixtures.appendingPathComponent("models/\(name)") }

  let file: ModelFile
  let prompts: [Prompt]
  let steps: Int

  init(_ name: String) throws {
    let folder = Self.folder(name)
    file = try ModelFile.open(folder)
    let data = try Data(contentsOf: folder.appendingPathComponent("golden.safetensors"))
    let headerBytes = Int(data.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) })
    let header = try JSONDecoder().decode(
      [String: Entry].self, from: data[8..<8 + headerBytes])
    guard let metadata = header["__metadata__"], let lengths = metadata.prompts,
      let steps = metadata.steps.flatMap({ Int($0) })
    else { throw Missing() }

    func values<T>(_ name: String, _ type: T.Type) throws -> [T] {
      guard let offsets = header[name]?.offsets else { throw Missing() }
      return data.withUnsafeBytes { bytes in
        stride(from: offsets[0], to: offsets[1], by: MemoryLayout<T>.size).map {
          bytes.loadUnaligned(fromByteOffset: 8 + headerBytes + $0, as: type)
        }
      }
    }
    let states = file.config.layers + 1
    self.steps = steps
    prompts = try lengths.split(separator: ",").enumerated().map { index, length in
      let hidden = try values("\(index).hidden", Float.self)
      let size = hidden.count / states
      return Prompt(
        tokens: try values("\(index).tokens", Int32.self),
        hidden: (0..<states).map { Array(hidden[$0 * size..<($0 + 1) * size]) },
        logits: try values("\(index).logits", Float.self), length: Int(length) ?? 0)
    }
  }

  private struct Missing: Error {}
  private struct Entry: Decodable {
    let offsets: [Int]?
    let prompts: String?
    let steps: String?

    enum CodingKeys: String, CodingKey {
      case offsets = "data_offsets"
      case prompts, steps
    }
  }
}
