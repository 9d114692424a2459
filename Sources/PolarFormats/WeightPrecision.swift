public import PolarCore

/// How wide weights are in memory.
public enum WeightPrecision: String, Sendable, CaseIterable {
  /// As wide as in the file: 4-bit blocks stay 4-bit, blocks of 5 to 8 bits become int8, f16 stays f16 where the
  /// backend has it, all others are bf16.
  case stored
  /// bf16 throughout; blocks are expanded.
  case bf16
  /// f16 throughout, on a backend that has it; blocks are expanded.
  case f16
  /// int8 throughout.
  case int8
  /// 4-bit, except for token tables and the output head, which are int8: they are more sensitive, and a table is read one
  /// row at a time.
  case q4

  /// The format of a tensor that is stored as `encoding`; `isTable` for token tables and output heads.
  public func format(of encoding: WeightEncoding, isTable: Bool) -> WeightFormat {
    switch (self, encoding) {
    case (.bf16, _), (.stored, .f32), (.stored, .bf16): .bf16
    case (.f16, _), (.stored, .f16): .f16
    case (.int8, _): .int8
    case (.stored, .q80), (.stored, .q50), (.stored, .q51), (.stored, .q5K), (.stored, .q6K): .int8
    case (.stored, .q40): .int4
    case (.stored, .q41), (.stored, .q4K): .int4Affine
    case (.q4, .q41), (.q4, .q4K): .int4Affine
    case (.q4, .q40): .int4
    case (.q4, _): isTable ? .int8 : .int4
    }
  }
}

extension WeightFormat {
  /// The narrowest format that holds tensors of all of these formats, for tensors that are stacked into one. A 4-bit
  /// format among int8 ones is requantised to int8, whose steps are a 17th of its own; int4 becomes int4Affine exactly.
  public static func common(_ formats: [WeightFormat]) -> WeightFormat {
    if formats.contains(.bf16) { return .bf16 }
    if formats.contains(.f16) { return .f16 }
    if formats.contains(.int8) { return .int8 }
    return formats.contains(.int4Affine) ? .int4Affine : .int4
  }
}
