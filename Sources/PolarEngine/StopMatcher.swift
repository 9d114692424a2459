/// Finds stop strings in text that arrives in pieces, and holds back what may be the beginning of one.
///
/// Works on UTF-8 bytes, so equal means equal bytes. A held part starts with the first byte of a stop string, so text is
/// only ever cut between characters.
struct StopMatcher {
  private let stops: [[UInt8]]
  private var held: [UInt8] = []

  init(_ stops: [String]) { self.stops = stops.map { Array($0.utf8) } }

  /// Takes more text. Returns what can be emitted, and whether a stop string was found: then that is all text before
  /// the earliest one, and the rest is dropped.
  mutating func append(_ text: String) -> (emit: String, stopped: Bool) {
    if stops.isEmpty { return (text, false) }
    held.append(contentsOf: text.utf8)
    for start in held.indices {
      let rest = held[start...]
      if stops.contains(where: { rest.starts(with: $0) }) {
        let emit = String(decoding: held[..<start], as: UTF8.self)
        held.removeAll()
        return (emit, true)
      }
    }
    let keepFrom =
      held.indices.first { start in
        let rest = held[start...]
        return stops.contains { $0.starts(with: rest) }
      } ?? held.endIndex
    let emit = String(decoding: held[..<keepFrom], as: UTF8.self)
    held.removeSubrange(..<keepFrom)
    return (emit, false)
  }

  /// What is still held back, at the end of the generation.
  mutating func finish() -> String {
    defer { held.removeAll() }
    return String(decoding: held, as: UTF8.self)
  }
}
