/// How the values of a weight are stored in a file. Block formats are those of ggml; every one expands to
/// f32.
public enum WeightEncoding: String, Sendable, CaseIterable {
  case f32 = "F32"
  case f16 = "F16"
  case bf16 = "BF16"
  case q80 = "Q8_0"
  case q40 = "Q4_0"
  case q41 = "Q4_1"
  case q50 = "Q5_0"
  case q51 = "Q5_1"
  case q4K = "Q4_K"
  case q5K = "Q5_K"
  case q6K = "Q6_K"

  /// Values in one block; rows are whole blocks.
  public var blockValues: Int {
    switch self {
    case .f32, .f16, .bf16: 1
    case .q80, .q40, .q41, .q50, .q51: 32
    case .q4K, .q5K, .q6K: 256
    }
  }

  /// Bytes of one block.
  public var blockBytes: Int {
    switch self {
    case .f32: 4
    case .f16, .bf16: 2
    case .q80: 34  // f16 scale, 32 i8
    case .q40: 18  // f16 scale, 32 4-bit
    case .q41: 20  // f16 scale, f16 minimum, 32 4-bit
    case .q50: 22  // f16 scale, 32 high bits, 32 4-bit
    case .q51: 24  // f16 scale, f16 minimum, 32 high bits, 32 4-bit
    case .q4K: 144  // f16 scale and minimum, 12 of 6-bit scales, 256 4-bit
    case .q5K: 176  // as Q4_K, and 256 high bits
    case .q6K: 210  // 256 4-bit, 256 2-bit, 16 i8 scales, f16 scale
    }
  }

  /// Bytes of `count` values, or nil when they are not whole blocks or overflow.
  public func byteCount(values count: Int) -> Int? {
    let (blocks, rest) = count.quotientAndRemainder(dividingBy: blockValues)
    let (bytes, overflow) = blocks.multipliedReportingOverflow(by: blockBytes)
    return rest == 0 && count >= 0 && !overflow ? bytes : nil
  }

  /// The encoding with ggml's type number `code`.
  init?(ggml code: UInt32) {
    switch code {
    case 0: self = .f32
    case 1: self = .f16
    case 2: self = .q40
    case 3: self = .q41
    case 6: self = .q50
    case 7: self = .q51
    case 8: self = .q80
    case 12: self = .q4K
    case 13: self = .q5K
    case 14: self = .q6K
    case 30: self = .bf16
    default: return nil
    }
  }

  /// The name of a ggml type that cannot be expanded, for messages.
  static func unsupportedName(ggml code: UInt32) -> String {
    let names: [UInt32: String] = [
      9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
      20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
      28: "F64",
      29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    ]
    return names[code] ?? "type \(code)"
  }
}
