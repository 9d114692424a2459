/// Counts out the pages of a ``PolarModels/KVCache``: who holds which page is decided here and nowhere else.
///
/// A sequence whose pages are consecutive is read as one stream, so a sequence that starts is promised a run of pages
/// long enough for all of it. A promise is soft: when nothing else is free, promised pages are given away too, and
/// every page that is not held can always be allocated.
public struct BlockPool: Sendable {
  private enum State: UInt8 { case free, promised, held }

  private var states: [State]
  /// Pages that nobody holds.
  public private(set) var freePages: Int

  /// Pages in the pool.
  public var pages: Int { states.count }
  /// Pages that somebody holds.
  public var heldPages: Int { pages - freePages }

  /// A pool of `pages` free pages.
  public init(pages: Int) {
    self.states = Array(repeating: .free, count: max(0, pages))
    self.freePages = max(0, pages)
  }

  /// Sets aside a run of up to `count` consecutive pages: the first that is long enough, else the longest.
  public mutating func promise(_ count: Int) -> Range<Int32> {
    var best = 0..<0
    var start = 0
    for index in 0...states.count {
      if index < states.count, states[index] == .free {
        if index - start + 1 == count {
          best = start..<index + 1
          break
        }
      } else {
        if index - start > best.count { best = start..<index }
        start = index + 1
      }
    }
    for index in best { states[index] = .promised }
    return Int32(best.lowerBound)..<Int32(best.upperBound)
  }

  /// Ends a promise. Pages allocated from it stay with who holds them.
  public mutating func withdraw(_ promise: Range<Int32>) {
    for page in promise where states[Int(page)] == .promised { states[Int(page)] = .free }
  }

  /// A page for a sequence that was given `promise` and whose last page is `last`: the one after `last` if it can be
  /// had, else any other; nil when all pages are held.
  public mutating func allocate(from promise: Range<Int32>, after last: Int32?) -> Int32? {
    guard freePages > 0 else { return nil }
    let next = last.map { $0 + 1 } ?? promise.lowerBound
    let page: Int32
    if next < states.count,
      states[Int(next)] == .free || (states[Int(next)] == .promised && promise.contains(next))
    {
      page = next
    } else if let own = promise.first(where: { states[Int($0)] == .promised }) {
      page = own
    } else if let free = states.firstIndex(of: .free) {
      page = Int32(free)
    } else if let promised = states.lastIndex(of: .promised) {
      // The end of a run is what its sequence needs last.
      page = Int32(promised)
    } else {
      return nil
    }
    states[Int(page)] = .held
    freePages -= 1
    return page
  }

  /// Gives a page back. Giving back a page that nobody holds is a programmer error.
  public mutating func free(_ page: Int32) {
    precondition(states[Int(page)] == .held, "page \(page) is freed but nobody holds it")
    states[Int(page)] = .free
    freePages += 1
  }
}
