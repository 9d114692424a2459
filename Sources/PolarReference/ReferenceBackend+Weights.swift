// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

public import PolarCore

// The layout is row-major f32 `[outputs, inputs]` in every format: element (n, k) at `n * inputs + k`. Quantised weights
// are kept as what their codes stand for.
extension ReferenceBackend {
  public var weightFormats: Set<WeightFormat> { Set(WeightFormat.allCases) }

  public func packedByteCount(outputs: Int, inputs: Int, format: WeightFormat) -> Int {
    outputs * inputs * MemoryLayout<Float>.size
  }

  public func packRows(_ weight: PackedMatrix, firstRow: Int, values: UnsafeBufferPointer<Float>) {
    guard let source = values.baseAddress else { return }
    let target = weight.row(firstRow)
    target.update(from: source, count: values.count)
    guard weight.format.blockByteCount != nil else { return }
    for row in 0..<values.count / weight.inputs {
      for start in stride(from: 0, to: weight.inputs, by: WeightFormat.groupSize) {
        let count = min(WeightFormat.groupSize, weight.inputs - start)
        let group = target + row * weight.inputs + start
        let rounded = Quantizer.roundWeights((0..<count).map { group[$0] }, weight.format)
        for index in 0..<count { group[index] = rounded[index] }
      }
    }
  }

  public func packBlocks(_ weight: PackedMatrix, firstRow: Int, blocks: UnsafeRawBufferPointer) {
    guard let size = weight.format.blockByteCount else { return }
    let target = weight.row(firstRow)
    for block in 0..<blocks.count / size {
      let bytes = UnsafeRawBufferPointer(rebasing: blocks[block * size..<(block + 1) * size])
      for (index, value) in Quantizer.values(of: bytes, weight.format).enumerated() {
        target[block * WeightFormat.groupSize + index] = value
      }
    }
  }

  public func unpackRows(
    _ weight: PackedMatrix, firstRow: Int, into values: UnsafeMutableBufferPointer<Float>
  ) {
    guard let target = values.baseAddress else { return }
    target.update(from: weight.row(firstRow), count: values.count)
  }
}

extension PackedMatrix {
  /// Row `index`, `inputs` floats.
  func row(_ index: Int) -> UnsafeMutablePointer<Float> {
    address.pointer(to: Float.self) + index * inputs
  }
}

/// Rounding to groups of 8 and 4 bits, as ``WeightFormat`` and ``Backend/packRows(_:firstRow:values:)`` define it.
enum Quantizer {
  /// A row of activations as the product with quantised weights sees it.
  static func roundActivations(_ row: inout [Float]) {
    func parts(of range: Range<Int>, size: Int) -> [Range<Int>] {
      stride(from: range.lowerBound, to: range.upperBound, by: size).map {
        $0..<min(range.upperBound, $0 + size)
      }
    }
    func largest(_ part: Range<Int>) -> Float { row[part].reduce(0) { max($0, $1.magnitude) } }
    for superblock in parts(of: row.indices, size: WeightFormat.superblockSize) {
      let top = max(largest(superblock), 0x1p-57)
      for group in parts(of: superblock, size: WeightFormat.groupSize) {
        let own = largest(group)
        var power: Float = 1
        while power > 0x1p-24, own <= top * power / 2 { power /= 2 }
        for index in group {
          let code = (row[index] * (127 / top / power)).rounded(.toNearestOrEven)
          row[index] = code * (top / 127 * power)
        }
      }
    }
  }

  /// A group of up to 32 weights after packing; the inputs that a last group lacks count as zeros.
  static func roundWeights(_ values: [Float], _ format: WeightFormat) -> [Float] {
    let group = values + Array(repeating: 0, count: WeightFormat.groupSize - values.count)
    func code(_ value: Float, _ scale: Float, _ range: ClosedRange<Float>) -> Float {
      guard scale != 0 else { return 0 }
      return min(max((value / scale).rounded(.toNearestOrEven), range.lowerBound), range.upperBound)
    }
    switch format {
    case .bf16, .f16: return values
    case .int8:
      let largest = group.reduce(0) { max($0, $1.magnitude) }
      var scale = Float16(largest / 127)
      // A scale this small is coarse: none that would cut the largest value off.
      if largest > 127.5 * Float(scale) { scale = scale.nextUp }
      return values.map { Float(scale) * code($0, Float(scale), -127...127) }
    case .int4:
      let extreme = group.reduce(0) { $1.magnitude > $0.magnitude ? $1 : $0 }
      let scale = Float(Float16(extreme / -8))
      return values.map { scale * code($0, scale, -8...7) }
    case .int4Affine:
      let minimum = Float(Float16(group.reduce(group[0], min)))
      let scale = Float(Float16((group.reduce(group[0], max) - minimum) / 15))
      return values.map { scale * code($0 - minimum, scale, 0...15) + minimum }
    }
  }

  /// What a ggml block of `format` stands for, 32 values.
  static func values(of block: UnsafeRawBufferPointer, _ format: WeightFormat) -> [Float] {
    func half(_ offset: Int) -> Float {
      Float(Float16(bitPattern: block.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
    }
    func nibble(_ index: Int, from offset: Int) -> Float {
      let byte = block[offset + index % 16]
      return Float(index < 16 ? byte & 15 : byte >> 4)
    }
    return (0..<WeightFormat.groupSize).map { index in
      switch format {
      case .bf16, .f16: 0
      case .int8: half(0) * Float(Int8(bitPattern: block[2 + index]))
      case .int4: half(0) * (nibble(index, from: 2) - 8)
      case .int4Affine: half(0) * nibble(index, from: 4) + half(2)
      }
    }
  }
}
