public import PolarCore
import Synchronization

/// Counts the heads that a policy selected.
public final class HeadStatistics: Sendable {
  private struct State {
    var selected: [Int]
    var possible: [Int]
    var bytes: [UInt8]
  }
  private let state: Mutex<State>
  private let heads: Int

  /// A counter for a model of `layers` layers of `heads` heads. Batches of up to `maximumRows` rows allocate nothing.
  public init(layers: Int, heads: Int, maximumRows: Int = 256) {
    self.heads = heads
    state = Mutex(
      State(
        selected: Array(repeating: 0, count: layers), possible: Array(repeating: 0, count: layers),
        bytes: Array(repeating: 0, count: maximumRows * heads)))
  }

  /// Forgets all counts.
  public func reset() {
    state.withLock { state in
      for layer in state.selected.indices {
        state.selected[layer] = 0
        state.possible[layer] = 0
      }
    }
  }

  /// Heads computed in full and heads there were, summed over rows and the given layers (all when nil).
  public func counts(layers: Set<Int>? = nil) -> (selected: Int, possible: Int) {
    state.withLock { state in
      var result = (selected: 0, possible: 0)
      for layer in state.selected.indices where layers?.contains(layer) ?? true {
        result.selected += state.selected[layer]
        result.possible += state.possible[layer]
      }
      return result
    }
  }

  /// The fraction of heads computed in full over the given layers (all when nil); 1 when nothing was counted.
  public func density(layers: Set<Int>? = nil) -> Double {
    let counts = counts(layers: layers)
    return counts.possible == 0 ? 1 : Double(counts.selected) / Double(counts.possible)
  }

  /// The fraction of heads computed in full in each layer; 1 where nothing was counted.
  public func densities() -> [Double] {
    state.withLock { state in
      zip(state.selected, state.possible).map { $1 == 0 ? 1 : Double($0) / Double($1) }
    }
  }

  func record(_ selection: Selection, layer: Int, rows: Int, on backend: any Backend) {
    state.withLock { state in
      guard layer < state.selected.count else { return }
      state.possible[layer] += rows * heads
      guard let mask = selection.heads?.mask else {
        state.selected[layer] += rows * heads
        return
      }
      if state.bytes.count < mask.count { state.bytes = Array(repeating: 0, count: mask.count) }
      var total = 0
      state.bytes.withUnsafeMutableBytes { bytes in
        backend.download(mask.address, into: UnsafeMutableRawBufferPointer(rebasing: bytes[0..<mask.count]))
        for byte in bytes[0..<mask.count] { total += Int(byte) }
      }
      state.selected[layer] += total
    }
  }
}

/// Another policy, with every selection counted. Counting reads the masks back from the device.
public struct CountingPolicy: SparsityPolicy {
  private let base: any SparsityPolicy
  private let statistics: HeadStatistics
  /// The other policy's name.
  public var name: String { base.name }

  /// Counts what `base` selects in `statistics`.
  public init(_ base: any SparsityPolicy, statistics: HeadStatistics) {
    self.base = base
    self.statistics = statistics
  }

  /// Bytes of workspace that selecting takes for `rows` rows, the mask included.
  public func workspaceByteCount(rows: Int) -> Int { base.workspaceByteCount(rows: rows) }

  /// The heads of one layer of a decode step.
  public func select(
    _ context: AttentionContext, workspace: inout Workspace, on backend: any Backend
  ) -> Selection {
    let selection = base.select(context, workspace: &workspace, on: backend)
    statistics.record(selection, layer: context.layer, rows: context.input.rows, on: backend)
    return selection
  }
}
