import Testing

@testable import PolarCUDA

@Suite struct FreeListTests {
  @Test func partsNeverOverlapAndComeTogetherAgain() {
    var list = FreeList(byteCount: 1 << 16, alignment: 256)
    var generator = SystemRandomNumberGenerator()
    var taken: [(offset: Int, bytes: Int)] = []
    for _ in 0..<2000 {
      if Bool.random(using: &generator) || taken.isEmpty {
        let bytes = Int.random(in: 1...3000, using: &generator)
        guard let offset = list.take(bytes) else { continue }
        #expect(offset % 256 == 0 && offset + bytes <= 1 << 16)
        #expect(taken.allSatisfy { offset >= $0.offset + $0.bytes || offset + bytes <= $0.offset })
        taken.append((offset, bytes))
      } else {
        let part = taken.remove(at: Int.random(in: 0..<taken.count, using: &generator))
        list.give(part.offset, part.bytes)
      }
    }
    for part in taken { list.give(part.offset, part.bytes) }
    #expect(list.isEmpty)
    #expect(list.take(1 << 16) == 0)
    #expect(list.take(1) == nil)
  }
}
