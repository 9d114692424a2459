/// Expands stored weights to f32.
///
/// The block layouts and formulas are those of ggml (`ggml-common.h`), and results equal its reference
/// dequantisers bit for bit: every formula is evaluated in f32, product first, without fused multiply-add.
public enum Dequantizer {
  /// Expands as many values as `output` holds from `input`.
  /// - Precondition: `output.count` values are whole blocks and `input` holds all of their bytes.
  public static func expand(
    _ encoding: WeightEncoding, _ input: UnsafeRawBufferPointer,
    into output: UnsafeMutableBufferPointer<Float>
  ) {
    guard let target = output.baseAddress, let source = input.baseAddress else { return }
    precondition(encoding.byteCount(values: output.count).map { $0 <= input.count } ?? false)
    let blocks = output.count / encoding.blockValues
    switch encoding {
    case .f32: expandF32(source, blocks, target)
    case .f16: expandF16(source, blocks, target)
    case .bf16: expandBF16(source, blocks, target)
    case .q80: expandQ8(source, blocks, target)
    case .q40: expandQ4(source, blocks, target)
    case .q41: expandQ41(source, blocks, target)
    case .q50: expandQ5(source, blocks, target)
    case .q51: expandQ51(source, blocks, target)
    case .q4K: expandQ4K(source, blocks, target)
    case .q5K: expandQ5K(source, blocks, target)
    case .q6K: expandQ6K(source, blocks, target)
    }
  }

  /// The f32 value of IEEE half `bits`: the exponent is moved by a multiplication with 2^112, which is
  /// exact and also normalises subnormal halves; infinities and NaNs get the full exponent back.
  @inline(__always)
  static func half(_ bits: UInt16) -> Float {
    let magnitude = UInt32(bits & 0x7FFF) &<< 13
    let sign = UInt32(bits & 0x8000) &<< 16
    let scaled = (Float(bitPattern: magnitude) * Float(bitPattern: 0x7780_0000)).bitPattern
    let special: UInt32 = magnitude >= 0x0F80_0000 ? 0x7F80_0000 : 0
    return Float(bitPattern: sign | scaled | special)
  }

  /// The f32 value of the half at `pointer`, which need not be aligned.
  @inline(__always)
  static func half(_ pointer: UnsafeRawPointer) -> Float {
    half(UInt16(littleEndian: pointer.loadUnaligned(as: UInt16.self)))
  }

  /// The byte at `offset`.
  @inline(__always)
  static func byte(_ pointer: UnsafeRawPointer, _ offset: Int) -> UInt8 {
    pointer.load(fromByteOffset: offset, as: UInt8.self)
  }

  private static func expandF32(
    _ source: UnsafeRawPointer, _ count: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    UnsafeMutableRawPointer(target).copyMemory(from: source, byteCount: count * 4)
  }

  private static func expandF16(
    _ source: UnsafeRawPointer, _ count: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    var index = 0
    while index < count {
      target[index] = half(source + index &* 2)
      index &+= 1
    }
  }

  private static func expandBF16(
    _ source: UnsafeRawPointer, _ count: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    var index = 0
    while index < count {
      let bits = (source + index &* 2).loadUnaligned(as: UInt16.self)
      target[index] = Float(bitPattern: UInt32(UInt16(littleEndian: bits)) &<< 16)
      index &+= 1
    }
  }

  /// `d * q`, q signed 8-bit.
  private static func expandQ8(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let scale = half(input)
      let values = input + 2
      var index = 0
      while index < 32 {
        output[index] = scale * Float(Int32(values.load(fromByteOffset: index, as: Int8.self)))
        index &+= 1
      }
      input += 34
      output += 32
    }
  }

  /// `d * (q - 8)`; the low nibbles are values 0 to 15 of the block, the high nibbles 16 to 31.
  private static func expandQ4(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let scale = half(input)
      let nibbles = input + 2
      var index = 0
      while index < 16 {
        let pair = byte(nibbles, index)
        output[index] = scale * Float(Int32(pair & 15) &- 8)
        output[index &+ 16] = scale * Float(Int32(pair &>> 4) &- 8)
        index &+= 1
      }
      input += 18
      output += 32
    }
  }

  /// `d * q + m`.
  private static func expandQ41(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let (scale, minimum) = (half(input), half(input + 2))
      let nibbles = input + 4
      var index = 0
      while index < 16 {
        let pair = byte(nibbles, index)
        output[index] = scale * Float(Int32(pair & 15)) + minimum
        output[index &+ 16] = scale * Float(Int32(pair &>> 4)) + minimum
        index &+= 1
      }
      input += 20
      output += 32
    }
  }

  /// `d * (q - 16)`, the fifth bit of value i being bit i of a 32-bit word.
  private static func expandQ5(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let scale = half(input)
      let high = UInt32(littleEndian: (input + 2).loadUnaligned(as: UInt32.self))
      let nibbles = input + 6
      for index in 0..<16 {
        let pair = UInt32(byte(nibbles, index))
        let low = pair & 15 | (high &>> UInt32(index) & 1) &<< 4
        let upper = pair &>> 4 | (high &>> UInt32(index &+ 16) & 1) &<< 4
        output[index] = scale * Float(Int32(low) &- 16)
        output[index &+ 16] = scale * Float(Int32(upper) &- 16)
      }
      input += 22
      output += 32
    }
  }

  /// `d * q + m`, q of five bits.
  private static func expandQ51(
    _ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let (scale, minimum) = (half(input), half(input + 2))
      let high = UInt32(littleEndian: (input + 4).loadUnaligned(as: UInt32.self))
      let nibbles = input + 8
      for index in 0..<16 {
        let pair = UInt32(byte(nibbles, index))
        let low = pair & 15 | (high &>> UInt32(index) & 1) &<< 4
        let upper = pair &>> 4 | (high &>> UInt32(index &+ 16) & 1) &<< 4
        output[index] = scale * Float(Int32(low)) + minimum
        output[index &+ 16] = scale * Float(Int32(upper)) + minimum
      }
      input += 24
      output += 32
    }
  }
}
