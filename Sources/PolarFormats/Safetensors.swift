public import PolarCore

/// One safetensors file, mapped. The whole header is checked when it is opened; data is read when asked for.
///
/// Refused: headers over 100 MB or not strict UTF-8 JSON, duplicate names, data that overlaps, leaves gaps,
/// lies outside the file or does not fill it, and byte counts that do not match dtype and shape.
public final class Safetensors: Sendable {
  /// What the header says of one tensor.
  public struct Entry: Sendable, Equatable {
    /// The dtype as written, like `BF16`.
    public let dtype: String
    /// Outermost dimension first; empty for a scalar.
    public let shape: [Int]
    /// The data's bytes within the file.
    public let range: Range<Int>
    /// Number of elements.
    public var count: Int { shape.reduce(1, *) }
  }

  /// The mapped file.
  public let file: MappedFile
  /// The strings of `__metadata__`.
  public let metadata: [String: String]
  /// All tensors by name.
  public let tensors: [String: Entry]

  /// The largest header that is read.
  static let maximumHeader = 100_000_000
  /// More dimensions than this are refused.
  private static let maximumRank = 8
  private static let elementBytes: [String: Int] = [
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4,
    "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
  ]

  /// Opens and checks the file at `path`.
  /// - Throws: ``PolarError/file(path:reason:)``, ``PolarError/malformed(path:reason:)``, or
  ///   ``PolarError/unsupported(path:what:)`` for an unknown dtype.
  public init(path: String) throws(PolarError) {
    let file = try MappedFile(path: path)
    guard file.byteCount >= 8 else {
      throw .malformed(path: path, reason: "\(file.byteCount) bytes, shorter than a header")
    }
    let length: UInt64 = try file.integer(at: 0)
    guard length <= UInt64(Self.maximumHeader) else {
      throw .malformed(path: path, reason: "a header of \(length) bytes, more than \(Self.maximumHeader)")
    }
    guard Int(length) <= file.byteCount - 8 else {
      throw .malformed(path: path, reason: "a header of \(length) bytes in a file of \(file.byteCount)")
    }
    let dataStart = 8 + Int(length)
    let header = try file.withBytes(8..<dataStart) { bytes throws(PolarError) -> JSON in
      guard bytes.first == UInt8(ascii: "{") else {
        throw .malformed(path: path, reason: "the header does not begin with '{'")
      }
      return try JSON.parse(bytes, path: path)
    }
    guard let members = header.members else {
      throw .malformed(path: path, reason: "the header is not an object")
    }

    var metadata: [String: String] = [:]
    var tensors: [String: Entry] = [:]
    for (name, value) in members {
      if name == "__metadata__" {
        metadata = try Self.strings(value, path: path)
      } else {
        tensors[name] = try Self.entry(name, value, dataStart: dataStart, file: file)
      }
    }
    try Self.checkLayout(tensors, dataStart: dataStart, file: file)
    self.file = file
    self.metadata = metadata
    self.tensors = tensors
  }

  private static func strings(_ value: JSON, path: String) throws(PolarError) -> [String: String] {
    guard let members = value.members else {
      throw .malformed(path: path, reason: "__metadata__ is not an object")
    }
    var result: [String: String] = [:]
    for (key, member) in members {
      guard let text = member.text else {
        throw .malformed(path: path, reason: "__metadata__ '\(key.prefix(80))' is not a string")
      }
      result[key] = text
    }
    return result
  }

