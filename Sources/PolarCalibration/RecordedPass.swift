import PolarCore

/// What one forward pass leaves for the host: norms, sums and packed activations of all layers, in one block of the device's
/// memory that is copied once, when the pass is over.
final class RecordedPass {
  private let memory: any DeviceMemory
  private let ops: any TrainingOps
  private let maximumRows: Int
  private let units: Int
  private let outputs: Int
  /// Bytes of the packed activations of a token.
  private let packedBytes: Int
  /// Floats of a layer: turns `[rows]`, deviations and norms `[rows, units]`, sums `[outputs]`, and the bytes of a mask
  /// `[rows, units]`; all of whole 64 bytes.
  private let layerFloats: Int
  private let layers: Int
  /// The place of a layer among those whose activations are recorded.
  private let packedPlaces: [Int?]
  private let listOffset: Int
  private var rows = 0
  private var floats: [Float] = []
  private var packed: [UInt8] = []

  /// Room for passes of up to `rows` rows.
  /// - Parameters:
  ///   - outputs: columns of attention's output.
  ///   - recordsNeurons: by layer.
  init(
    rows: Int, units: Int, outputs: Int, neurons: Int, recordsNeurons: [Bool], on ops: any TrainingOps
  ) throws(PolarError) {
    self.ops = ops
    maximumRows = rows
    self.units = units
    self.outputs = outputs
    packedBytes = ActivationBits.bytesPerToken(neurons: neurons)
    layers = recordsNeurons.count
    layerFloats =
      Self.padded(rows) + 2 * Self.padded(rows * units) + Self.padded(outputs)
      + Self.padded((rows * units + 3) / 4)
    var places = 0
    packedPlaces = recordsNeurons.map { records in
      defer { places += records ? 1 : 0 }
      return records ? places : nil
    }
    let lists = layers * layerFloats * 4
    listOffset = lists
    memory = try ops.allocate(
      byteCount: lists + 2 * Self.padded(rows) * 4 + places * rows * packedBytes)
  }

  private static func padded(_ count: Int) -> Int { (count + 15) & ~15 }

  /// Rows that count, and rows whose samples are kept: i32 lists where the pass runs.
  private(set) var eligible = Tensor(Address(0), columns: 0, dtype: .i32)
  private(set) var kept = Tensor(Address(0), columns: 0, dtype: .i32)

  /// Starts a pass of `rows` rows.
  func begin(rows: Int, eligible: [Int32], kept: [Int32]) {
    precondition(rows <= maximumRows, "more rows than there is room for")
    self.rows = rows
    func list(_ values: [Int32], at offset: Int) -> Tensor {
      let address = memory.base.advanced(by: listOffset + offset)
      values.withUnsafeBytes { if !values.isEmpty { ops.upload($0, to: address) } }
      return Tensor(address, columns: values.count, dtype: .i32)
    }
    self.eligible = list(eligible, at: 0)
    self.kept = list(kept, at: Self.padded(maximumRows) * 4)
  }

  // MARK: On the device

  private func place(_ layer: Int, _ floats: Int) -> Address {
    memory.base.advanced(by: (layer * layerFloats + floats) * 4)
  }

  /// `[1, rows]`.
  func turns(_ layer: Int) -> Tensor { Tensor(place(layer, 0), columns: rows) }
  /// `[rows, units]`.
  func deviations(_ layer: Int) -> Tensor {
    Tensor(place(layer, Self.padded(maximumRows)), rows: rows, columns: units)
  }
  /// `[rows, units]`.
  func norms(_ layer: Int) -> Tensor {
    Tensor(
      place(layer, Self.padded(maximumRows) + Self.padded(maximumRows * units)), rows: rows, columns: units)
  }
  /// `[1, outputs]`.
  func sums(_ layer: Int) -> Tensor {
    Tensor(
      place(layer, Self.padded(maximumRows) + 2 * Self.padded(maximumRows * units)), columns: outputs)
  }
  /// u8 `[rows, units]`.
  func largest(_ layer: Int) -> Tensor {
    Tensor(
      place(
        layer, Self.padded(maximumRows) + 2 * Self.padded(maximumRows * units) + Self.padded(outputs)),
      rows: rows, columns: units, dtype: .u8)
  }
  /// u8 `[kept rows, bytes]`; nil where activations are not recorded.
  func packed(_ layer: Int) -> Tensor? {
    packedPlaces[layer].map { place in
      Tensor(
        memory.base.advanced(by: packedOffset + place * kept.count * packedBytes), rows: kept.count,
        columns: packedBytes, dtype: .u8)
    }
  }

  private var packedOffset: Int { listOffset + 2 * Self.padded(maximumRows) * 4 }

  // MARK: On the host

  /// Ends the pass: copies what it left.
  func end() {
    if floats.isEmpty { floats = Array(repeating: 0, count: layers * layerFloats) }
    floats.withUnsafeMutableBytes { ops.download(memory.base, into: $0) }
    let recorded = packedPlaces.lazy.compactMap { $0 }.count
    let bytes = recorded * kept.count * packedBytes
    guard bytes > 0 else { return }
    if packed.count < bytes { packed = Array(repeating: 0, count: bytes) }
    packed.withUnsafeMutableBytes {
      ops.download(
        memory.base.advanced(by: packedOffset), into: UnsafeMutableRawBufferPointer(rebasing: $0[..<bytes]))
    }
  }

  /// A tensor of the pass as it was at ``end()``: contiguous values.
  func values(_ tensor: Tensor) -> ArraySlice<Float> {
    let start = Int(tensor.address.bits - memory.base.bits) / 4
    return floats[start..<start + tensor.count]
  }

  /// Calls `body` with a layer's mask as it was at ``end()``.
  func withLargest(_ layer: Int, _ body: (UnsafeRawBufferPointer) -> Void) {
    let tensor = largest(layer)
    let start = Int(tensor.address.bits - memory.base.bits)
    floats.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[start..<start + tensor.count])) }
  }

  /// The packed activations of a layer's kept rows as they were at ``end()``.
  func withPacked(_ layer: Int, _ body: (UnsafeRawBufferPointer) -> Void) {
    guard let place = packedPlaces[layer] else { return }
    let bytes = kept.count * packedBytes
    packed.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[place * bytes..<(place + 1) * bytes])) }
  }
}
