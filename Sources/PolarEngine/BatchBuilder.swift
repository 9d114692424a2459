import PolarCore

/// Which rows of a span of tokens have their logits computed.
public enum LogitRows: Sendable, Equatable {
  /// None: the chunk of a prompt that goes on.
  case none
  /// The last row.
  case last
  /// All rows.
  case all
}

/// Writes the rows of a step into arrays made once at start-up and uploads them to fixed device tensors.
///
/// `begin`, then `append` per sequence, then `finish`: none of them allocates.
struct BatchBuilder {
  /// i32 elements of each part, in order: tokens, positions, slots, row sequences, logit rows, block tables.
  private struct Layout {
    let rows: Int
    let logitRows: Int
    let sequences: Int
    let tablePages: Int
    // Every part starts on a 64-byte line.
    private static func aligned(_ count: Int) -> Int { (count + 15) & ~15 }
    var tokens: Int { 0 }
    var positions: Int { Self.aligned(rows) }
    var slots: Int { 2 * Self.aligned(rows) }
    var rowSequences: Int { 3 * Self.aligned(rows) }
    var logits: Int { 4 * Self.aligned(rows) }
    var tables: Int { logits + Self.aligned(logitRows) }
    var count: Int { tables + sequences * tablePages }
  }

  private let layout: Layout
  private let host: HostArray<Int32>
  private let device: any DeviceMemory
  private(set) var rows = 0
  private var sequences = 0
  private var logitCount = 0
  private var longestContext = 0
  /// The longest page table of the step: the columns of the uploaded tables.
  private var tableColumns = 0

  init(
    rows: Int, logitRows: Int, sequences: Int, context: Int, on backend: any Backend
  ) throws(PolarError) {
    layout = Layout(
      rows: rows, logitRows: logitRows, sequences: sequences,
      tablePages: ScheduledSequence.pages(for: context))
    host = try HostArray(count: layout.count, what: "batch staging", initial: 0)
    device = try backend.allocate(byteCount: layout.count * MemoryLayout<Int32>.stride)
  }

  /// Starts a new step.
  mutating func begin() {
    rows = 0
    sequences = 0
    logitCount = 0
    longestContext = 0
    tableColumns = 0
  }

  /// Adds a sequence's next rows: `tokens` at positions `start...`, with the pages of all positions so far.
  mutating func append(
    _ tokens: UnsafeBufferPointer<Int32>, at start: Int, pages: UnsafeBufferPointer<Int32>,
    logits: LogitRows
  ) {
    let end = start + tokens.count
    let needed = ScheduledSequence.pages(for: end)
    precondition(rows + tokens.count <= layout.rows, "more than the \(layout.rows) rows of a step")
    precondition(sequences < layout.sequences, "more than the \(layout.sequences) sequences of a step")
    precondition(start >= 0 && needed <= layout.tablePages, "position \(end) is beyond the context")
    precondition(pages.count >= needed, "\(pages.count) pages do not hold \(end) tokens")
    let data = host.buffer
    for (offset, token) in tokens.enumerated() {
      let row = rows + offset
      let position = start + offset
      data[layout.tokens + row] = token
      data[layout.positions + row] = Int32(position)
      data[layout.slots + row] =
        pages[position / KVPage.tokens] * Int32(KVPage.tokens) + Int32(position % KVPage.tokens)
      data[layout.rowSequences + row] = Int32(sequences)
    }
    let table = layout.tables + sequences * layout.tablePages
    for page in 0..<needed { data[table + page] = pages[page] }
    let wanted = logits == .all ? tokens.count : logits == .last ? min(1, tokens.count) : 0
    precondition(logitCount + wanted <= layout.logitRows, "more than \(layout.logitRows) rows of logits")
    for row in (rows + tokens.count - wanted)..<(rows + tokens.count) {
      data[layout.logits + logitCount] = Int32(row)
      logitCount += 1
    }
    rows += tokens.count
    sequences += 1
    longestContext = max(longestContext, end)
    tableColumns = max(tableColumns, needed)
  }

  /// Uploads a decode step, filled up with padding rows to `padded` rows. All tensors have the same address and shape at
  /// every call with the same `padded`, whatever the contexts.
  mutating func finish(paddedTo padded: Int, on backend: any Backend) -> ForwardBatch {
    precondition(rows == sequences && rows == logitCount, "a decode step has one row per sequence")
    precondition(padded >= rows && padded <= layout.sequences, "no room for \(padded) rows")
    let data = host.buffer
    for row in rows..<padded {
      data[layout.tokens + row] = -1
      data[layout.positions + row] = -1
      data[layout.slots + row] = -1
      data[layout.rowSequences + row] = Int32(row)
      data[layout.logits + row] = Int32(row)
    }
    // Tables of padding rows are read by nobody.
    let tables = (sequences - 1) * layout.tablePages + tableColumns
    rows = padded
    sequences = padded
    logitCount = padded
    tableColumns = layout.tablePages
    longestContext = layout.tablePages * KVPage.tokens
    return finish(isDecode: true, tableElements: tables, on: backend)
  }

  /// Uploads the step.
  func finish(isDecode: Bool, on backend: any Backend) -> ForwardBatch {
    precondition(!isDecode || rows == sequences, "a decode step has one row per sequence")
    return finish(
      isDecode: isDecode, tableElements: (sequences - 1) * layout.tablePages + tableColumns, on: backend)
  }

  private func finish(isDecode: Bool, tableElements: Int, on backend: any Backend) -> ForwardBatch {
    upload(layout.tokens, rows, on: backend)
    upload(layout.positions, rows, on: backend)
    upload(layout.slots, rows, on: backend)
    upload(layout.rowSequences, rows, on: backend)
    upload(layout.logits, logitCount, on: backend)
    upload(layout.tables, tableElements, on: backend)
    return ForwardBatch(
      tokens: tensor(layout.tokens, columns: rows),  // [rows]
      positions: tensor(layout.positions, columns: rows),  // [rows]
      slots: tensor(layout.slots, columns: rows),  // [rows]
      rowSequences: tensor(layout.rowSequences, columns: rows),  // [rows]
      blockTables: Tensor(  // [sequences, tableColumns]
        address(layout.tables), rows: sequences, columns: tableColumns,
        rowStride: layout.tablePages, dtype: .i32),
      logitRows: tensor(layout.logits, columns: logitCount),  // [logitCount]
      isDecode: isDecode, longestContext: longestContext)
  }

  private func address(_ element: Int) -> Address {
    device.base.advanced(by: element * MemoryLayout<Int32>.stride)
  }

  private func tensor(_ element: Int, columns: Int) -> Tensor {
    Tensor(address(element), columns: columns, dtype: .i32)
  }

  private func upload(_ element: Int, _ count: Int, on backend: any Backend) {
    backend.upload(
      UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: host.buffer[element..<element + count])),
      to: address(element))
  }
}

/// Host memory of fixed size, freed with its owner.
final class HostArray<Element: BitwiseCopyable> {
  let buffer: UnsafeMutableBufferPointer<Element>

  init(count: Int, what: String, initial: Element) throws(PolarError) {
    let (bytes, overflow) = count.multipliedReportingOverflow(by: MemoryLayout<Element>.stride)
    guard !overflow, bytes >= 0 else { throw .outOfMemory(what: what, bytes: .max) }
    buffer = .allocate(capacity: count)
    buffer.initialize(repeating: initial)
  }

  deinit { buffer.deallocate() }
}
