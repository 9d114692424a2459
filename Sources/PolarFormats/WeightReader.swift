public import PolarCore
internal import Synchronization

/// Reads a model's weights as f32, checks shapes and values, and keeps account of what was read.
///
/// A scoped reader sees names below its prefix and shares the account with the reader it came from. It may
/// be used from several threads.
public final class WeightReader: Sendable {
  /// The names that were read or ignored.
  private final class Account: Sendable {
    let used = Mutex<Set<String>>([])
  }

  /// The model that is read.
  public let model: ModelFile
  /// How wide weights are to be in memory.
  public let precision: WeightPrecision
  /// Put before every name, with its final dot; empty at the root.
  private let prefix: String
  private let account: Account
  /// Values in one piece: 1 MiB of f32.
  private static let pieceValues = 1 << 18

  /// A reader of all of `model`'s tensors.
  ///
  /// `rotary_emb.inv_freq` buffers and a stored copy of tied embeddings count as used from the start.
  /// - Throws: ``PolarError/weight(name:reason:)`` when `lm_head.weight` differs from embeddings it is tied
  ///   to.
  public init(_ model: ModelFile, precision: WeightPrecision = .stored) throws(PolarError) {
    self.model = model
    self.precision = precision
    self.prefix = ""
    self.account = Account()
    for name in model.stored.keys where name.hasSuffix("rotary_emb.inv_freq") { ignore(name) }
    if model.config.tiedEmbeddings, let head = model.stored["lm_head.weight"] {
      try Self.checkTied(head, model)
      ignore("lm_head.weight")
    }
  }

  private init(model: ModelFile, precision: WeightPrecision, prefix: String, account: Account) {
    self.model = model
    self.precision = precision
    self.prefix = prefix
    self.account = account
  }

  private static func checkTied(_ head: ModelFile.Stored, _ model: ModelFile) throws(PolarError) {
    let name =
      model.config.architecture == .opt ? "model.decoder.embed_tokens.weight" : "model.embed_tokens.weight"
    guard let embedding = model.stored[name] else { return }
    let equal = try head.file.withBytes(head.range) { first throws(PolarError) in
      try embedding.file.withBytes(embedding.range) { second in sameBytes(first, second) }
    }
    guard equal, head.info.dtype == embedding.info.dtype, head.info.shape == embedding.info.shape else {
      throw .weight(name: head.info.name, reason: "differs from \(name), to which the configuration ties it")
    }
  }

  /// A reader of the names that begin with `name` and a dot.
  public func scoped(_ name: String) -> WeightReader {
    WeightReader(model: model, precision: precision, prefix: prefix + name + ".", account: account)
  }

  /// Whether the model has this tensor.
  public func has(_ name: String) -> Bool { model.stored[prefix + name] != nil }

  /// Counts the tensor as used, if it is there, without reading it.
  public func ignore(_ name: String) {
    account.used.withLock { _ = $0.insert(prefix + name) }
  }

  /// Reads a weight `[rows, columns]` in blocks of whole rows, in order, of at most 1 MiB of f32 (or one
  /// row).
  ///
  /// A vector counts as one row. Rows come in the order of the Hugging Face checkpoint.
  /// - Parameter block: gets the first row's number and the values, row-major; the pointer ends with the
  ///   call.
  /// - Throws: ``PolarError/weight(name:reason:)`` when the tensor is missing, has another shape or a dtype
  ///   that is no weight, or holds NaN or infinity; and what `block` throws.
  public func read(
    _ name: String, rows: Int, columns: Int,
    block: (_ firstRow: Int, _ values: UnsafeBufferPointer<Float>) throws(PolarError) -> Void
  ) throws(PolarError) {
    for piece in try pieces(name, rows: rows, columns: columns) {
      try piece.values { values throws(PolarError) in try block(piece.rows.lowerBound, values) }
    }
  }

  /// A weight `[rows, columns]` in pieces of whole rows that can be read at the same time; counts it as used.
  /// - Throws: as ``read(_:rows:columns:block:)``, but values are looked at when a piece is read.
  public func pieces(_ name: String, rows: Int, columns: Int) throws(PolarError) -> [WeightPiece] {
    let (tensor, encoding) = try find(name, rows: rows, columns: columns)
    guard let rowBytes = encoding.byteCount(values: columns) else {
      throw .weight(
        name: prefix + name, reason: "rows of \(columns) are not whole \(encoding.rawValue) blocks")
    }
    account.used.withLock { _ = $0.insert(prefix + name) }
    let most = max(1, Self.pieceValues / columns)
    // Backends keep 32 rows together.
    let step = most >= 32 ? most & ~31 : most
    return stride(from: 0, to: rows, by: step).map { first in
      WeightPiece(
        name: prefix + name, tensor: tensor, encoding: encoding, rows: first..<min(rows, first + step),
        columns: columns, rowBytes: rowBytes)
    }
  }

  /// The format that the tensors `names`, stacked into one, are to have in memory, among those that a backend has.
  /// - Parameter isTable: whether they are token tables or output heads.
  public func format(
    of names: [String], isTable: Bool, among available: Set<WeightFormat>
  ) -> WeightFormat {
    let formats = names.compactMap { name in
      model.stored[prefix + name].flatMap { WeightEncoding(rawValue: $0.info.dtype) }
        .map { precision.format(of: $0, isTable: isTable) }
    }
    let common = WeightFormat.common(formats)
    if !formats.isEmpty, available.contains(common) { return common }
    return available.contains(.bf16) ? .bf16 : .f16
  }

  /// Reads a vector `[count]`.
  /// - Throws: as ``read(_:rows:columns:block:)``.
  public func readVector(_ name: String, count: Int) throws(PolarError) -> [Float] {
    var result: [Float] = []
    try read(name, rows: 1, columns: count) { _, values in
      result = Array(values)
    }
    // A permuted vector, such as the bias of q, has one element per row of its matrix.
    guard let order = model.stored[prefix + name]?.order, order != .asStored else { return result }
    return result.indices.map { result[order.storedRow($0)] }
  }

  /// Throws when tensors of the whole model are left that nobody read or ignored, naming the first few.
  public func finish() throws(PolarError) {
    let used = account.used.withLock { $0 }
    let left = model.stored.keys.filter { !used.contains($0) }.sorted()
    guard let first = left.first else { return }
    let others = left.dropFirst().prefix(3).map { "'\($0)'" }.joined(separator: ", ")
    let more = left.count > 4 ? " and \(left.count - 4) more" : ""
    throw .weight(
      name: first, reason: "not used by this model" + (others.isEmpty ? "" : "; nor are \(others)\(more)"))
  }

  private func find(
    _ name: String, rows: Int, columns: Int
  ) throws(PolarError) -> (ModelFile.Stored, WeightEncoding) {
    let full = prefix + name
    guard let tensor = model.stored[full] else { throw .weight(name: full, reason: "missing") }
    let shape = tensor.info.shape
    guard columns > 0, shape == [rows, columns] || (rows == 1 && shape == [columns]) else {
      throw .weight(name: full, reason: "shape \(shape) where [\(rows), \(columns)] is needed")
    }
    guard let encoding = WeightEncoding(rawValue: tensor.info.dtype) else {
      throw .weight(name: full, reason: "dtype \(tensor.info.dtype) cannot be a weight")
    }
    if case .interleaved(let headDim) = tensor.order, (shape.first ?? 0) % headDim != 0 {
      throw .weight(name: full, reason: "\(shape.first ?? 0) rows are not whole heads of \(headDim)")
    }
    return (tensor, encoding)
  }
}
