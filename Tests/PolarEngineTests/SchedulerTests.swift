import PolarCore
import Testing

@testable import PolarEngine

@Suite struct SchedulerTests {
  /// Runs schedules to the end and checks what must hold in every step. Returns ids in order of their first row.
  private func simulate(seed: UInt64) throws -> (
    started: [SequenceID], finished: Set<SequenceID>, cancelled: Int
  ) {
    var random = TestRandom(seed)
    let limits = Scheduler.Limits(
      pages: Int.random(in: 4...40, using: &random), sequences: Int.random(in: 1...8, using: &random),
      rows: Int.random(in: 9...70, using: &random), context: Int.random(in: 20...200, using: &random))
    var scheduler = try Scheduler(limits: limits)
    var started: [SequenceID] = []
    var finished: Set<SequenceID> = []
    var cancelled = 0
    var submissions = Int.random(in: 5...40, using: &random)
    var steps = 0
    var step = ScheduledStep()
    while submissions > 0 || scheduler.hasWork {
      steps += 1
      try #require(steps < 20000, "no progress")
      for _ in 0..<Int.random(in: 0...3, using: &random) where submissions > 0 {
        submissions -= 1
        let prompt = (0..<Int.random(in: 1...limits.context, using: &random)).map { Int32($0) }
        let most = Int.random(in: 1...60, using: &random)
        do {
          _ = try scheduler.submit(prompt: prompt, maximumTokens: most)
        } catch {
          let output = min(most, limits.context - prompt.count)
          #expect(output < 1 || (prompt.count + output - 1 + 15) / 16 > limits.pages)
        }
      }
      if Int.random(in: 0..<20, using: &random) == 0 {
        let all = scheduler.running.map(\.id) + scheduler.waiting.map(\.id)
        if let victim = all.randomElement(using: &random) {
          let free = scheduler.pool.freePages
          let held = scheduler.runningSequence(victim)?.pages.count ?? 0
          let removed = scheduler.remove(victim)
          #expect(removed?.id == victim)
          #expect(scheduler.pool.freePages == free + held)
          cancelled += 1
        }
      }
      let before = scheduler
      scheduler.schedule(into: &step)
      check(scheduler, step, before: before)
      #expect(!scheduler.hasWork || !step.isEmpty, "work, but an empty step")
      scheduler.commit(step)
      for chunk in step.prefill {
        if !started.contains(chunk.id) { started.append(chunk.id) }
        if chunk.samples, scheduler.append(7, to: chunk.id) {
          scheduler.remove(chunk.id)
          finished.insert(chunk.id)
        }
      }
      for row in step.decode where row.samples {
        if scheduler.append(9, to: row.id) || Int.random(in: 0..<60, using: &random) == 0 {
          scheduler.remove(row.id)
          finished.insert(row.id)
        }
      }
    }
    #expect(scheduler.pool.heldPages == 0)
    return (started, finished, cancelled)
  }

