// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

public import PolarCore

/// The executable specification of every op: single-threaded, f32 with sums in `Double`, and written to be read.
///
/// Other backends are checked against it (``ConformanceSuite``). It is slow, and unlike them it may allocate.
public final class ReferenceBackend: Backend {
  /// K and V are stored as they are, or as i8 with scales, from which attention computes in full precision.
  public let kvDType: DType

  /// The reference backend; `kvDType` is f32 or i8.
  public init(kvDType: DType = .f32) { self.kvDType = kvDType == .i8 ? .i8 : .f32 }

  public var name: String { "reference" }

  // MARK: Memory

  public func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    try HostMemory(byteCount: byteCount)
  }

  public func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) {
    guard let source = bytes.baseAddress else { return }
    address.pointer(to: UInt8.self).update(
      from: source.assumingMemoryBound(to: UInt8.self), count: bytes.count)
  }

  public func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    guard let target = bytes.baseAddress else { return }
    target.copyMemory(from: address.pointer(to: UInt8.self), byteCount: bytes.count)
  }

  public func synchronize() {}
}

/// `sum_i a[i] * b[i]` over `count` elements.
func dot(_ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, _ count: Int) -> Double {
  var sum = 0.0
  var i = 0
  while i < count {
    sum += Double(a[i]) * Double(b[i])
    i += 1
  }
  return sum
}
