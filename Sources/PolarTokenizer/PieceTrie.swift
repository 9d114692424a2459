/// A trie of byte strings. A node's children stand side by side, so that a step reads one stretch of labels.
struct PieceTrie: Sendable {
  /// A node: where its children begin and how many they are, and the value of the string that ends here (-1: none).
  private struct Node: Sendable {
    var firstChild: Int32 = 0
    var childCount: Int32 = 0
    var value: Int32 = -1
  }

  private var nodes: [Node] = [Node()]
  /// The byte that leads to each node.
  private var labels: [UInt8] = [0]
  /// The root's child by byte, 0 for none.
  private var roots = [Int32](repeating: 0, count: 256)

  /// A trie of strings with their values; of equal strings the first counts, empty ones do not.
  init(_ strings: [(bytes: [UInt8], value: Int32)]) {
    let order = strings.indices.filter { !strings[$0].bytes.isEmpty }.sorted {
      let (left, right) = (strings[$0].bytes, strings[$1].bytes)
      for (first, second) in zip(left, right) where first != second { return first < second }
      return left.count != right.count ? left.count < right.count : $0 < $1
    }
    // Breadth first: a node's strings are a range of `order` that share their first `depth` bytes.
    var level: [(node: Int, range: Range<Int>)] = [(0, 0..<order.count)]
    var depth = 0
    while !level.isEmpty {
      var next: [(node: Int, range: Range<Int>)] = []
      for (node, range) in level {
        var index = range.lowerBound
        while index < range.upperBound, strings[order[index]].bytes.count == depth {
          if nodes[node].value < 0 { nodes[node].value = strings[order[index]].value }
          index += 1
        }
        nodes[node].firstChild = Int32(nodes.count)
        while index < range.upperBound {
          let byte = strings[order[index]].bytes[depth]
          var end = index + 1
          while end < range.upperBound, strings[order[end]].bytes[depth] == byte { end += 1 }
          if node == 0 { roots[Int(byte)] = Int32(nodes.count) }
          next.append((nodes.count, index..<end))
          nodes.append(Node())
          labels.append(byte)
          nodes[node].childCount += 1
          index = end
        }
      }
      level = next
      depth += 1
    }
  }

  /// Calls `body` with the end and the value of each string that begins at `start`, the shortest first.
  @inline(__always)
  func forEachPrefix(of text: UnsafeBufferPointer<UInt8>, from start: Int, _ body: (Int, Int32) -> Void) {
    guard start < text.count else { return }
    var node = Int(roots[Int(text[start])])
    var index = start
    while node != 0 {
      index += 1
      let value = nodes[node].value
      if value >= 0 { body(index, value) }
      guard index < text.count else { return }
      node = child(of: node, text[index])
    }
  }

  /// The child of a node by byte, 0 for none.
  @inline(__always)
  private func child(of node: Int, _ byte: UInt8) -> Int {
    var low = Int(nodes[node].firstChild)
    var high = low + Int(nodes[node].childCount)
    while high - low > 8 {
      let middle = (low + high) / 2
      if labels[middle] <= byte { low = middle } else { high = middle }
    }
    while low < high {
      if labels[low] == byte { return low }
      low += 1
    }
    return 0
  }
}
