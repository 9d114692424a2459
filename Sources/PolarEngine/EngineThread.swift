import Foundation

/// An OS thread that runs an actor's jobs and, between them, its steps.
///
/// The thread takes the jobs that are queued, runs them, runs one step if there is work, and begins again; it sleeps when
/// there is neither. So a submit or a cancel waits for one step at most, and a step never waits for a thread.
final class EngineThread: SerialExecutor, @unchecked Sendable {
  // Unchecked: `condition` guards all mutable state.
  private let condition = NSCondition()
  private var jobs: [UnownedJob] = []
  private var step: (@Sendable () -> Bool)?
  private var isStopped = false
  private var thread: Thread?

  init(name: String) {
    let thread = Thread { [self] in run() }
    thread.name = name
    thread.stackSize = 8 << 20
    condition.withLock { self.thread = thread }
    thread.start()
  }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    condition.lock()
    jobs.append(job)
    condition.signal()
    condition.unlock()
  }

  /// Runs `step` on this thread again and again until it returns false. Call on this thread.
  func repeatStep(_ step: @escaping @Sendable () -> Bool) {
    condition.withLock { self.step = step }
  }

  /// Ends the thread when its queue is empty.
  func stop() {
    condition.lock()
    isStopped = true
    condition.signal()
    condition.unlock()
  }

  var isCurrent: Bool { condition.withLock { thread } === Thread.current }

  func checkIsolated() { precondition(isCurrent, "not on the engine's thread") }

  func isIsolatingCurrentContext() -> Bool? { isCurrent }

  private func run() {
    let executor = asUnownedSerialExecutor()
    var batch: [UnownedJob] = []
    while true {
      condition.lock()
      while jobs.isEmpty, step == nil, !isStopped { condition.wait() }
      // Keeps the storage of both arrays: nothing is allocated while steps run.
      swap(&jobs, &batch)
      let isLast = isStopped && batch.isEmpty
      condition.unlock()
      if isLast { break }
      for job in batch { job.runSynchronously(on: executor) }
      batch.removeAll(keepingCapacity: true)
      runStep()
    }
    condition.withLock {
      step = nil
      thread = nil
    }
  }

  private func runStep() {
    guard let step = condition.withLock({ step }), !step() else { return }
    // The step may hold the last reference to the actor: let go of it outside the lock.
    let ended = condition.withLock {
      defer { self.step = nil }
      return self.step
    }
    withExtendedLifetime(ended) {}
  }
}