  private func check(_ scheduler: Scheduler, _ step: ScheduledStep, before: Scheduler) {
    let limits = scheduler.limits
    let held = scheduler.running.flatMap(\.pages)
    #expect(Set(held).count == held.count, "a page in two sequences")
    #expect(held.count == scheduler.pool.heldPages)
    #expect(scheduler.waiting.allSatisfy { $0.pages.isEmpty })
    #expect(scheduler.running.count <= limits.sequences)
    let ids = scheduler.running.map(\.id) + scheduler.waiting.map(\.id)
    #expect(ids == ids.sorted(), "running and waiting are not in order of age")
    #expect(step.prefill.reduce(step.decode.count) { $0 + $1.positions.count } <= limits.rows)
    for chunk in step.prefill {
      guard let sequence = scheduler.runningSequence(chunk.id) else {
        Issue.record("a prefill row of a sequence that does not run")
        continue
      }
      #expect(chunk.positions.lowerBound == sequence.computed)
      #expect(chunk.positions.upperBound <= sequence.prompt.count)
      #expect(!chunk.positions.isEmpty)
      #expect(sequence.pages.count * 16 >= chunk.positions.upperBound)
      #expect(
        chunk.samples == (chunk.positions.upperBound == sequence.prompt.count && sequence.output.isEmpty))
    }
    for row in step.decode {
      guard let sequence = scheduler.runningSequence(row.id) else {
        Issue.record("a decode row of a sequence that does not run")
        continue
      }
      #expect(row.position == sequence.computed && row.position >= sequence.prompt.count)
      #expect(row.position < sequence.count && row.position < limits.context)
      #expect(sequence.pages.count * 16 > row.position)
      #expect(row.samples == (row.position == sequence.count - 1))
    }
    // The youngest are preempted first, and come back to the front; the oldest never is.
    let wereRunning = before.running.map(\.id)
    let lost = wereRunning.filter { id in !scheduler.running.contains { $0.id == id } }
    #expect(lost == Array(wereRunning.suffix(lost.count)))
    #expect(lost.isEmpty || lost.count < wereRunning.count)
    #expect(Array(scheduler.waiting.map(\.id).prefix(lost.count)) == lost)
    #expect(scheduler.preemptions >= before.preemptions + lost.count)
  }

  @Test(arguments: 0..<60) func randomScenariosKeepTheInvariants(seed: Int) throws {
    let (started, finished, _) = try simulate(seed: UInt64(seed))
    #expect(started == started.sorted(), "a younger request started before an older one")
    #expect(finished.isSubset(of: started))
  }

  @Test func everythingSubmittedEndsOrIsCancelled() throws {
    var preempted = 0
    for seed in 200..<230 {
      let result = try simulate(seed: UInt64(seed))
      preempted += result.cancelled
      #expect(result.started.count <= result.finished.count + result.cancelled)
    }
    #expect(preempted > 0, "the scenarios never cancel: they prove less than they should")
  }

  @Test func promptsAreChunkedWithinTheBudget() throws {
    var scheduler = try Scheduler(limits: .init(pages: 64, sequences: 4, rows: 40, context: 512))
    let id = try scheduler.submit(prompt: Array(repeating: 1, count: 100), maximumTokens: 4)
    var sizes: [Int] = []
    var sampled: [Bool] = []
    for _ in 0..<3 {
      let step = scheduler.schedule()
      #expect(step.prefill.map(\.id) == [id] && step.decode.isEmpty)
      sizes.append(step.prefill[0].positions.count)
      sampled.append(step.prefill[0].samples)
      scheduler.commit(step)
    }
    #expect(sizes == [40, 40, 20])
    #expect(sampled == [false, false, true])
    let isFull = scheduler.append(5, to: id)
    #expect(!isFull)
    let decode = scheduler.schedule().decode
    #expect(decode == [DecodeRow(id: id, position: 100, samples: true)])
  }

  @Test func aPreemptedSequenceReplaysItsTokens() throws {
    // Two sequences of one page each, growing into the third page: the younger one must give way.
    var scheduler = try Scheduler(limits: .init(pages: 4, sequences: 2, rows: 32, context: 64))
    let old = try scheduler.submit(prompt: Array(repeating: 1, count: 14), maximumTokens: 30)
    let young = try scheduler.submit(prompt: Array(repeating: 2, count: 14), maximumTokens: 30)
    var next: Int32 = 100
    var outputs: [SequenceID: [Int32]] = [:]
    var replayed: [Int] = []
    var finished: [SequenceID] = []
    for _ in 0..<200 where scheduler.hasWork {
      let step = scheduler.schedule()
      scheduler.commit(step)
      let sampled = step.prefill.filter(\.samples).map(\.id) + step.decode.filter(\.samples).map(\.id)
      replayed += step.decode.filter { !$0.samples && $0.id == young }.map(\.position)
      for id in sampled {
        next += 1
        outputs[id, default: []].append(next)
        if scheduler.append(next, to: id) {
          let removed = scheduler.remove(id)
          let sequence = try #require(removed)
          #expect(sequence.output == outputs[id])
          #expect((sequence.preemptions > 0) == (id == young))
          finished.append(id)
        }
      }
    }
    #expect(finished == [old, young])
    #expect(scheduler.preemptions == 1)
    // All positions it had decoded before, from the first generated token on.
    #expect(!replayed.isEmpty && replayed.first == 14)
    #expect(replayed == Array(14..<14 + replayed.count))
    #expect(scheduler.pool.freePages == 4)
  }

  @Test func whatCanNeverFitIsRefused() throws {
    var scheduler = try Scheduler(limits: .init(pages: 2, sequences: 2, rows: 32, context: 64))
    func field(_ prompt: Int, _ most: Int) -> String? {
      do {
        _ = try scheduler.submit(prompt: Array(repeating: 0, count: prompt), maximumTokens: most)
        return nil
      } catch {
        if case .request(let field, _) = error { return field }
        return "other"
      }
    }
    #expect(field(0, 5) == "promptTokens")
    #expect(field(64, 5) == "promptTokens")
    #expect(field(5, 0) == "maxTokens")
    #expect(field(20, 14) == "maxTokens")
    // 20 + 13 - 1 rows are exactly two pages: the last token is never an input.
    #expect(field(20, 13) == nil)
    #expect(throws: PolarError.self) {
      try Scheduler(limits: .init(pages: 2, sequences: 4, rows: 4, context: 64))
    }
    #expect(throws: PolarError.self) {
      try Scheduler(limits: .init(pages: 0, sequences: 4, rows: 8, context: 64))
    }
  }
}

