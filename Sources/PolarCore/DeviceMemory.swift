/// A block of a backend's memory, freed when the last reference goes. It is 64-byte aligned and zeroed.
public protocol DeviceMemory: AnyObject, Sendable {
  /// Where the block starts.
  var base: Address { get }
  /// Its size.
  var byteCount: Int { get }
}
