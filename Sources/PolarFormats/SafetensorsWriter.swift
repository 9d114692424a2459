public import PolarCore

/// Collects tensors and metadata and writes them as one safetensors file.
///
/// The file appears whole or not at all: it is written beside its destination, flushed to disk and renamed,
/// so on a full disk or any other error a file that was there before survives.
public struct SafetensorsWriter: Sendable {
  private struct Item {
    let dtype: String
    let elementBytes: Int
    let shape: [Int]
    let write: @Sendable (FileOutput) throws(PolarError) -> Void
  }

  /// The strings of `__metadata__`.
  public var metadata: [String: String]
  private var items: [String: Item] = [:]

  /// A writer of no tensors yet.
  public init(metadata: [String: String] = [:]) {
    self.metadata = metadata
  }

  /// Adds an F32 tensor, row-major.
  /// - Throws: ``PolarError/weight(name:reason:)`` when the name is taken or the shape does not fit.
  public mutating func add(_ name: String, f32 values: [Float], shape: [Int]) throws(PolarError) {
    try add(name, "F32", values, shape)
  }

  /// Adds a BF16 tensor, row-major, of values rounded to nearest even. NaN stays NaN.
  /// - Throws: as ``add(_:f32:shape:)``.
  public mutating func add(_ name: String, bf16 values: [Float], shape: [Int]) throws(PolarError) {
    let halves = values.map { value -> UInt16 in
      let bits = value.bitPattern
      guard !value.isNaN else { return UInt16(bits >> 16) | 0x40 }
      return UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ (bits >> 16 & 1)) >> 16)
    }
    try add(name, "BF16", halves, shape)
  }

  /// Adds an I32 tensor, row-major.
  /// - Throws: as ``add(_:f32:shape:)``.
  public mutating func add(_ name: String, i32 values: [Int32], shape: [Int]) throws(PolarError) {
    try add(name, "I32", values, shape)
  }

  /// Adds a U8 tensor, row-major.
  /// - Throws: as ``add(_:f32:shape:)``.
  public mutating func add(_ name: String, u8 values: [UInt8], shape: [Int]) throws(PolarError) {
    try add(name, "U8", values, shape)
  }

  private mutating func add<T: BitwiseCopyable & Sendable>(
    _ name: String, _ dtype: String, _ values: [T], _ shape: [Int]
  ) throws(PolarError) {
    guard name != "__metadata__", items[name] == nil else {
      throw .weight(name: name, reason: "the name is taken")
    }
    var count = 1
    for dimension in shape {
      let (product, overflow) = count.multipliedReportingOverflow(by: dimension)
      guard dimension >= 0, !overflow else { throw .weight(name: name, reason: "shape \(shape) is not one") }
      count = product
    }
    guard count == values.count else {
      throw .weight(name: name, reason: "\(values.count) values for shape \(shape)")
    }
    items[name] = Item(dtype: dtype, elementBytes: MemoryLayout<T>.size, shape: shape) {
      (output) throws(PolarError) in
      try output.write(values)
    }
  }

  /// Writes the file at `path`, replacing one that is there.
  /// - Throws: ``PolarError/file(path:reason:)``; then `path` is as it was and no other file is left.
  public func write(to path: String) throws(PolarError) {
    try FileOutput.replace(path) { output throws(PolarError) in try write(to: output) }
  }

  /// Writes header and data to an open file.
  func write(to output: FileOutput) throws(PolarError) {
    // Wide elements first, so that every tensor is aligned to its elements.
    let ordered = items.sorted { ($1.value.elementBytes, $0.key) < ($0.value.elementBytes, $1.key) }
    var header = Array("{".utf8)
    if !metadata.isEmpty {
      let pairs = metadata.sorted { $0.key < $1.key }.map {
        Self.quoted($0.key) + ":" + Self.quoted($0.value)
      }
      header += Array(("\"__metadata__\":{" + pairs.joined(separator: ",") + "}").utf8)
    }
    var offset = 0
    for (name, item) in ordered {
      if header.count > 1 { header.append(UInt8(ascii: ",")) }
      let end = offset + item.shape.reduce(item.elementBytes, *)
      let shape = item.shape.map { String($0) }.joined(separator: ",")
      let fields = "{\"dtype\":\"\(item.dtype)\",\"shape\":[\(shape)],\"data_offsets\":[\(offset),\(end)]}"
      header += Array((Self.quoted(name) + ":" + fields).utf8)
      offset = end
    }
    header.append(UInt8(ascii: "}"))
    while header.count % 8 != 0 { header.append(UInt8(ascii: " ")) }
    guard header.count <= Safetensors.maximumHeader else {
      throw .file(path: output.path, reason: "a header of \(header.count) bytes is too long")
    }
    try output.write([UInt64(header.count).littleEndian])
    try output.write(header)
    for (_, item) in ordered { try item.write(output) }
  }

  /// `text` as a JSON string.
  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\u{0}"..<"\u{20}":
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
