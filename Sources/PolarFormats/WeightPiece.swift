public import PolarCore

/// Whole rows of a weight, not yet read. Pieces may be read at the same time, from several threads.
///
/// What has been read is dropped from the process's memory, since it is not needed twice; the system keeps it cached.
public struct WeightPiece: Sendable {
  /// The tensor's full name.
  let name: String
  let tensor: ModelFile.Stored
  let encoding: WeightEncoding
  /// The rows, in the order of the Hugging Face checkpoint.
  public let rows: Range<Int>
  let columns: Int
  let rowBytes: Int

  /// Calls `body` with the rows as f32, row-major; the pointer ends with the call.
  /// - Throws: ``PolarError/weight(name:reason:)`` when there is NaN or infinity among them, and what `body` throws.
  public func values(
    _ body: (UnsafeBufferPointer<Float>) throws(PolarError) -> Void
  ) throws(PolarError) {
    let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: rows.count * columns)
    defer { buffer.deallocate() }
    try withStoredRows { bytes throws(PolarError) in
      Dequantizer.expand(encoding, bytes, into: buffer)
    }
    try checkFinite(UnsafeBufferPointer(buffer))
    try body(UnsafeBufferPointer(buffer))
  }

  /// Whether ``blocks(_:_:)`` can give the rows in `format`.
  public func hasBlocks(_ format: WeightFormat) -> Bool {
    BlockTranscoder.canTranscode(encoding, to: format) && columns % WeightFormat.groupSize == 0
  }

  /// Calls `body` with the rows as blocks of `format` (see ``WeightFormat/blockByteCount``); the pointer ends with the
  /// call.
  /// - Throws: ``PolarError/weight(name:reason:)`` when a scale is NaN or infinite.
  public func blocks(
    _ format: WeightFormat, _ body: (UnsafeRawBufferPointer) -> Void
  ) throws(PolarError) {
    try withStoredRows { bytes throws(PolarError) in
      if let block = BlockTranscoder.firstNonFinite(encoding, bytes) {
        let value = block * encoding.blockValues
        throw .weight(
          name: name,
          reason: "a scale that is no number at row \(rows.lowerBound + value / columns), "
            + "column \(value % columns)")
      }
      guard !BlockTranscoder.isSame(encoding, as: format), let size = format.blockByteCount else {
        return body(bytes)
      }
      let buffer = UnsafeMutableRawBufferPointer.allocate(
        byteCount: rows.count * columns / WeightFormat.groupSize * size, alignment: 16)
      defer { buffer.deallocate() }
      BlockTranscoder.transcode(encoding, bytes, to: format, into: buffer)
      body(UnsafeRawBufferPointer(buffer))
    }
  }

  /// The bytes of the rows in order.
  private func withStoredRows(
    _ body: (UnsafeRawBufferPointer) throws(PolarError) -> Void
  ) throws(PolarError) {
    try tensor.file.checkUnchanged()
    try tensor.file.withBytes(tensor.range) { bytes throws(PolarError) in
      guard tensor.order != .asStored, bytes.count > rowBytes else {
        let stored = bytes[rows.lowerBound * rowBytes..<rows.upperBound * rowBytes]
        return try body(UnsafeRawBufferPointer(rebasing: stored))
      }
      let buffer = UnsafeMutableRawBufferPointer.allocate(
        byteCount: rows.count * rowBytes, alignment: 16)
      defer { buffer.deallocate() }
      for (index, row) in rows.enumerated() {
        let start = tensor.order.storedRow(row) * rowBytes
        UnsafeMutableRawBufferPointer(rebasing: buffer[(index * rowBytes)...])
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[start..<start + rowBytes]))
      }
      try body(UnsafeRawBufferPointer(buffer))
    }
    let start = tensor.range.lowerBound
    tensor.file.drop(start + rows.lowerBound * rowBytes..<start + rows.upperBound * rowBytes)
  }

  private func checkFinite(_ values: UnsafeBufferPointer<Float>) throws(PolarError) {
    guard let base = values.baseAddress else { return }
    // The largest magnitude's bits say whether any exponent is full, without a branch per value.
    var largest: UInt32 = 0
    var index = 0
    while index < values.count {
      largest = max(largest, base[index].bitPattern & 0x7FFF_FFFF)
      index &+= 1
    }
    guard largest >= 0x7F80_0000 else { return }
    let position = values.firstIndex { !$0.isFinite } ?? 0
    throw .weight(
      name: name,
      reason:
        "\(values[position]) at row \(rows.lowerBound + position / columns), column \(position % columns)")
  }
}
