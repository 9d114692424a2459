import Dispatch
import PolarCore
import Synchronization

/// Bounds how many layers train at the same time; what follows on the host runs beside the training of other layers.
final class TrainingSlots: Sendable {
  private let semaphore: DispatchSemaphore

  /// As many slots as `count`, within reason.
  init(_ count: Int) { semaphore = DispatchSemaphore(value: max(1, min(count, 1024))) }

  /// Runs `body` when a slot is free.
  func take<Result>(_ body: () throws(PolarError) -> Result) throws(PolarError) -> Result {
    semaphore.wait()
    defer { semaphore.signal() }
    return try body()
  }
}

/// Work on the layers of a model, in parallel over the processor's threads.
struct LayerWork: Sendable {
  /// The layers that have any.
  let layers: [Int]
  /// Layers of the model.
  let count: Int
  let meter: ProgressMeter

  /// The results by layer, nil where there was no work.
  /// - Throws: the first error of any layer.
  func map<Result: Sendable>(
    _ body: @escaping @Sendable (_ layer: Int) throws(PolarError) -> Result
  ) throws(PolarError) -> [Result?] {
    let state = Mutex(
      (byLayer: [Result?](repeating: nil, count: count), done: 0, failure: PolarError?.none))
    DispatchQueue.concurrentPerform(iterations: layers.count) { index in
      guard state.withLock({ $0.failure == nil }) else { return }
      do throws(PolarError) {
        let result = try body(layers[index])
        let done = state.withLock { state in
          state.byLayer[layers[index]] = result
          state.done += 1
          return state.done
        }
        meter.update(Double(done))
      } catch {
        state.withLock { if $0.failure == nil { $0.failure = error } }
      }
    }
    let (byLayer, failure) = state.withLock { ($0.byLayer, $0.failure) }
    if let failure { throw failure }
    return byLayer
  }
}
