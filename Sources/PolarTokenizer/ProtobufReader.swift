import PolarCore

/// Reads the fields of one protobuf message (https://protobuf.dev/programming-guides/encoding/), each within the bounds of
/// the message.
struct ProtobufReader {
  /// A field's value by wire type.
  enum Value {
    case varint(UInt64)
    case fixed64(UInt64)
    case bytes(Range<Int>)
    case fixed32(UInt32)
  }

  private let bytes: [UInt8]
  private var index: Int
  private let end: Int
  private let path: String

  /// A reader of the message that is a range of `bytes`, all of them by default.
  init(_ bytes: [UInt8], _ range: Range<Int>? = nil, path: String) {
    self.bytes = bytes
    self.path = path
    (index, end) = range.map { ($0.lowerBound, $0.upperBound) } ?? (0, bytes.count)
  }

  /// An error at the place that is being read.
  func malformed(_ reason: String) -> PolarError {
    .malformed(path: path, reason: "protobuf: \(reason) at byte \(index)")
  }

  /// The next field, or nil at the end of the message.
  mutating func next() throws(PolarError) -> (field: Int, value: Value)? {
    guard index < end else { return nil }
    let key = try varint()
    guard key >> 3 >= 1, key >> 3 < 1 << 29 else { throw malformed("field number \(key >> 3)") }
    let field = Int(key >> 3)
    switch key & 7 {
    case 0: return (field, .varint(try varint()))
    case 1: return (field, .fixed64(try fixed(8)))
    case 2:
      let count = try varint()
      guard count <= UInt64(end - index) else {
        throw malformed("a field of \(count) bytes with \(end - index) left")
      }
      defer { index += Int(count) }
      return (field, .bytes(index..<index + Int(count)))
    case 5: return (field, .fixed32(UInt32(truncatingIfNeeded: try fixed(4))))
    default: throw malformed("wire type \(key & 7)")
    }
  }

  private mutating func varint() throws(PolarError) -> UInt64 {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 70, by: 7) {
      guard index < end else { throw malformed("the message ends early") }
      let byte = UInt64(bytes[index])
      guard shift < 63 || byte <= 1 else { throw malformed("a number of more than 64 bits") }
      index += 1
      value |= (byte & 0x7F) << shift
      if byte < 0x80 { return value }
    }
    throw malformed("a number of more than 64 bits")
  }

  private mutating func fixed(_ count: Int) throws(PolarError) -> UInt64 {
    guard end - index >= count else { throw malformed("the message ends early") }
    defer { index += count }
    return (0..<count).reduce(0) { $0 | UInt64(bytes[index + $1]) << UInt64(8 * $1) }
  }
}