  private static func entry(
    _ name: String, _ value: JSON, dataStart: Int, file: MappedFile
  ) throws(PolarError) -> Entry {
    func fault(_ reason: String) -> PolarError {
      .malformed(path: file.path, reason: "tensor '\(name.prefix(120))': \(reason)")
    }
    guard let members = value.members, let dtype = members["dtype"]?.text,
      let dimensions = members["shape"]?.items,
      let offsets = members["data_offsets"]?.items
    else { throw fault("dtype, shape and data_offsets expected") }
    guard members.count == 3 else { throw fault("more than dtype, shape and data_offsets") }
    guard let size = elementBytes[dtype] else {
      throw .unsupported(path: file.path, what: "dtype '\(dtype.prefix(40))' of tensor '\(name.prefix(120))'")
    }
    guard dimensions.count <= maximumRank else { throw fault("\(dimensions.count) dimensions") }
    var shape: [Int] = []
    var bytes = size
    for dimension in dimensions {
      guard case .integer(let length) = dimension, length >= 0 else {
        throw fault("a dimension that is not a size")
      }
      let (product, overflow) = bytes.multipliedReportingOverflow(by: length)
      guard !overflow else { throw fault("a shape that overflows") }
      bytes = product
      shape.append(length)
    }
    guard offsets.count == 2, case .integer(let begin) = offsets[0], case .integer(let end) = offsets[1]
    else {
      throw fault("data_offsets are not two integers")
    }
    guard begin >= 0, begin <= end, end <= file.byteCount - dataStart else {
      throw fault("data_offsets \(begin) to \(end) outside \(file.byteCount - dataStart) bytes of data")
    }
    guard end - begin == bytes else {
      throw fault("\(end - begin) bytes of data where \(dtype) \(shape) takes \(bytes)")
    }
    return Entry(dtype: dtype, shape: shape, range: dataStart + begin..<dataStart + end)
  }

  /// The tensors must tile the data exactly.
  private static func checkLayout(
    _ tensors: [String: Entry], dataStart: Int, file: MappedFile
  ) throws(PolarError) {
    let ordered = tensors.sorted {
      ($0.value.range.lowerBound, $0.value.range.upperBound) < (
        $1.value.range.lowerBound, $1.value.range.upperBound
      )
    }
    var end = dataStart
    for (name, entry) in ordered {
      guard entry.range.lowerBound == end else {
        let what = entry.range.lowerBound < end ? "overlaps the tensor before it" : "leaves a gap before it"
        throw .malformed(path: file.path, reason: "tensor '\(name.prefix(120))' \(what)")
      }
      end = entry.range.upperBound
    }
    guard end == file.byteCount else {
      throw .malformed(path: file.path, reason: "\(file.byteCount - end) bytes after the last tensor")
    }
  }

  /// The entry of `name`, of one of `dtypes`.
  private func entry(_ name: String, _ dtypes: [String]) throws(PolarError) -> Entry {
    guard let entry = tensors[name] else { throw .weight(name: name, reason: "missing in \(file.path)") }
    guard dtypes.contains(entry.dtype) else {
      throw .weight(
        name: name, reason: "dtype \(entry.dtype) where \(dtypes.joined(separator: ", ")) is needed")
    }
    return entry
  }

  /// All values of an F32, F16 or BF16 tensor, row-major.
  public func floats(_ name: String) throws(PolarError) -> [Float] {
    let entry = try entry(name, ["F32", "F16", "BF16"])
    guard let encoding = WeightEncoding(rawValue: entry.dtype) else {
      throw .weight(name: name, reason: "dtype \(entry.dtype)")
    }
    try file.checkUnchanged()
    return try file.withBytes(entry.range) { bytes in
      [Float](unsafeUninitializedCapacity: entry.count) { buffer, count in
        Dequantizer.expand(
          encoding, bytes, into: UnsafeMutableBufferPointer(rebasing: buffer[..<entry.count]))
        count = entry.count
      }
    }
  }

  /// All values of an I32 tensor, row-major.
  public func integers(_ name: String) throws(PolarError) -> [Int32] {
    let entry = try entry(name, ["I32"])
    try file.checkUnchanged()
    return try file.withBytes(entry.range) { bytes in
      (0..<entry.count).map {
        Int32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Int32.self))
      }
    }
  }

  /// All values of a U8 tensor, row-major.
  public func bytes(_ name: String) throws(PolarError) -> [UInt8] {
    let entry = try entry(name, ["U8"])
    try file.checkUnchanged()
    return try file.withBytes(entry.range) { bytes in Array(bytes) }
  }
}
