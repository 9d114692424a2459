public import PolarCore
import Synchronization

/// Counts the heads and neurons that a policy selected.
///
/// On a backend that records steps the device counts (see ``count(in:)``), else masks and counts are read back at each layer.
public final class SelectionStatistics: Sendable {
  /// What one layer computed and could have: heads summed over rows, neurons over steps.
  private struct Counts {
    var heads = 0
    var possibleHeads = 0
    var neurons = 0
    var possibleNeurons = 0

    static func - (a: Counts, b: Counts) -> Counts {
      Counts(
        heads: a.heads - b.heads, possibleHeads: a.possibleHeads - b.possibleHeads,
        neurons: a.neurons - b.neurons, possibleNeurons: a.possibleNeurons - b.possibleNeurons)
    }
  }

  private struct State {
    var layers: [Counts]
    /// What had been counted when the counts were last reset.
    var start: [Counts]
    var bytes: [UInt8]
    /// The device's counters.
    var tally: Address?
  }
  private let state: Mutex<State>
  private let heads: Int
  private let neurons: Int
  private let layerCount: Int

  /// Bytes of the device's counters of one layer: u64 heads, rows, neurons, lists.
  private static let layerBytes = 32

  /// A counter for a model of `layers` layers of `heads` heads and `neurons` neurons. Batches of up to `maximumRows` rows
  /// allocate nothing.
  public init(layers: Int, heads: Int, neurons: Int = 0, maximumRows: Int = 256) {
    self.heads = heads
    self.neurons = neurons
    layerCount = layers
    let none = Array(repeating: Counts(), count: layers)
    state = Mutex(
      State(layers: none, start: none, bytes: Array(repeating: 0, count: maximumRows * heads)))
  }

  /// Forgets all counts.
  public func reset() {
    state.withLock { state in
      for layer in 0..<layerCount { state.start[layer] = state.layers[layer] }
    }
  }

  /// Heads computed in full and heads there were, summed over rows and the given layers (all when nil).
  public func counts(layers: Set<Int>? = nil) -> (selected: Int, possible: Int) {
    state.withLock { state in
      var result = (selected: 0, possible: 0)
      for layer in 0..<layerCount where layers?.contains(layer) ?? true {
        let counts = state.layers[layer] - state.start[layer]
        result.selected += counts.heads
        result.possible += counts.possibleHeads
      }
      return result
    }
  }

  /// The fraction of heads computed in full over the given layers (all when nil); 1 when nothing was counted.
  public func density(layers: Set<Int>? = nil) -> Double {
    let counts = counts(layers: layers)
    return Self.fraction(counts.selected, counts.possible)
  }

  /// The fraction of MLP neurons computed over all layers and steps; 1 when nothing was counted.
  public func neuronDensity() -> Double {
    state.withLock { state in
      var (selected, possible) = (0, 0)
      for layer in 0..<layerCount {
        let counts = state.layers[layer] - state.start[layer]
        selected += counts.neurons
        possible += counts.possibleNeurons
      }
      return Self.fraction(selected, possible)
    }
  }

  /// The fraction of heads computed in full in each layer; 1 where nothing was counted.
  public func densities() -> [Double] {
    state.withLock { state in
      (0..<layerCount).map {
        let counts = state.layers[$0] - state.start[$0]
        return Self.fraction(counts.heads, counts.possibleHeads)
      }
    }
  }

  private static func fraction(_ selected: Int, _ possible: Int) -> Double {
    possible == 0 ? 1 : Double(selected) / Double(possible)
  }

  // MARK: Counting on the device

  /// Bytes that the device's counters take.
  public var tallyByteCount: Int { layerCount * Self.layerBytes }

  /// Lets the device count from now on, in zeroed memory of ``tallyByteCount`` bytes that lives as long as this is used; what
  /// it counted is to be given to ``update(from:)`` after steps.
  public func count(in tally: Address) { state.withLock { $0.tally = tally } }

  /// Whether the device counts.
  var countsOnDevice: Bool { state.withLock { $0.tally != nil } }

