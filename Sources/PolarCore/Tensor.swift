/// An address in some backend's memory. Only the backend that made it turns it into a pointer.
@frozen public struct Address: BitwiseCopyable, Sendable, Hashable {
  /// The raw address.
  public let bits: UInt

  /// Wraps a raw address.
  @inlinable public init(_ bits: UInt) { self.bits = bits }

  /// The address `bytes` further on.
  @inlinable public func advanced(by bytes: Int) -> Address { Address(bits &+ UInt(bitPattern: bytes)) }
}

/// A view of row-major data in a backend's memory: address, element type, shape and row stride. It owns nothing.
///
/// Every op sees a tensor as a matrix: `rows` is the product of all leading dimensions and `columns` the last
/// one. Rows may be further apart than `columns` (`rowStride`, in elements); columns are contiguous.
@frozen public struct Tensor: BitwiseCopyable, Sendable {
  /// Where the first element lies.
  public let address: Address
  /// Number of rows.
  public let rows: Int
  /// Elements in one row.
  public let columns: Int
  /// Elements from the start of one row to the start of the next.
  public let rowStride: Int
  /// Element type.
  public let dtype: DType

  /// A matrix `[rows, columns]`; a vector is one row.
  @inlinable
  public init(
    _ address: Address, rows: Int = 1, columns: Int, rowStride: Int? = nil, dtype: DType = .f32
  ) {
    self.address = address
    self.rows = rows
    self.columns = columns
    self.rowStride = rowStride ?? columns
    self.dtype = dtype
  }

  /// Elements in the view.
  @inlinable public var count: Int { rows * columns }

  /// True when there is no gap between rows.
  @inlinable public var isContiguous: Bool { rowStride == columns || rows <= 1 }

  /// The view of rows `range`.
  @inlinable public func rows(_ range: Range<Int>) -> Tensor {
    Tensor(
      address.advanced(by: range.lowerBound * rowStride * dtype.byteCount), rows: range.count,
      columns: columns, rowStride: rowStride, dtype: dtype)
  }

  /// The view of columns `range` of every row.
  @inlinable public func columns(_ range: Range<Int>) -> Tensor {
    Tensor(
      address.advanced(by: range.lowerBound * dtype.byteCount), rows: rows, columns: range.count,
      rowStride: rowStride, dtype: dtype)
  }
}

/// A linear layer's weight `[outputs, inputs]` in the backend's own layout
/// (see ``Backend/packedByteCount(outputs:inputs:format:)``).
@frozen public struct PackedMatrix: BitwiseCopyable, Sendable {
  /// Where the packed data lies.
  public let address: Address
  /// Rows of the weight: outputs of the layer, or tokens of an embedding table.
  public let outputs: Int
  /// Columns of the weight: inputs of the layer.
  public let inputs: Int
  /// How the values are stored.
  public let format: WeightFormat

  /// Describes packed data of `[outputs, inputs]` at `address`.
  @inlinable public init(
    _ address: Address, outputs: Int, inputs: Int, format: WeightFormat = .bf16
  ) {
    self.address = address
    self.outputs = outputs
    self.inputs = inputs
    self.format = format
  }
}
