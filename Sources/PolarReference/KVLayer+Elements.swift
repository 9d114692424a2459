import PolarCore

/// Single vectors of a cache in the layouts that ``PolarCore/KVLayer`` documents, f32 or i8.
extension KVLayer {
  /// The K vector of a token as f32 `[headDim]`.
  func key(head: Int, page: Int, token: Int) -> [Float] {
    if dtype == .i8 {
      let scale = scales(head: head, page: page)[token].float
      let codes = codes(head: head, page: page)
      return (0..<headDim).map { Float(codes[$0 / 4 * 64 + token * 4 + $0 % 4]) * scale }
    }
    let block = floats(head: head, page: page)
    return (0..<headDim).map { block[keyIndex($0, token)] }
  }

  /// The V vector of a token as f32 `[headDim]`.
  func value(head: Int, page: Int, token: Int) -> [Float] {
    if dtype == .i8 {
      let scale = scales(head: head, page: page)[KVPage.tokens + token].float
      let codes = codes(head: head, page: page)
      return (0..<headDim).map { Float(codes[codedValueIndex($0, token)]) * scale }
    }
    let block = floats(head: head, page: page)
    return (0..<headDim).map { block[valueIndex($0, token)] }
  }

  /// Writes one token's vectors, each f32 `[headDim]`.
  func store(
    key: UnsafePointer<Float>, value: UnsafePointer<Float>, head: Int, page: Int, token: Int
  ) {
    if dtype == .i8 {
      let codes = codes(head: head, page: page)
      let scales = scales(head: head, page: page)
      let (keyScale, keyCodes) = Self.quantized(key, headDim)
      let (valueScale, valueCodes) = Self.quantized(value, headDim)
      scales[token] = keyScale
      scales[KVPage.tokens + token] = valueScale
      for d in 0..<headDim {
        codes[d / 4 * 64 + token * 4 + d % 4] = keyCodes[d]
        codes[codedValueIndex(d, token)] = valueCodes[d]
      }
      return
    }
    let block = floats(head: head, page: page)
    for d in 0..<headDim {
      block[keyIndex(d, token)] = key[d]
      block[valueIndex(d, token)] = value[d]
    }
  }

  /// The scale of a vector and its codes.
  private static func quantized(_ x: UnsafePointer<Float>, _ count: Int) -> (BFloat16, [Int8]) {
    let values = (0..<count).map { x[$0] }
    guard values.allSatisfy(\.isFinite) else {
      return (BFloat16(bits: 0x7fc0), Array(repeating: 0, count: count))
    }
    let largest = values.reduce(0) { max($0, $1.magnitude) }
    let scale = BFloat16(roundingUp: largest / 127)
    guard largest > 0 else { return (scale, Array(repeating: 0, count: count)) }
    return (scale, values.map { Int8(($0 / scale.float).rounded(.toNearestOrEven)) })
  }

  private func floats(head: Int, page: Int) -> UnsafeMutablePointer<Float> {
    address.pointer(to: Float.self) + (head * pages + page) * blockElements
  }

  private func codes(head: Int, page: Int) -> UnsafeMutablePointer<Int8> {
    address.pointer(to: Int8.self) + (head * pages + page) * blockByteCount
  }

  private func scales(head: Int, page: Int) -> UnsafeMutablePointer<BFloat16> {
    let end = address.advanced(by: (head * pages + page + 1) * blockByteCount)
    return end.pointer(to: BFloat16.self) - 2 * KVPage.tokens
  }

  /// Index of the K element `d` of token `token` in its block.
  func keyIndex(_ d: Int, _ token: Int) -> Int {
    d / 2 * (2 * KVPage.tokens) + token * 2 + d % 2
  }

  /// Index of the V element `d` of token `token` in its block.
  func valueIndex(_ d: Int, _ token: Int) -> Int {
    KVPage.tokens * headDim + token / 2 * (2 * headDim) + d * 2 + token % 2
  }

  /// Index of the V code `d` of token `token` in an i8 block.
  private func codedValueIndex(_ d: Int, _ token: Int) -> Int {
    let padded = (headDim + 3) / 4 * 4
    return KVPage.tokens * padded + token / 4 * 4 * padded + d * 4 + token % 4
  }
}

/// A bf16 number: the upper half of an f32.
struct BFloat16: BitwiseCopyable {
  var bits: UInt16

  init(bits: UInt16) { self.bits = bits }

  /// The least bf16 number that is at least `value`, which is not negative.
  init(roundingUp value: Float) { bits = UInt16((value.bitPattern + 0xffff) >> 16) }

  var float: Float { Float(bitPattern: UInt32(bits) << 16) }
}
