public import PolarCore

/// A GGUF file of version 2 or 3, mapped. Header, metadata and tensor table are checked when it is opened,
/// with every size compared with the bytes that remain before anything is allocated for it.
public final class GGUF: Sendable {
  /// One tensor of the table.
  public struct Tensor: Sendable, Equatable {
    /// The name in llama.cpp's scheme, like `blk.0.attn_q.weight`.
    public let name: String
    /// Outermost dimension first (the file stores it innermost first).
    public let shape: [Int]
    /// How values are stored.
    public let encoding: WeightEncoding
    /// The data's bytes within the file.
    public let range: Range<Int>
  }

  /// The mapped file.
  public let file: MappedFile
  /// The format version, 2 or 3.
  public let version: Int
  /// All metadata by key.
  public let metadata: [String: GGUFValue]
  /// All tensors in file order.
  public let tensors: [Tensor]

  /// Opens and checks the file at `path`.
  /// - Throws: ``PolarError/file(path:reason:)``, ``PolarError/malformed(path:reason:)``, or
  ///   ``PolarError/unsupported(path:what:)`` for other versions and tensor types.
  public init(path: String) throws(PolarError) {
    let file = try MappedFile(path: path)
    var cursor = GGUFCursor(file: file)
    guard file.byteCount >= 4, try cursor.integer(UInt32.self) == Self.magic else {
      throw .malformed(path: path, reason: "not a GGUF file")
    }
    let version = try cursor.integer(UInt32.self)
    guard version == 2 || version == 3 else {
      let swapped = version.byteSwapped == 2 || version.byteSwapped == 3
      throw .unsupported(path: path, what: swapped ? "big-endian GGUF" : "GGUF version \(version)")
    }
    // A tensor takes at least 24 bytes of the table (name length, rank, type, offset); a pair at least 13.
    let tensorCount = try cursor.count("tensors", minimumBytes: 24)
    let pairCount = try cursor.count("metadata pairs", minimumBytes: 13)
    var metadata: [String: GGUFValue] = [:]
    for _ in 0..<pairCount {
      let key = try cursor.string("metadata key", limit: Self.maximumKey)
      let value = try cursor.value(key: key)
      guard metadata.updateValue(value, forKey: key) == nil else {
        throw .malformed(path: path, reason: "metadata key '\(key.prefix(120))' twice")
      }
    }
    let alignment = try Self.alignment(metadata, path: path)
    self.tensors = try Self.table(&cursor, count: tensorCount, alignment: alignment)
    self.file = file
    self.version = Int(version)
    self.metadata = metadata
  }

  private static let magic: UInt32 = 0x4655_4747  // "GGUF", little-endian
  private static let maximumKey = 65535
  private static let maximumName = 1024
  private static let maximumAlignment: UInt64 = 1 << 20

  private static func alignment(_ metadata: [String: GGUFValue], path: String) throws(PolarError) -> Int {
    guard let value = metadata["general.alignment"] else { return 32 }
    guard case .unsigned(let alignment) = value, alignment.nonzeroBitCount == 1, alignment <= maximumAlignment
    else {
      throw .malformed(
        path: path, reason: "general.alignment is not a power of two of at most \(maximumAlignment)")
    }
    return Int(alignment)
  }

  private static func table(
    _ cursor: inout GGUFCursor, count: Int, alignment: Int
  ) throws(PolarError) -> [Tensor] {
    let path = cursor.file.path
    var found: [(name: String, shape: [Int], encoding: WeightEncoding, offset: UInt64, bytes: Int)] = []
    var names: Set<String> = []
    for _ in 0..<count {
      let name = try cursor.string("tensor name", limit: maximumName)
      func fault(_ reason: String) -> PolarError {
        .malformed(path: path, reason: "tensor '\(name.prefix(120))': \(reason)")
      }
      guard names.insert(name).inserted else { throw fault("in the table twice") }
      let rank = try cursor.integer(UInt32.self)
      guard (1...4).contains(rank) else { throw fault("\(rank) dimensions") }
      var shape: [Int] = []
      var values = 1
      for _ in 0..<rank {
        guard let length = Int(exactly: try cursor.integer(UInt64.self)), length > 0 else {
          throw fault("a dimension that is not a size")
        }
        let (product, overflow) = values.multipliedReportingOverflow(by: length)
        guard !overflow else { throw fault("a shape that overflows") }
        values = product
        shape.insert(length, at: 0)
      }
      let code = try cursor.integer(UInt32.self)
      guard let encoding = WeightEncoding(ggml: code) else {
        throw .unsupported(
          path: path,
          what: "\(WeightEncoding.unsupportedName(ggml: code)) data of tensor '\(name.prefix(120))'")
      }
      guard shape[shape.count - 1] % encoding.blockValues == 0, let bytes = encoding.byteCount(values: values)
      else {
        throw fault("rows of \(shape[shape.count - 1]) values are not whole \(encoding.rawValue) blocks")
      }
      let offset = try cursor.integer(UInt64.self)
      guard offset % UInt64(alignment) == 0 else {
        throw fault("offset \(offset) is not aligned to \(alignment)")
      }
      found.append((name, shape, encoding, offset, bytes))
    }

    let dataStart = (cursor.offset + alignment - 1) / alignment * alignment
    let available = max(0, cursor.file.byteCount - dataStart)
    var tensors: [Tensor] = []
    for tensor in found {
      guard let offset = Int(exactly: tensor.offset), offset <= available, tensor.bytes <= available - offset
      else {
        throw .malformed(
          path: path,
          reason: "tensor '\(tensor.name.prefix(120))': \(tensor.bytes) bytes at \(tensor.offset) outside "
            + "\(available) bytes of data")
      }
      let start = dataStart + offset
      tensors.append(
        Tensor(
          name: tensor.name, shape: tensor.shape, encoding: tensor.encoding,
          range: start..<start + tensor.bytes))
    }
    let ordered = tensors.sorted { $0.range.lowerBound < $1.range.lowerBound }
    for (before, after) in zip(ordered, ordered.dropFirst())
    where after.range.lowerBound < before.range.upperBound {
      throw .malformed(path: path, reason: "tensors '\(before.name)' and '\(after.name)' overlap")
    }
    return tensors
  }
}

