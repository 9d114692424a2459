public import PolarCore

/// Element types that tensors move to and from the host as.
public protocol TensorElement: BitwiseCopyable, Sendable, Equatable {
  /// The element type in a backend's memory.
  static var dtype: DType { get }
}

extension Float: TensorElement {
  /// `f32`.
  public static var dtype: DType { .f32 }
}

extension Int32: TensorElement {
  /// `i32`.
  public static var dtype: DType { .i32 }
}

extension UInt8: TensorElement {
  /// `u8`.
  public static var dtype: DType { .u8 }
}

/// A matrix in host memory: what goes to a backend, and what comes back.
public struct HostTensor<Element: TensorElement>: Sendable, Equatable {
  /// Row-major elements `[rows, columns]`.
  public var values: [Element]
  /// Number of rows.
  public let rows: Int
  /// Elements in one row.
  public let columns: Int

  /// A matrix `[rows, columns]`; without a shape, one row.
  public init(_ values: [Element], rows: Int = 1, columns: Int? = nil) {
    self.values = values
    self.rows = rows
    self.columns = columns ?? values.count / max(rows, 1)
    precondition(values.count == rows * self.columns, "\(values.count) values for \(rows) rows")
  }

  /// A matrix of one value.
  public init(repeating value: Element, rows: Int, columns: Int) {
    self.init(Array(repeating: value, count: rows * columns), rows: rows, columns: columns)
  }

  /// The element in row `row` and column `column`.
  public subscript(row: Int, column: Int) -> Element {
    get { values[row * columns + column] }
    set { values[row * columns + column] = newValue }
  }

  /// The matrix of rows `range`.
  public func rows(_ range: Range<Int>) -> HostTensor {
    let elements = values[range.lowerBound * columns..<range.upperBound * columns]
    return HostTensor(Array(elements), rows: range.count, columns: columns)
  }

  /// The matrix of the rows `indices`, in that order.
  public func rows(_ indices: [Int]) -> HostTensor {
    let elements = indices.flatMap { values[$0 * columns..<($0 + 1) * columns] }
    return HostTensor(elements, rows: indices.count, columns: columns)
  }

  /// This matrix with the rows of `other` below its own.
  public func stacked(on other: HostTensor) -> HostTensor {
    HostTensor(values + other.values, rows: rows + other.rows, columns: columns)
  }

  /// This matrix with the columns of `other`, of as many rows, to the right of its own.
  func stackedColumns(_ other: HostTensor) -> HostTensor {
    precondition(rows == other.rows, "\(rows) rows beside \(other.rows)")
    let elements = (0..<rows).flatMap { self.rows($0..<$0 + 1).values + other.rows($0..<$0 + 1).values }
    return HostTensor(elements, rows: rows, columns: columns + other.columns)
  }
}