  /// Takes over the device's counters. A layer that selected nothing counts as dense.
  public func update(from bytes: UnsafeRawBufferPointer) {
    func counter(_ layer: Int, _ index: Int) -> Int {
      Int(clamping: bytes.loadUnaligned(fromByteOffset: layer * Self.layerBytes + index * 8, as: UInt64.self))
    }
    var (rows, steps) = (0, 0)
    for layer in 0..<layerCount {
      rows = max(rows, counter(layer, 1))
      steps = max(steps, counter(layer, 3))
    }
    state.withLock { state in
      for layer in 0..<layerCount {
        let all = Counts(
          heads: rows * heads, possibleHeads: rows * heads, neurons: steps * neurons,
          possibleNeurons: steps * neurons)
        state.layers[layer] = all
        if counter(layer, 1) > 0 { state.layers[layer].heads = counter(layer, 0) }
        if counter(layer, 3) > 0 { state.layers[layer].neurons = counter(layer, 2) }
      }
    }
  }

  /// `selection` with the device's counters of the layer.
  func tallied(_ selection: Selection, layer: Int) -> Selection {
    guard layer < layerCount, let tally = state.withLock({ $0.tally }) else { return selection }
    let counters = tally.advanced(by: layer * Self.layerBytes)
    var selection = selection
    selection.heads?.tally = counters
    selection.neurons?.tally = counters.advanced(by: 16)
    return selection
  }

  // MARK: Counting on the host

  func record(_ selection: Selection, layer: Int, rows: Int, on backend: any Backend) {
    state.withLock { state in
      guard layer < layerCount else { return }
      state.layers[layer].possibleHeads += rows * heads
      guard let mask = selection.heads?.mask else {
        state.layers[layer].heads += rows * heads
        return
      }
      if state.bytes.count < mask.count { state.bytes = Array(repeating: 0, count: mask.count) }
      var total = 0
      state.bytes.withUnsafeMutableBytes { bytes in
        backend.download(mask.address, into: UnsafeMutableRawBufferPointer(rebasing: bytes[0..<mask.count]))
        for byte in bytes[0..<mask.count] { total += Int(byte) }
      }
      state.layers[layer].heads += total
    }
  }

  /// Counts one layer's list of neurons; nil is all of them.
  func record(_ list: ActiveNeurons?, layer: Int, on backend: any Backend) {
    var count = Int32(neurons)
    if let list {
      withUnsafeMutableBytes(of: &count) { backend.download(list.count.address, into: $0) }
    }
    state.withLock { state in
      guard layer < layerCount else { return }
      state.layers[layer].neurons += Int(count)
      state.layers[layer].possibleNeurons += neurons
    }
  }
}

/// Another policy, with every selection counted: by the device where it counts, else by reading masks and counts back.
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
    if statistics.countsOnDevice { return statistics.tallied(selection, layer: context.layer) }
    statistics.record(selection, layer: context.layer, rows: context.input.rows, on: backend)
    // A policy that looks at activations chooses its neurons later.
    if selection.neurons != nil || !looksAtActivations {
      statistics.record(selection.neurons, layer: context.layer, on: backend)
    }
    return selection
  }

  /// Whether the other policy does.
  public var looksAtActivations: Bool { base.looksAtActivations }
  /// Where the device counts and the other policy can be recorded.
  public var isRecordable: Bool { statistics.countsOnDevice && base.isRecordable }
  /// The other policy's, counted, where the device counts.
  public var parts: (heads: any SparsityPolicy, neurons: any SparsityPolicy)? {
    guard statistics.countsOnDevice, let parts = base.parts else { return nil }
    return (
      CountingPolicy(parts.heads, statistics: statistics),
      CountingPolicy(parts.neurons, statistics: statistics)
    )
  }

  /// The neurons that the other policy chooses by their activations.
  public func selectNeurons(
    _ context: NeuronContext, workspace: inout Workspace, on backend: any Backend
  ) -> ActiveNeurons? {
    let neurons = base.selectNeurons(context, workspace: &workspace, on: backend)
    if statistics.countsOnDevice {
      return statistics.tallied(Selection(neurons: neurons), layer: context.layer).neurons
    }
    statistics.record(neurons, layer: context.layer, on: backend)
    return neurons
  }
}