/// Reads GGUF's header fields one after another.
struct GGUFCursor {
  let file: MappedFile
  var offset = 0
  /// Deeper arrays of arrays are refused.
  private static let maximumDepth = 4

  init(file: MappedFile) { self.file = file }

  private func fault(_ reason: String) -> PolarError { .malformed(path: file.path, reason: reason) }

  private var remaining: Int { file.byteCount - offset }

  mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type) throws(PolarError) -> T {
    let value: T = try file.integer(at: offset)
    offset += MemoryLayout<T>.size
    return value
  }

  /// A 64-bit count of things that take at least `minimumBytes` each of what remains.
  mutating func count(_ what: String, minimumBytes: Int) throws(PolarError) -> Int {
    let count = try integer(UInt64.self)
    guard let result = Int(exactly: count), result <= remaining / minimumBytes else {
      throw fault("\(count) \(what) announced with \(remaining) bytes left")
    }
    return result
  }

  /// The byte range of a string, and moves past it.
  private mutating func stringRange(_ what: String, limit: Int) throws(PolarError) -> Range<Int> {
    let length = try count("bytes of \(what)", minimumBytes: 1)
    guard length <= limit else { throw fault("a \(what) of \(length) bytes, more than \(limit)") }
    defer { offset += length }
    return offset..<offset + length
  }

  mutating func string(_ what: String, limit: Int = .max) throws(PolarError) -> String {
    try file.string(try stringRange(what, limit: limit))
  }

  mutating func value(key: String) throws(PolarError) -> GGUFValue {
    switch try type(key) {
    case .uint8: return .unsigned(UInt64(try integer(UInt8.self)))
    case .uint16: return .unsigned(UInt64(try integer(UInt16.self)))
    case .uint32: return .unsigned(UInt64(try integer(UInt32.self)))
    case .uint64: return .unsigned(try integer(UInt64.self))
    case .int8: return .signed(Int64(try integer(Int8.self)))
    case .int16: return .signed(Int64(try integer(Int16.self)))
    case .int32: return .signed(Int64(try integer(Int32.self)))
    case .int64: return .signed(try integer(Int64.self))
    case .float32: return .float(Double(Float(bitPattern: try integer(UInt32.self))))
    case .float64: return .float(Double(bitPattern: try integer(UInt64.self)))
    case .bool: return .bool(try integer(UInt8.self) != 0)
    case .string: return .string(try string("metadata '\(key.prefix(120))'"))
    case .array: return .array(try array(key, depth: 1))
    }
  }

  private mutating func type(_ key: String) throws(PolarError) -> GGUFValueType {
    let code = try integer(UInt32.self)
    guard let type = GGUFValueType(rawValue: code) else {
      throw fault("metadata '\(key.prefix(120))' is of unknown type \(code)")
    }
    return type
  }

  /// Walks over an array, so that all of its lengths are known to be inside the file.
  private mutating func array(_ key: String, depth: Int) throws(PolarError) -> GGUFArray {
    guard depth <= Self.maximumDepth else { throw fault("metadata '\(key.prefix(120))' is nested too deep") }
    let type = try type(key)
    // An item that is a string takes at least its length, one that is an array its type and count.
    let count = try count(
      "items of '\(key.prefix(120))'", minimumBytes: type.byteCount ?? (type == .string ? 8 : 12))
    let start = offset
    if let size = type.byteCount {
      offset += count * size
    } else if type == .string {
      for _ in 0..<count {
        let length = try integer(UInt64.self)
        guard length <= UInt64(remaining) else {
          throw fault("a string of \(length) bytes in '\(key.prefix(120))' with \(remaining) bytes left")
        }
        offset += Int(length)
      }
    } else {
      for _ in 0..<count { _ = try array(key, depth: depth + 1) }
    }
    return GGUFArray(type: type, count: count, range: start..<offset)
  }
}
