/// The type of a GGUF metadata value, with the numbers of the file format.
public enum GGUFValueType: UInt32, Sendable {
  case uint8, int8, uint16, int16, uint32, int32, float32, bool, string, array, uint64, int64, float64

  /// Bytes of a value of fixed size; nil for strings and arrays.
  var byteCount: Int? {
    switch self {
    case .uint8, .int8, .bool: 1
    case .uint16, .int16: 2
    case .uint32, .int32, .float32: 4
    case .uint64, .int64, .float64: 8
    case .string, .array: nil
    }
  }
}

/// One GGUF metadata value. Arrays stay in the file until they are asked for.
public enum GGUFValue: Sendable, Equatable {
  case unsigned(UInt64)
  case signed(Int64)
  case float(Double)
  case bool(Bool)
  case string(String)
  case array(GGUFArray)
}

/// A metadata array: where its items lie in the file. Nested arrays are checked, but not decoded.
public struct GGUFArray: Sendable, Equatable {
  /// The type of every item.
  public let type: GGUFValueType
  /// Number of items.
  public let count: Int
  /// Bytes of the items within the file.
  let range: Range<Int>
}
