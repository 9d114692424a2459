public import PolarCore
import Synchronization

/// Counts the heads and neurons that a policy selected.
public final class SelectionStatistics: Sendable {
  private struct State {
    var selected: [Int]
    var possible: [Int]
    var bytes: [UInt8]
    var selectedNeurons = 0
    var possibleNeurons = 0
  }
  private let state: Mutex<State>
  private let heads: Int
  private let neurons: Int

  /// A counter for a model of `layers` layers of `heads` heads and `neurons` neurons. Batches of up to `maximumRows` rows
  /// allocate nothing.
  public init(layers: Int, heads: Int, neurons: Int = 0, maximumRows: Int = 256) {
    self.heads = heads
    self.neurons = neurons
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
      state.selectedNeurons = 0
      state.possibleNeurons = 0
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

  /// The fraction of MLP neurons computed over all layers and steps; 1 when nothing was counted.
  public func neuronDensity() -> Double {
    state.withLock { state in
      state.possibleNeurons == 0 ? 1 : Double(state.selectedNeurons) / Double(state.possibleNeurons)
    }
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

extension SelectionStatistics {
  /// Counts one layer's list of neurons; nil is all of them.
  func record(_ list: ActiveNeurons?, on backend: any Backend) {
    var count = Int32(neurons)
    if let list {
      withUnsafeMutableBytes(of: &count) { backend.download(list.count.address, into: $0) }
    }
    state.withLock { state in
      state.selectedNeurons += Int(count)
      state.possibleNeurons += neurons
    }
  }
}

/// Another policy, with every selection counted. Counting reads masks and counts back from the device.
public struct CountingPolicy: SparsityPolicy {
  private let base: any SparsityPolicy
  private let statistics: SelectionStatistics
  /// The other policy's name.
  public var name: String { base.name }

  /// Counts what `base` selects in `statistics`.
  public init(_ base: any SparsityPolicy, statistics: SelectionStatistics) {
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
    // A policy that looks at activations chooses its neurons later.
    if selection.neurons != nil || !looksAtActivations {
      statistics.record(selection.neurons, on: backend)
    }
    return selection
  }

  /// Whether the other policy does.
  public var looksAtActivations: Bool { base.looksAtActivations }
  /// Counting reads from the device.
  public var isRecordable: Bool { false }

  /// The neurons that the other policy chooses by their activations.
  public func selectNeurons(
    _ context: NeuronContext, workspace: inout Workspace, on backend: any Backend
  ) -> ActiveNeurons? {
    let neurons = base.selectNeurons(context, workspace: &workspace, on: backend)
    statistics.record(neurons, on: backend)
    return neurons
  }
}
