public import PolarCore
import Synchronization

/// Owner of tensors on one backend, for tests: it makes them from host values, keeps them alive, and reads them back.
///
/// Whatever an op must neither read nor write (the space between rows, and a margin after the last) is filled with
/// 0xff bytes, which are NaN as floats; ``damage()`` tells whether something was written there.
public final class TensorPool: Sendable {
  /// The backend that the tensors live on.
  public let backend: any Backend
  private let blocks = Mutex<[Block]>([])

  /// Bytes of margin after every block.
  private static let margin = 64

  private struct Block: Sendable {
    let memory: any DeviceMemory
    /// Bytes from the start of a row to the next; `used` of them belong to the tensor.
    let stride: Int
    let used: Int
    let rows: Int
  }

  /// An empty pool.
  public init(_ backend: any Backend) { self.backend = backend }

  /// A tensor that holds `host`, its rows `gap` elements apart.
  public func tensor<Element>(
    _ host: HostTensor<Element>, gap: Int = 0
  ) throws(PolarError) -> Tensor {
    let tensor = try output(
      rows: host.rows, columns: host.columns, gap: gap, dtype: Element.dtype)
    write(host, to: tensor)
    return tensor
  }

  /// A tensor for an op to write to, its rows `gap` elements apart. It is filled with 0xff bytes (NaN as f32), so that
  /// an element which the op leaves out is noticed.
  public func output(
    rows: Int = 1, columns: Int, gap: Int = 0, dtype: DType = .f32
  ) throws(PolarError) -> Tensor {
    let stride = columns + gap
    let base = try block(
      rows: rows, stride: stride * dtype.byteCount, used: columns * dtype.byteCount, fill: 0xff)
    return Tensor(base, rows: rows, columns: columns, rowStride: stride, dtype: dtype)
  }

  /// A weight `[outputs, inputs]` of the format (nil: the backend's wide one), packed `rowsPerCall` rows at a time (all at once when nil).
  public func weight(
    _ host: HostTensor<Float>, format: WeightFormat? = nil, rowsPerCall: Int? = nil
  ) throws(PolarError) -> PackedMatrix {
    let weight = try emptyWeight(
      outputs: host.rows, inputs: host.columns, format: format ?? backend.wideFormat)
    var row = 0
    while row < host.rows {
      let end = min(host.rows, row + max(1, rowsPerCall ?? host.rows))
      host.rows(row..<end).values.withUnsafeBufferPointer {
        backend.packRows(weight, firstRow: row, values: $0)
      }
      row = end
    }
    return weight
  }

  /// A weight whose rows are given as ggml's blocks of `format`, packed `rowsPerCall` rows at a time.
  public func weight(
    blocks: [UInt8], outputs: Int, inputs: Int, format: WeightFormat, rowsPerCall: Int
  ) throws(PolarError) -> PackedMatrix {
    let weight = try emptyWeight(outputs: outputs, inputs: inputs, format: format)
    let rowBytes = blocks.count / outputs
    for row in stride(from: 0, to: outputs, by: rowsPerCall) {
      let end = min(outputs, row + rowsPerCall)
      blocks[row * rowBytes..<end * rowBytes].withUnsafeBytes {
        backend.packBlocks(weight, firstRow: row, blocks: $0)
      }
    }
    return weight
  }

  private func emptyWeight(
    outputs: Int, inputs: Int, format: WeightFormat
  ) throws(PolarError) -> PackedMatrix {
    let bytes = backend.packedByteCount(outputs: outputs, inputs: inputs, format: format)
    let base = try block(rows: 1, stride: bytes, used: bytes, fill: 0)
    return PackedMatrix(base, outputs: outputs, inputs: inputs, format: format)
  }

