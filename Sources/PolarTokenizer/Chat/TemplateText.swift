/// Text of a template's world: UTF-8, with the ranges that come from data (messages, tools) rather than from the template.
/// Ranges are in order and apart.
struct TemplateText: Sendable {
  private(set) var bytes: [UInt8]
  private(set) var data: [Range<Int>] = []

  /// Text of the template's own.
  init(_ text: String = "") {
    bytes = Array(text.utf8)
  }

  /// - Parameter isData: whether all of it comes from data.
  init(_ bytes: [UInt8], isData: Bool = false) {
    self.bytes = bytes
    if isData, !bytes.isEmpty { data = [0..<bytes.count] }
  }

  var string: String { String(decoding: bytes, as: UTF8.self) }
  var isEmpty: Bool { bytes.isEmpty }
  /// Whether any of it comes from data.
  var hasData: Bool { !data.isEmpty }

  /// The number of scalars, which is Python's length.
  var count: Int { bytes.count { $0 & 0xC0 != 0x80 } }

  mutating func append(_ other: TemplateText) {
    let base = bytes.count
    bytes.append(contentsOf: other.bytes)
    for range in other.data { addData(range.lowerBound + base..<range.upperBound + base) }
  }

  private mutating func addData(_ range: Range<Int>) {
    if let last = data.last, last.upperBound == range.lowerBound {
      data[data.count - 1] = last.lowerBound..<range.upperBound
    } else {
      data.append(range)
    }
  }

  /// The text of a range of bytes.
  func slice(_ range: Range<Int>) -> TemplateText {
    var result = TemplateText(Array(bytes[range]))
    if !data.isEmpty {
      var low = 0
      var high = data.count
      // The first range that ends after the slice begins.
      while low < high {
        let middle = (low + high) / 2
        if data[middle].upperBound <= range.lowerBound { low = middle + 1 } else { high = middle }
      }
      while low < data.count, data[low].lowerBound < range.upperBound {
        let part = data[low].clamped(to: range)
        result.addData(part.lowerBound - range.lowerBound..<part.upperBound - range.lowerBound)
        low += 1
      }
    }
    return result
  }

  /// Another text made of this one; all of it counts as data if any of this does.
  func derived(_ text: String) -> TemplateText { TemplateText(Array(text.utf8), isData: hasData) }

  /// The place in bytes of each scalar, and the end.
  var scalarStarts: [Int] {
    var starts = bytes.indices.filter { bytes[$0] & 0xC0 != 0x80 }
    starts.append(bytes.count)
    return starts
  }

  /// The first place from `start` at which `other` stands.
  func find(_ other: [UInt8], from start: Int = 0) -> Int? {
    guard let first = other.first else { return start <= bytes.count ? start : nil }
    var index = start
    while index + other.count <= bytes.count {
      if bytes[index] == first, bytes[index..<index + other.count].elementsEqual(other) { return index }
      index += 1
    }
    return nil
  }

  /// The last place at which `other` stands and ends at `end` at the latest.
  func findLast(_ other: [UInt8], before end: Int) -> Int? {
    var index = end - other.count
    while index >= 0 {
      if bytes[index..<index + other.count].elementsEqual(other) { return index }
      index -= 1
    }
    return nil
  }

  /// Each occurrence of `old` replaced, `limit` of them at most.
  func replacing(_ old: TemplateText, with new: TemplateText, limit: Int = .max) -> TemplateText {
    var result = TemplateText()
    var start = 0
    var done = 0
    if old.isEmpty {
      // Between all scalars and at both ends, as Python has it.
      let starts = scalarStarts
      for (index, place) in starts.enumerated() where done <= limit {
        if done < limit { result.append(new) }
        done += 1
        let end = done > limit ? bytes.count : index + 1 < starts.count ? starts[index + 1] : place
        result.append(slice(place..<end))
      }
      return result
    }
    while done < limit, let place = find(old.bytes, from: start) {
      result.append(slice(start..<place))
      result.append(new)
      start = place + old.bytes.count
      done += 1
    }
    result.append(slice(start..<bytes.count))
    return result
  }

  /// Without the scalars at the ends for which `isStripped` holds.
  func stripped(left: Bool, right: Bool, _ isStripped: (UInt32) -> Bool) -> TemplateText {
    var (start, end) = (0, bytes.count)
    while left, start < end, case let (value, count) = UTF8Text.scalar(in: bytes, at: start),
      isStripped(value)
    {
      start += count
    }
    while right, end > start {
      let last = UTF8Text.scalarStart(in: bytes, before: end)
      guard isStripped(UTF8Text.scalar(in: bytes, at: last).value) else { break }
      end = last
    }
    return slice(start..<end)
  }

  /// Without white space at the ends.
  func trimmed(left: Bool = true, right: Bool = true) -> TemplateText {
    stripped(left: left, right: right, Self.isSpace)
  }

  /// White space as Python's `str.isspace` has it.
  static func isSpace(_ value: UInt32) -> Bool {
    switch value {
    case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F,
      0x3000:
      true
    default: false
    }
  }

  /// The words between white space; after `limit` cuts the rest is one word.
  func words(limit: Int = .max) -> [TemplateText] {
    var words: [TemplateText] = []
    var index = 0
    while true {
      while index < bytes.count, case let (value, count) = UTF8Text.scalar(in: bytes, at: index),
        Self.isSpace(value)
      {
        index += count
      }
      guard index < bytes.count else { return words }
      if words.count >= limit { return words + [slice(index..<bytes.count)] }
      let start = index
      while index < bytes.count, case let (value, count) = UTF8Text.scalar(in: bytes, at: index),
        !Self.isSpace(value)
      {
        index += count
      }
      words.append(slice(start..<index))
    }
  }

  /// The parts between occurrences of a separator that is not empty.
  func parts(separator: [UInt8], limit: Int = .max, fromEnd: Bool = false) -> [TemplateText] {
    var parts: [TemplateText] = []
    if fromEnd {
      var end = bytes.count
      while parts.count < limit, let place = findLast(separator, before: end) {
        parts.append(slice(place + separator.count..<end))
        end = place
      }
      return (parts + [slice(0..<end)]).reversed()
    }
    var start = 0
    while parts.count < limit, let place = find(separator, from: start) {
      parts.append(slice(start..<place))
      start = place + separator.count
    }
    return parts + [slice(start..<bytes.count)]
  }
}

extension TemplateText: Hashable {
  /// Texts are equal scalar by scalar; where they come from does not count.
  static func == (left: TemplateText, right: TemplateText) -> Bool { left.bytes == right.bytes }

  func hash(into hasher: inout Hasher) { hasher.combine(bytes) }
}
