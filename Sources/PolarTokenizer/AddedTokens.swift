/// A token that is found in the text itself, before the text is cut into words.
struct AddedToken: Sendable, Equatable {
  var id: Int32
  var content: [UInt8]
  /// A control token: left out of decoded text on request.
  var isSpecial = false
  /// Takes the white space before it along.
  var stripsLeft = false
  /// Takes the white space after it along.
  var stripsRight = false
  /// Only counts where no word character touches it.
  var isSingleWord = false
  /// Is looked for in normalised text, in its own normalised form.
  var isNormalized = false
}

/// Finds added tokens: at each place the longest one, from left to right, without overlap.
struct AddedTokenMatcher: Sendable {
  /// Where special tokens in a text become their ids. Other added tokens do so everywhere.
  enum SpecialRule {
    case everywhere
    case nowhere
    /// Outside of these ranges, which are in order and apart.
    case outside([Range<Int>])

    /// Whether a special token may stand at a range.
    func allows(_ range: Range<Int>) -> Bool {
      switch self {
      case .everywhere: return true
      case .nowhere: return false
      case .outside(let ranges):
        var low = 0
        var high = ranges.count
        // The first range that ends after this one begins.
        while low < high {
          let middle = (low + high) / 2
          if ranges[middle].upperBound <= range.lowerBound { low = middle + 1 } else { high = middle }
        }
        return low == ranges.count || ranges[low].lowerBound >= range.upperBound
      }
    }
  }

  /// A stretch of text: an added token, or ordinary text between them.
  struct Segment: Equatable {
    var token: Int32?
    var range: Range<Int>
  }

  /// A node of the trie of contents; node 0 is the root.
  private struct Node: Sendable {
    var children: [(byte: UInt8, node: Int32)] = []
    /// The token that ends here, an index into `tokens`.
    var token: Int32 = -1
  }

  private let tokens: [AddedToken]
  private var nodes: [Node] = [Node()]
  /// The root's child by first byte, 0 for none.
  private var roots = [Int32](repeating: 0, count: 256)
  private let classifier = ScalarClassifier()

  /// - Parameter tokens: with contents that are not empty; of equal contents the first counts.
  init(_ tokens: [AddedToken]) {
    self.tokens = tokens
    for (index, token) in tokens.enumerated() where !token.content.isEmpty {
      var node = 0
      for byte in token.content { node = child(of: node, byte) }
      if nodes[node].token < 0 { nodes[node].token = Int32(index) }
    }
    for (byte, node) in nodes[0].children { roots[Int(byte)] = node }
  }

  /// Whether there is nothing to look for.
  var isEmpty: Bool { tokens.isEmpty }

  private mutating func child(of node: Int, _ byte: UInt8) -> Int {
    if let found = nodes[node].children.first(where: { $0.byte == byte }) { return Int(found.node) }
    nodes[node].children.append((byte, Int32(nodes.count)))
    nodes.append(Node())
    return nodes.count - 1
  }

  /// The length of the longest content that begins at `index`.
  func longestContent(in text: [UInt8], at index: Int) -> Int? {
    guard roots[Int(text[index])] != 0, let match = longest(in: text, at: index) else { return nil }
    return tokens[match].content.count
  }

  /// Cuts well-formed text at the added tokens in it.
  /// - Parameter rule: where special tokens count.
  func segments(of text: [UInt8], _ rule: SpecialRule = .everywhere) -> [Segment] {
    guard !tokens.isEmpty, !text.isEmpty else { return [Segment(token: nil, range: 0..<text.count)] }
    var segments: [Segment] = []
    var done = 0
    var index = 0
    while index < text.count {
      guard roots[Int(text[index])] != 0, let match = longest(in: text, at: index) else {
        index += 1
        continue
      }
      let token = tokens[match]
      let (lower, upper) = (index, index + token.content.count)
      index = upper
      if token.isSpecial, !rule.allows(lower..<upper) { continue }
      if token.isSingleWord, touchesWord(text, lower, upper) { continue }
      // White space that a token before took along is gone.
      let start = max(token.stripsLeft ? spaceStart(text, before: lower) : lower, done)
      let end = max(token.stripsRight ? spaceEnd(text, from: upper) : upper, start)
      if done < start { segments.append(Segment(token: nil, range: done..<start)) }
      segments.append(Segment(token: token.id, range: start..<end))
      done = end
    }
    if done < text.count { segments.append(Segment(token: nil, range: done..<text.count)) }
    return segments
  }

  /// The longest token that begins at `index`, as an index into `tokens`.
  private func longest(in text: [UInt8], at index: Int) -> Int? {
    var node = Int(roots[Int(text[index])])
    var place = index + 1
    var found = nodes[node].token
    while place < text.count, let next = nodes[node].children.first(where: { $0.byte == text[place] }) {
      node = Int(next.node)
      place += 1
      if nodes[node].token >= 0 { found = nodes[node].token }
    }
    return found < 0 ? nil : Int(found)
  }

  private func touchesWord(_ text: [UInt8], _ lower: Int, _ upper: Int) -> Bool {
    if lower > 0, classifier.isWord(text, at: UTF8Text.scalarStart(in: text, before: lower)) { return true }
    return upper < text.count && classifier.isWord(text, at: upper)
  }

  private func spaceStart(_ text: [UInt8], before index: Int) -> Int {
    var start = index
    while start > 0 {
      let previous = UTF8Text.scalarStart(in: text, before: start)
      guard classifier.classify(text, at: previous).class.isWhitespace else { break }
      start = previous
    }
    return start
  }

  private func spaceEnd(_ text: [UInt8], from index: Int) -> Int {
    var end = index
    while end < text.count, case let (kind, count) = classifier.classify(text, at: end), kind.isWhitespace {
      end += count
    }
    return end
  }
}