  /// A cache of one layer, every element of which is `value` (a number that bf16 represents).
  public func cache(
    pages: Int, kvHeads: Int, headDim: Int, window: Int? = nil, filledWith value: Float = 0
  ) throws(PolarError) -> KVLayer {
    func layer(at base: Address) -> KVLayer {
      KVLayer(
        base, pages: pages, kvHeads: kvHeads, headDim: headDim, dtype: backend.kvDType, window: window)
    }
    let bytes = layer(at: Address(0)).byteCount
    let kv = layer(at: try block(rows: 1, stride: bytes, used: bytes, fill: 0))
    if value != 0 {
      // The upper half of an f32 is the bf16 of the same number.
      let elements = kvHeads * pages * kv.blockElements
      if kv.dtype == .i8 {
        // Codes of 127 and a scale per token; `value` is a bound of what they stand for.
        let codes = [UInt8](repeating: 127, count: kv.blockByteCount - 4 * KVPage.tokens)
        let scale = UInt16((value / 127).bitPattern >> 16)
        let scales = Array(repeating: scale, count: 2 * KVPage.tokens).flatMap {
          [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)]
        }
        let blocks = Array(repeating: codes + scales, count: kvHeads * pages).flatMap(\.self)
        blocks.withUnsafeBytes { backend.upload($0, to: kv.address) }
      } else if kv.dtype == .f32 {
        Array(repeating: value, count: elements).withUnsafeBytes { backend.upload($0, to: kv.address) }
      } else {
        let half = kv.dtype == .f16 ? Float16(value).bitPattern : UInt16(value.bitPattern >> 16)
        Array(repeating: half, count: elements).withUnsafeBytes {
          backend.upload($0, to: kv.address)
        }
      }
    }
    return kv
  }

  /// The tensors of a batch; `tokens` are zeros where they do not matter.
  public func batch(_ layout: BatchLayout, tokens: [Int32]? = nil) throws(PolarError) -> ForwardBatch {
    ForwardBatch(
      tokens: try tensor(HostTensor(tokens ?? Array(repeating: 0, count: layout.rows))),
      positions: try tensor(HostTensor(layout.positions)), slots: try tensor(HostTensor(layout.slots)),
      rowSequences: try tensor(HostTensor(layout.rowSequences)),
      blockTables: try tensor(layout.blockTables, gap: 3), logitRows: try tensor(HostTensor(layout.lastRows)),
      isDecode: layout.sequences.allSatisfy { $0.positions.count == 1 },
      longestContext: layout.sequences.map(\.positions.upperBound).max() ?? 0)
  }

  /// Overwrites a tensor's elements; the space between rows is left alone.
  public func write<Element>(_ host: HostTensor<Element>, to tensor: Tensor) {
    for row in 0..<tensor.rows {
      host.rows(row..<row + 1).values.withUnsafeBytes {
        backend.upload($0, to: tensor.rows(row..<row + 1).address)
      }
    }
  }

  /// A tensor's elements.
  public func read<Element: TensorElement>(
    _ tensor: Tensor, as type: Element.Type = Float.self
  ) -> HostTensor<Element> {
    backend.synchronize()
    var values: [Element] = []
    for row in 0..<tensor.rows {
      let address = tensor.rows(row..<row + 1).address
      values += bytes(at: address, count: tensor.columns * tensor.dtype.byteCount).withUnsafeBytes {
        Array($0.bindMemory(to: Element.self))
      }
    }
    return HostTensor(values, rows: tensor.rows, columns: tensor.columns)
  }

  /// A weight's rows, as the backend stores them.
  public func read(_ weight: PackedMatrix) -> HostTensor<Float> {
    backend.synchronize()
    var values = [Float](repeating: .nan, count: weight.outputs * weight.inputs)
    values.withUnsafeMutableBufferPointer { backend.unpackRows(weight, firstRow: 0, into: $0) }
    return HostTensor(values, rows: weight.outputs, columns: weight.inputs)
  }

  /// All elements of a cache in the order that ``PolarCore/KVLayer`` documents, as floats; of an i8 cache all bytes.
  public func read(_ kv: KVLayer) -> HostTensor<Float> {
    backend.synchronize()
    let raw = bytes(at: kv.address, count: kv.byteCount)
    if kv.dtype == .i8 {
      return HostTensor(raw.map(Float.init), rows: kv.kvHeads * kv.pages, columns: kv.blockByteCount)
    }
    let values: [Float] = raw.withUnsafeBytes { buffer in
      kv.dtype == .f32
        ? Array(buffer.bindMemory(to: Float.self))
        : buffer.bindMemory(to: UInt16.self).map {
          kv.dtype == .f16 ? Float(Float16(bitPattern: $0)) : Float(bitPattern: UInt32($0) << 16)
        }
    }
    let stored = HostTensor(values, rows: kv.kvHeads * kv.pages, columns: kv.blockElements)
    return backend.kvLayout == .byHead ? stored : kv.byHead(stored)
  }

  /// Says where an op wrote outside its tensors, or nil.
  public func damage() -> String? {
    backend.synchronize()
    for (index, block) in blocks.withLock({ $0 }).enumerated() {
      let end = block.rows * block.stride
      var forbidden = (0..<block.rows).map { $0 * block.stride + block.used..<($0 + 1) * block.stride }
      forbidden.append(end..<end + Self.margin)
      for range in forbidden where !range.isEmpty {
        let raw = bytes(at: block.memory.base.advanced(by: range.lowerBound), count: range.count)
        if let offset = raw.firstIndex(where: { $0 != 0xff }) {
          return
            "wrote outside tensor \(index) of the case, \(range.lowerBound + offset) bytes from its start"
        }
      }
    }
    return nil
  }

  private func block(rows: Int, stride: Int, used: Int, fill: UInt8) throws(PolarError) -> Address {
    let memory = try backend.allocate(byteCount: rows * stride + Self.margin)
    let bytes =
      [UInt8](repeating: fill, count: rows * stride) + [UInt8](repeating: 0xff, count: Self.margin)
    bytes.withUnsafeBytes { backend.upload($0, to: memory.base) }
    blocks.withLock { $0.append(Block(memory: memory, stride: stride, used: used, rows: rows)) }
    return memory.base
  }

  private func bytes(at address: Address, count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes { backend.download(address, into: $0) }
    return bytes
  }
}

extension KVLayer {
  /// The elements of a cache in the order ``PolarCore/KVLayout/byPage``, put in the order ``PolarCore/KVLayout/byHead``.
  fileprivate func byHead(_ stored: HostTensor<Float>) -> HostTensor<Float> {
    var result = stored
    for page in 0..<pages {
      for head in 0..<kvHeads {
        for token in 0..<KVPage.tokens {
          for d in 0..<headDim {
            let row = head * pages + page
            let key = ((page * 2 * kvHeads + head) * KVPage.tokens + token) * headDim + d
            result[row, keyIndex(d, token)] = stored.values[key]
            result[row, valueIndex(d, token)] = stored.values[key + kvHeads * KVPage.tokens * headDim]
          }
        }
      }
    }
    return result
  }
}
