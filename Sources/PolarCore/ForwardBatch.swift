/// The rows (tokens) of one forward pass and where they belong: what the model and the ops see of the requests.
///
/// A decode step may end with padding rows (see ``Backend/recordsWork``): token, position and slot are -1, what they compute is
/// not a number and is read by nobody.
/// Rows of one sequence are consecutive and in order of position. All members lie in the backend's memory.
@frozen public struct ForwardBatch: BitwiseCopyable, Sendable {
  /// Token id of each row: i32 `[rows]`.
  public let tokens: Tensor
  /// Position of each row in its sequence, from 0: i32 `[rows]`.
  public let positions: Tensor
  /// Where each row's K and V go: page * 16 + offset in the page, i32 `[rows]`.
  public let slots: Tensor
  /// The sequence (0 ..< sequences) of each row: i32 `[rows]`.
  public let rowSequences: Tensor
  /// Pages of each sequence in order: i32 `[sequences, maximumPages]`.
  public let blockTables: Tensor
  /// Rows whose logits are wanted, ascending: i32 `[logitCount]`.
  public let logitRows: Tensor
  /// Number of rows.
  public let rows: Int
  /// Number of sequences.
  public let sequences: Int
  /// Number of rows whose logits are wanted.
  public let logitCount: Int
  /// True when every sequence has exactly one row (row i belongs to sequence i): a decode step.
  public let isDecode: Bool
  /// The largest position of any row plus one: the longest context of the batch.
  public let longestContext: Int

  /// A batch over staged tensors.
  public init(
    tokens: Tensor, positions: Tensor, slots: Tensor, rowSequences: Tensor, blockTables: Tensor,
    logitRows: Tensor, isDecode: Bool, longestContext: Int
  ) {
    self.tokens = tokens
    self.positions = positions
    self.slots = slots
    self.rowSequences = rowSequences
    self.blockTables = blockTables
    self.logitRows = logitRows
    self.rows = tokens.columns
    self.sequences = blockTables.rows
    self.logitCount = logitRows.columns
    self.isDecode = isDecode
    self.longestContext = longestContext
  }
}
