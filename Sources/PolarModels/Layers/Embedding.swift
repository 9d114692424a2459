internal import PolarCore

/// A lookup table `[entries, dimension]`: of token ids, or of positions where these are learned.
struct Embedding: BitwiseCopyable, Sendable {
  let table: PackedMatrix

  /// `out[i, :] = table[indices[i], :]`; indices i32 `[rows]`, out f32 `[rows, dimension]`.
  func callAsFunction(_ out: Tensor, indices: Tensor, on backend: any Backend) {
    backend.embed(out, tokens: indices, table: table)
  }
}
