/// Translates llama.cpp's tensor names to Hugging Face's, and says how rows are ordered.
public enum GGUFNames {
  /// How the rows of a stored tensor follow each other.
  public enum RowOrder: Sendable, Equatable {
    /// As in the Hugging Face checkpoint.
    case asStored
    /// Within each head the two halves are interleaved, for rotary embeddings of neighbouring pairs.
    case interleaved(headDim: Int)

    /// The stored row that holds row `row` of the Hugging Face checkpoint.
    ///
    /// Within a head of dim d, row `p * d/2 + j` (half p, pair j) is stored as row `2 j + p`.
    @inlinable public func storedRow(_ row: Int) -> Int {
      switch self {
      case .asStored: return row
      case .interleaved(let headDim):
        let (head, inside) = row.quotientAndRemainder(dividingBy: headDim)
        let (half, pair) = inside.quotientAndRemainder(dividingBy: headDim / 2)
        return head * headDim + 2 * pair + half
      }
    }
  }

  /// The tensor with rotary frequency divisors; it is read into the configuration and is not a weight.
  public static let rotaryFactors = "rope_freqs.weight"

  private static let blockNames: [String: String] = [
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
  ]

  /// The Hugging Face name of `name` in the architectures of Llama's blocks, or nil when it is not known.
  public static func huggingFace(_ name: String) -> String? {
    switch name {
    case "token_embd.weight": return "model.embed_tokens.weight"
    case "output_norm.weight": return "model.norm.weight"
    case "output.weight": return "lm_head.weight"
    default: break
    }
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 4, parts[0] == "blk", let layer = Int(parts[1]), layer >= 0,
      String(layer) == parts[1],
      let module = blockNames[String(parts[2])], parts[3] == "weight" || parts[3] == "bias"
    else { return nil }
    return "model.layers.\(layer).\(module).\(parts[3])"
  }

  /// The row order of the tensor with llama.cpp name `name`.
  ///
  /// The `llama` converter permutes the rows of q and k (weights and biases), the others do not.
  public static func rowOrder(_ name: String, _ config: ModelConfig) -> RowOrder {
    let permuted = name.contains(".attn_q.") || name.contains(".attn_k.")
    return config.architecture.gguf?.interleavesRotaryRows == true && permuted
      ? .interleaved(headDim: config.headDim) : .asStored
  }
}