@Suite struct BlockPoolTests {
  @Test func growingSequencesKeepConsecutivePages() throws {
    var pool = BlockPool(pages: 64)
    let promises = (0..<8).map { _ in pool.promise(8) }
    var pages = Array(repeating: [Int32](), count: 8)
    for _ in 0..<8 {
      for sequence in 0..<8 {
        let page = pool.allocate(from: promises[sequence], after: pages[sequence].last)
        pages[sequence].append(try #require(page))
      }
    }
    for run in pages { #expect(run == Array(run[0]..<run[0] + 8)) }
    #expect(pool.freePages == 0)
    let none = pool.allocate(from: 0..<0, after: nil)
    #expect(none == nil)
  }

  @Test func aPromiseIsSoft() throws {
    var pool = BlockPool(pages: 4)
    let promise = pool.promise(9)
    #expect(promise == 0..<4)
    let other = pool.promise(2)
    #expect(other.isEmpty)
    let taken = (0..<4).compactMap { _ in pool.allocate(from: other, after: nil) }
    #expect(taken == [3, 2, 1, 0])
    pool.withdraw(promise)
    #expect(pool.heldPages == 4)
    for page in taken { pool.free(page) }
    #expect(pool.freePages == 4)
    let again = pool.promise(4)
    #expect(again == 0..<4)
  }

  @Test func randomUseCountsRight() throws {
    var random = TestRandom(3)
    var pool = BlockPool(pages: 50)
    var held: Set<Int32> = []
    var promises: [Range<Int32>] = []
    for _ in 0..<3000 {
      switch Int.random(in: 0..<4, using: &random) {
      case 0: promises.append(pool.promise(Int.random(in: 1...20, using: &random)))
      case 1 where !promises.isEmpty: pool.withdraw(promises.removeLast())
      case 2 where !held.isEmpty:
        let page = held.sorted().randomElement(using: &random)!
        held.remove(page)
        pool.free(page)
      default:
        let page = pool.allocate(from: promises.last ?? 0..<0, after: held.max())
        #expect((page == nil) == (held.count == 50))
        if let page { #expect(held.insert(page).inserted) }
      }
      #expect(pool.heldPages == held.count)
    }
  }

  @Test func aDoubleFreeStopsTheProgram() async {
    await #expect(processExitsWith: .failure) {
      var pool = BlockPool(pages: 2)
      let page = pool.allocate(from: 0..<0, after: nil)!
      pool.free(page)
      pool.free(page)
    }
  }
}
