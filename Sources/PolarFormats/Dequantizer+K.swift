/// The "K" formats: super-blocks of 256 values with 6-bit (Q4_K, Q5_K) or 8-bit (Q6_K) sub-block scales.
extension Dequantizer {
  /// The 6-bit scale and minimum of sub-block `index` (0 to 7) among the 12 packed bytes.
  ///
  /// Bytes 0-3 and 4-7 hold scales and minimums 0-3 in their low six bits, and the two high bits of those of
  /// sub-blocks 4-7 above them; bytes 8-11 hold the low four bits of scales (low nibble) and minimums 4-7.
  @inline(__always)
  static func scaleAndMinimum(_ packed: UnsafeRawPointer, _ index: Int) -> (Float, Float) {
    if index < 4 {
      return (Float(Int32(byte(packed, index) & 63)), Float(Int32(byte(packed, index &+ 4) & 63)))
    }
    let low = byte(packed, index &+ 4)
    let scale = low & 15 | (byte(packed, index &- 4) &>> 6) &<< 4
    let minimum = low &>> 4 | (byte(packed, index) &>> 6) &<< 4
    return (Float(Int32(scale)), Float(Int32(minimum)))
  }

  /// `d * scale * q - dmin * minimum`; each 32 bytes hold sub-block 2j (low nibbles) and 2j + 1 (high
  /// nibbles).
  static func expandQ4K(_ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let (d, dmin) = (half(input), half(input + 2))
      for pair in 0..<4 {
        let (scale0, minimum0) = scaleAndMinimum(input + 4, 2 &* pair)
        let (scale1, minimum1) = scaleAndMinimum(input + 4, 2 &* pair &+ 1)
        let (d0, m0, d1, m1) = (d * scale0, dmin * minimum0, d * scale1, dmin * minimum1)
        let nibbles = input + (16 &+ 32 &* pair)
        var index = 0
        while index < 32 {
          let value = byte(nibbles, index)
          output[index] = d0 * Float(Int32(value & 15)) - m0
          output[index &+ 32] = d1 * Float(Int32(value &>> 4)) - m1
          index &+= 1
        }
        output += 64
      }
      input += 144
    }
  }

  /// As Q4_K, with a fifth bit: bit j of byte i of the high bits belongs to value i of sub-block j.
  static func expandQ5K(_ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let (d, dmin) = (half(input), half(input + 2))
      let high = input + 16
      for pair in 0..<4 {
        let (scale0, minimum0) = scaleAndMinimum(input + 4, 2 &* pair)
        let (scale1, minimum1) = scaleAndMinimum(input + 4, 2 &* pair &+ 1)
        let (d0, m0, d1, m1) = (d * scale0, dmin * minimum0, d * scale1, dmin * minimum1)
        let nibbles = input + (48 &+ 32 &* pair)
        let shift = UInt8(2 &* pair)
        var index = 0
        while index < 32 {
          let (value, bits) = (byte(nibbles, index), byte(high, index) &>> shift)
          output[index] = d0 * Float(Int32(value & 15 | (bits & 1) &<< 4)) - m0
          output[index &+ 32] = d1 * Float(Int32(value &>> 4 | (bits & 2) &<< 3)) - m1
          index &+= 1
        }
        output += 64
      }
      input += 176
    }
  }

  /// `d * scale * (q - 32)`, 16 values to a scale. Each half of 128 values takes 64 bytes of low nibbles,
  /// 32 bytes of two-bit high parts and 8 scales.
  static func expandQ6K(_ source: UnsafeRawPointer, _ blocks: Int, _ target: UnsafeMutablePointer<Float>) {
    var (input, output) = (source, target)
    for _ in 0..<blocks {
      let d = half(input + 208)
      for part in 0..<2 {
        let low = input + 64 &* part
        let high = input + (128 &+ 32 &* part)
        let scales = input + (192 &+ 8 &* part)
        for sub in 0..<2 {  // values 0-15 and 16-31 of each run of 32
          let d0 = d * Float(Int32(scales.load(fromByteOffset: sub, as: Int8.self)))
          let d1 = d * Float(Int32(scales.load(fromByteOffset: sub &+ 2, as: Int8.self)))
          let d2 = d * Float(Int32(scales.load(fromByteOffset: sub &+ 4, as: Int8.self)))
          let d3 = d * Float(Int32(scales.load(fromByteOffset: sub &+ 6, as: Int8.self)))
          var index = 16 &* sub
          let end = index &+ 16
          while index < end {
            let (first, second, bits) = (byte(low, index), byte(low, index &+ 32), byte(high, index))
            output[index] = d0 * Float(Int32(first & 15 | (bits & 3) &<< 4) &- 32)
            output[index &+ 32] = d1 * Float(Int32(second & 15 | (bits & 12) &<< 2) &- 32)
            output[index &+ 64] = d2 * Float(Int32(first &>> 4 | (bits & 48)) &- 32)
            output[index &+ 96] = d3 * Float(Int32(second &>> 4 | (bits & 192) &>> 2) &- 32)
            index &+= 1
          }
        }
        output += 128
      }
      input += 210
    }
  }
}
