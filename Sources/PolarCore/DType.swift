/// Element types of tensors. Quantised file formats are expanded at load; these are what ops compute with.
@frozen public enum DType: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case f32
  case bf16
  case i32
  case u8
  case i8
  case f16

  /// Bytes of one element.
  @inlinable public var byteCount: Int {
    switch self {
    case .f32, .i32: 4
    case .bf16, .f16: 2
    case .u8, .i8: 1
    }
  }
}
