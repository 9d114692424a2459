internal import PolarCore

/// Turns the blocks of a file into blocks of the formats that weights have in memory (``WeightFormat``), without expanding
/// them to floats.
enum BlockTranscoder {
  /// Whether blocks of `encoding` can become blocks of `format`: without loss, except that the products of Q4_K's two
  /// levels of scales are rounded to f16.
  static func canTranscode(_ encoding: WeightEncoding, to format: WeightFormat) -> Bool {
    switch (encoding, format) {
    case (.q80, .int8), (.q50, .int8), (.q40, .int8), (.q40, .int4), (.q40, .int4Affine), (.q41, .int4Affine),
      (.q4K, .int4Affine):
      true
    default: false
    }
  }

  /// Whether the blocks are the same on both sides.
  static func isSame(_ encoding: WeightEncoding, as format: WeightFormat) -> Bool {
    switch (encoding, format) {
    case (.q80, .int8), (.q40, .int4), (.q41, .int4Affine): true
    default: false
    }
  }

  /// The first block, if any, whose scale or minimum is NaN or infinite.
  static func firstNonFinite(_ encoding: WeightEncoding, _ input: UnsafeRawBufferPointer) -> Int? {
    // Q6_K keeps its scale at the end, the others theirs at the start, followed by the minimum.
    let start = encoding == .q6K ? 208 : 0
    let second = [.q41, .q51, .q4K, .q5K].contains(encoding) ? 2 : 0
    let size = encoding.blockBytes
    for block in 0..<input.count / size {
      let offset = block &* size &+ start
      let first = input.loadUnaligned(fromByteOffset: offset, as: UInt16.self)
      let other = input.loadUnaligned(fromByteOffset: offset &+ second, as: UInt16.self)
      if UInt16(littleEndian: first) & 0x7c00 == 0x7c00 || UInt16(littleEndian: other) & 0x7c00 == 0x7c00 {
        return block
      }
    }
    return nil
  }

  /// Transcodes whole blocks of `input`; `output` has room for them.
  static func transcode(
    _ encoding: WeightEncoding, _ input: UnsafeRawBufferPointer, to format: WeightFormat,
    into output: UnsafeMutableRawBufferPointer
  ) {
    guard let source = input.baseAddress, let target = output.baseAddress else { return }
    let blocks = input.count / encoding.blockBytes
    switch (encoding, format) {
    case (.q50, .int8): transcodeQ5(source, blocks, target)
    case (.q40, .int8): widenQ4(source, blocks, target)
    case (.q40, .int4Affine): addMinimums(source, blocks, target)
    case (.q4K, .int4Affine): transcodeQ4K(source, blocks, target)
    default: target.copyMemory(from: source, byteCount: input.count)
    }
  }

  @inline(__always)
  private static func store(_ value: Float, _ target: UnsafeMutableRawPointer, _ offset: Int) {
    target.storeBytes(of: Float16(value).bitPattern.littleEndian, toByteOffset: offset, as: UInt16.self)
  }

  /// `d * (q - 16)` to `d * code`.
  private static func transcodeQ5(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutableRawPointer
  ) {
    for block in 0..<blocks {
      let (input, output) = (source + block &* 22, target + block &* 34)
      output.copyMemory(from: input, byteCount: 2)
      let high = UInt32(littleEndian: (input + 2).loadUnaligned(as: UInt32.self))
      for index in 0..<16 {
        let pair = UInt32(Dequantizer.byte(input, 6 &+ index))
        let low = pair & 15 | (high &>> UInt32(index) & 1) &<< 4
        let upper = pair &>> 4 | (high &>> UInt32(index &+ 16) & 1) &<< 4
        (output + (2 &+ index)).storeBytes(of: UInt8(truncatingIfNeeded: low &- 16), as: UInt8.self)
        (output + (18 &+ index)).storeBytes(of: UInt8(truncatingIfNeeded: upper &- 16), as: UInt8.self)
      }
    }
  }

  /// `d * (q - 8)` to `d * code`.
  private static func widenQ4(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutableRawPointer
  ) {
    for block in 0..<blocks {
      let (input, output) = (source + block &* 18, target + block &* 34)
      output.copyMemory(from: input, byteCount: 2)
      for index in 0..<16 {
        let pair = Dequantizer.byte(input, 2 &+ index)
        (output + (2 &+ index)).storeBytes(of: pair & 15 &- 8, as: UInt8.self)
        (output + (18 &+ index)).storeBytes(of: pair &>> 4 &- 8, as: UInt8.self)
      }
    }
  }

  /// `d * (q - 8)` to `d * q + m`: m = -8 d.
  private static func addMinimums(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutableRawPointer
  ) {
    for block in 0..<blocks {
      let (input, output) = (source + block &* 18, target + block &* 20)
      output.copyMemory(from: input, byteCount: 2)
      store(-8 * Dequantizer.half(input), output, 2)
      (output + 4).copyMemory(from: input + 2, byteCount: 16)
    }
  }

  /// `d * scale * q - dmin * minimum`: a super-block of eight sub-blocks becomes eight blocks.
  private static func transcodeQ4K(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutableRawPointer
  ) {
    var output = target
    for block in 0..<blocks {
      let input = source + block &* 144
      let (d, dmin) = (Dequantizer.half(input), Dequantizer.half(input + 2))
      for sub in 0..<8 {
        let (scale, minimum) = Dequantizer.scaleAndMinimum(input + 4, sub)
        store(d * scale, output, 0)
        store(-(dmin * minimum), output, 2)
        // 32 bytes hold sub-block 2j in their low and 2j + 1 in their high halves.
        let codes = input + (16 &+ 32 &* (sub / 2))
        let shift = UInt8(4 &* (sub % 2))
        for index in 0..<16 {
          let low = Dequantizer.byte(codes, index) &>> shift & 15
          let high = Dequantizer.byte(codes, index &+ 16) &>> shift & 15
          (output + (4 &+ index)).storeBytes(of: low | high &<< 4, as: UInt8.self)
        }
        output += 20
      }
    }
  }
}
