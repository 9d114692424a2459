import Foundation
import PolarCore
import PolarReference

/// Mistakes that a backend could make, each with the start of the names of the checks that must notice it.
enum Fault: String, CaseIterable, Sendable {
  case memoryIsNotZeroed = "allocate"
  case packingIgnoresFirstRow = "pack and unpack"
  case weightsLosePrecision = "rounding of weights"
  case blocksSwapHalves = "int4 blocks"
  case activationsKeepPrecision = "int8 linear"
  case embedWrapsTokens = "embed"
  case gatherReadsInOrder = "gatherRows"
  case rmsNormIgnoresEpsilon = "rmsNorm"
  case addNormForgetsResidual = "addRMSNorm"
  case varianceOfSample = "layerNorm"
  case linearDropsLastInput = "linear"
  case linearDependsOnBatch = "linear rows"
  case linearWritesBehindRow = "linear rows 2"
  case siluOfUp = "siluMul"
  case siluOverflows = "siluMul of extreme"
  case reluOfUp = "reluMul"
  case reluMulIgnoresThreshold = "reluMul 5"
  case gatedIgnoresThreshold = "linearGated 8"
  case headNormSharesScale = "headRMSNorm"
  case leakyRelu = "relu"
  case tanhGelu = "gelu"
  case addSkipsLastColumn = "add "
  case rotaryPairsNeighbours = "rotaryStoreKV"
  case rotaryStoresQueries = "rotaryStoreKV 8 x 9/3 heads of 64: cache"
  case storeSwapsKeyAndValue = "storeKV"
  case storeTruncates = "storeKV: rounding"
  case prefillSeesNextKey = "prefill attention full, 4/2"
  case localSpanIsOnePageLonger = "prefill attention local 0+1, 4/2"
  case decodeMissesLastKey = "decode attention 6/2"
  case decodeDiffersFromPrefillInLastBit = ": equals prefill"
  case decodeUsesFirstTable = "decode attention 9/3"
  case fallbackIsAlwaysZero = "selective attention, constant, 8/8"
  case localFallbackIgnoresSinks = "selective attention, local 1+2, 8/8"
  case selectionIsSharedByRows = "selective attention, zero, 8/8"
  case allHeadsDiffersFromDense = ": all heads is dense"
  case windowIsOneLonger = "window, decode attention 6/2"
  case windowIsForgottenInPrefill = "window, prefill attention full, 4/2"
  case argmaxTakesTheLast = "argmax"
  case argmaxSkipsNaN = "argmax of numbers"
  case tiesGoToHigherIndex = "selectTopK"
  case aboveMeansAtLeast = "selectAbove"
  case normsAreSquared = "headNorms"
  case deviationIgnoresFallback = "headDeviations"
  case upIgnoresSelection = "selectiveUp, 5 of 9"
  case upForgetsGate = "selectiveUp gated"
  case downReadsInOrder = "selectiveDown, 5 of 9"
  case allNeuronsDiffersFromDense = "selective MLP: every neuron"
  case unionTakesZeros = "topKUnion"
  case unionOfFirstRow = "unionAbove"
  case routerForgetsHiddenLayer = "routeHeads"
  case routerSelectsAtLeast = "routeHeads 70"
  case neuronRouterDropsLastInput = "routeNeurons"
}

/// The reference backend with one mistake.
final class FaultyBackend: Backend {
  private let inner = ReferenceBackend()
  private let fault: Fault

  init(_ fault: Fault) { self.fault = fault }

  var name: String { "faulty" }
  var kvDType: DType { inner.kvDType }
  var neuronDType: DType { inner.neuronDType }
  func neuronStride(columns: Int) -> Int { inner.neuronStride(columns: columns) }

  func allocate(byteCount: Int) throws(PolarError) -> any DeviceMemory {
    let memory = try inner.allocate(byteCount: byteCount)
    if fault == .memoryIsNotZeroed, byteCount > 0 {
      withUnsafeBytes(of: UInt8(1)) { inner.upload($0, to: memory.base.advanced(by: byteCount - 1)) }
    }
    return memory
  }
  func upload(_ bytes: UnsafeRawBufferPointer, to address: Address) { inner.upload(bytes, to: address) }
  func download(_ address: Address, into bytes: UnsafeMutableRawBufferPointer) {
    inner.download(address, into: bytes)
  }
  func synchronize() { inner.synchronize() }

  var weightFormats: Set<WeightFormat> { inner.weightFormats }
  func packedByteCount(outputs: Int, inputs: Int, format: WeightFormat) -> Int {
    inner.packedByteCount(outputs: outputs, inputs: inputs, format: format)
  }
  func packRows(_ weight: PackedMatrix, firstRow: Int, values: UnsafeBufferPointer<Float>) {
    inner.packRows(weight, firstRow: fault == .packingIgnoresFirstRow ? 0 : firstRow, values: values)
  }
  func packBlocks(_ weight: PackedMatrix, firstRow: Int, blocks: UnsafeRawBufferPointer) {
    guard fault == .blocksSwapHalves, weight.format != .int8 else {
      return inner.packBlocks(weight, firstRow: firstRow, blocks: blocks)
    }
    let size = weight.format.blockByteCount ?? 1
    let swapped = blocks.enumerated().map { index, byte in
      index % size >= size - 16 ? byte << 4 | byte >> 4 : byte
    }
    swapped.withUnsafeBytes { inner.packBlocks(weight, firstRow: firstRow, blocks: $0) }
  }
  func unpackRows(_ weight: PackedMatrix, firstRow: Int, into values: UnsafeMutableBufferPointer<Float>) {
    inner.unpackRows(weight, firstRow: firstRow, into: values)
    if fault == .weightsLosePrecision {
      for index in values.indices { values[index] = (values[index] * 64).rounded() / 64 }
    }
  }

  func embed(_ out: Tensor, tokens: Tensor, table: PackedMatrix) {
    let small = PackedMatrix(
      table.address.advanced(by: 4), outputs: table.outputs, inputs: table.inputs, format: table.format)
    inner.embed(out, tokens: tokens, table: fault == .embedWrapsTokens ? small : table)
  }
  func gatherRows(_ out: Tensor, _ x: Tensor, indices: Tensor) {
    if fault == .gatherReadsInOrder {
      let rows = Swift.min(out.rows, x.rows)
      for row in 0..<out.rows { copy(x.rows(row % rows..<row % rows + 1), to: out.rows(row..<row + 1)) }
    } else {
      inner.gatherRows(out, x, indices: indices)
    }
  }
  func rmsNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, epsilon: Float) {
    inner.rmsNorm(out, x, weight: weight, epsilon: fault == .rmsNormIgnoresEpsilon ? 0 : epsilon)
  }
  func addRMSNorm(_ out: Tensor, residual: Tensor, delta: Tensor, weight: Tensor, epsilon: Float) {
    guard fault == .addNormForgetsResidual else {
      return inner.addRMSNorm(out, residual: residual, delta: delta, weight: weight, epsilon: epsilon)
    }
    copy(residual, to: out)
    inner.add(out, delta)
    inner.rmsNorm(out, out, weight: weight, epsilon: epsilon)
  }
  func layerNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Float) {
    inner.layerNorm(out, x, weight: weight, bias: bias, epsilon: epsilon)
    guard fault == .varianceOfSample, x.columns > 1 else { return }
    let shrink = (Float(x.columns - 1) / Float(x.columns)).squareRoot()
    change(out) { row, column, value in
      let b = self.float(bias, 0, column)
      return (value - b) * shrink + b
    }
  }
  func linear(_ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?) {
    // The reference keeps every format as floats, so that it can be told to take them for bf16.
    let exact = PackedMatrix(weight.address, outputs: weight.outputs, inputs: weight.inputs)
    inner.linear(out, x, weight: fault == .activationsKeepPrecision ? exact : weight, bias: bias)
    switch fault {
    case .linearDropsLastInput where weight.inputs > 32:
      let k = weight.inputs - 1
      var row = [Float](repeating: 0, count: weight.inputs)
      for n in 0..<weight.outputs {
        row.withUnsafeMutableBufferPointer { inner.unpackRows(weight, firstRow: n, into: $0) }
        change(out.columns(n..<n + 1)) { i, _, value in value - self.float(x, i, k) * row[k] }
      }
    case .linearDependsOnBatch where x.rows >= 4:
      change(out.rows(0..<1)) { _, _, value in value.nextUp }
    case .linearWritesBehindRow:
      change(Tensor(out.address, columns: out.columns + 1)) { _, column, value in
        column == out.columns ? 0 : value
      }
    default: break
    }
  }
  func siluMul(_ out: Tensor, _ gateUp: Tensor) {
    inner.siluMul(out, gateUp)
    let n = out.columns
    if fault == .siluOfUp {
      change(out) { row, column, value in
        let (gate, up) = (self.float(gateUp, row, column), self.float(gateUp, row, n + column))
        return up / (1 + exp(-up)) * gate
      }
    }
    if fault == .siluOverflows {
      change(out) { row, column, value in self.float(gateUp, row, column) < -88 ? .nan : value }
    }
  }
  func reluMul(_ out: Tensor, _ gateUp: Tensor, threshold: Float) {
    inner.reluMul(out, gateUp, threshold: fault == .reluMulIgnoresThreshold ? 0 : threshold)
    guard fault == .reluOfUp else { return }
    let n = out.columns
    change(out) { row, column, value in
      let (gate, up) = (self.float(gateUp, row, column), self.float(gateUp, row, n + column))
      return up > threshold ? gate * up : 0
    }
  }
  func linearGated(
    _ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?, activation: GateActivation,
    scratch: Tensor
  ) {
    linear(scratch, x, weight: weight, bias: bias)
    switch activation {
    case .silu: siluMul(out, scratch)
    case .relu(let threshold):
      reluMul(out, scratch, threshold: fault == .gatedIgnoresThreshold ? 0 : threshold)
    }
  }
  func headRMSNorm(_ x: Tensor, weight: Tensor, epsilon: Float, heads: Int) {
    guard fault == .headNormSharesScale else {
      return inner.headRMSNorm(x, weight: weight, epsilon: epsilon, heads: heads)
    }
    // One scale for the whole row.
    for row in 0..<x.rows {
      let vectors = pointer(x, row)
      let count = heads * weight.columns
      let square = (0..<count).reduce(Float(0)) { $0 + vectors[$1] * vectors[$1] } / Float(count)
      for i in 0..<count {
        vectors[i] *= float(weight, 0, i % weight.columns) / (square + epsilon).squareRoot()
      }
    }
  }
  func relu(_ x: Tensor) {
    guard fault == .leakyRelu else { return inner.relu(x) }
    change(x) { _, _, value in value < 0 ? value * 0.01 : value }
  }
  func gelu(_ x: Tensor) {
    guard fault == .tanhGelu else { return inner.gelu(x) }
    change(x) { _, _, value in
      0.5 * value * (1 + tanh(0.797_884_56 * (value + 0.044_715 * value * value * value)))
    }
  }
  func add(_ x: Tensor, _ y: Tensor) {
    let end = x.columns - (fault == .addSkipsLastColumn ? 1 : 0)
    inner.add(x.columns(0..<end), y.columns(0..<end))
  }

  func rotaryStoreKV(
    _ kv: KVLayer, _ x: Tensor, heads: Int, positions: Tensor, inverseFrequencies: Tensor, slots: Tensor
  ) {
    let headDim = kv.headDim
    let values = (heads + kv.kvHeads) * headDim
    let key = x.columns(heads * headDim..<values)
    let value = x.columns(values..<values + kv.kvHeads * headDim)
    if fault == .rotaryPairsNeighbours {
      for row in 0..<x.rows {
        let vectors = pointer(x, row)
        for h in 0..<heads + kv.kvHeads {
          for j in 0..<headDim / 2 {
            let angle = Float(Int(positions.address.i32[row])) * float(inverseFrequencies, 0, j)
            let pair = vectors + h * headDim + 2 * j
            let (a, b) = (pair[0], pair[1])
            pair[0] = a * cos(angle) - b * sin(angle)
            pair[1] = b * cos(angle) + a * sin(angle)
          }
        }
      }
      return inner.storeKV(kv, key: key, value: value, slots: slots)
    }
    inner.rotaryStoreKV(
      kv, x, heads: heads, positions: positions, inverseFrequencies: inverseFrequencies, slots: slots)
    if fault == .rotaryStoresQueries {
      inner.storeKV(kv, key: x.columns(0..<key.columns), value: value, slots: slots)
    }
  }
  func storeKV(_ kv: KVLayer, key: Tensor, value: Tensor, slots: Tensor) {
    if fault == .storeTruncates {
      // bf16 by truncation is off by up to 2^-7; the rounding that the suite allows is half of that.
      for tensor in [key, value] {
        change(tensor) { _, _, value in Float(bitPattern: value.bitPattern & 0xffff_0000) }
      }
    }
    let swap = fault == .storeSwapsKeyAndValue
    inner.storeKV(kv, key: swap ? value : key, value: swap ? key : value, slots: slots)
  }
  func prefillAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, span: AttentionSpan
  ) {
    var span = span
    let kv = fault == .windowIsForgottenInPrefill ? kv.with(window: nil) : kv
    if fault == .localSpanIsOnePageLonger, case .local(let sinkPages, let recentPages) = span {
      span = .local(sinkPages: sinkPages, recentPages: recentPages + 1)
    }
    if fault == .prefillSeesNextKey {
      shifted(batch, by: 1) {
        inner.prefillAttention(out, query: query, kv: kv, batch: $0, scale: scale, span: span)
      }
    } else {
      inner.prefillAttention(out, query: query, kv: kv, batch: batch, scale: scale, span: span)
    }
  }
  func decodeAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, heads: ActiveHeads?
  ) {
    var heads = heads
    let kv = fault == .windowIsOneLonger ? kv.with(window: kv.window.map { $0 + 1 }) : kv
    if let selection = heads {
      switch (fault, selection.fallback) {
      case (.fallbackIsAlwaysZero, _): heads = ActiveHeads(mask: selection.mask, fallback: .zero)
      case (.localFallbackIgnoresSinks, .local(_, let recentPages)):
        heads = ActiveHeads(
          mask: selection.mask, fallback: .local(sinkPages: 0, recentPages: recentPages))
      case (.selectionIsSharedByRows, _):
        let mask = selection.mask
        let shared = Tensor(
          mask.address, rows: mask.rows, columns: mask.columns, rowStride: 0, dtype: .u8)
        heads = ActiveHeads(mask: shared, fallback: selection.fallback)
      default: break
      }
    }
    switch fault {
    case .decodeMissesLastKey:
      shifted(batch, by: -1) {
        inner.decodeAttention(out, query: query, kv: kv, batch: $0, scale: scale, heads: heads)
      }
    case .decodeUsesFirstTable:
      let tables = batch.blockTables
      let first = Tensor(
        tables.address, rows: tables.rows, columns: tables.columns, rowStride: 0, dtype: .i32)
      let wrong = ForwardBatch(
        tokens: batch.tokens, positions: batch.positions, slots: batch.slots,
        rowSequences: batch.rowSequences, blockTables: first, logitRows: batch.logitRows,
        isDecode: batch.isDecode, longestContext: batch.longestContext)
      inner.decodeAttention(out, query: query, kv: kv, batch: wrong, scale: scale, heads: heads)
    default:
      inner.decodeAttention(out, query: query, kv: kv, batch: batch, scale: scale, heads: heads)
    }
    let nudge =
      fault == .decodeDiffersFromPrefillInLastBit || fault == .allHeadsDiffersFromDense && heads != nil
    if nudge { change(out) { _, _, value in value.nextUp } }
  }

  func argmax(_ tokens: Tensor, logits: Tensor) {
    guard fault == .argmaxTakesTheLast || fault == .argmaxSkipsNaN else {
      return inner.argmax(tokens, logits: logits)
    }
    for row in 0..<logits.rows {
      let order = (0..<logits.columns).filter { !float(logits, row, $0).isNaN }
      let ties = fault == .argmaxTakesTheLast ? order : order.reversed()
      var best = ties.first ?? 0
      for index in ties where float(logits, row, index) >= float(logits, row, best) { best = index }
      tokens.address.i32[row] = Int32(best)
    }
  }
  func selectTopK(_ mask: Tensor, scores: Tensor, k: Int, headsPerUnit: Int) {
    guard fault == .tiesGoToHigherIndex else {
      return inner.selectTopK(mask, scores: scores, k: k, headsPerUnit: headsPerUnit)
    }
    for row in 0..<scores.rows {
      let order = (0..<scores.columns).sorted { a, b in
        (float(scores, row, a), a) > (float(scores, row, b), b)
      }
      let chosen = Set(order.prefix(k))
      let bytes = mask.rows(row..<row + 1).address.u8
      for head in 0..<mask.columns { bytes[head] = chosen.contains(head / headsPerUnit) ? 1 : 0 }
    }
  }
  func selectAbove(_ mask: Tensor, scores: Tensor, threshold: Float, headsPerUnit: Int) {
    let least = fault == .aboveMeansAtLeast ? threshold.nextDown : threshold
    inner.selectAbove(mask, scores: scores, threshold: least, headsPerUnit: headsPerUnit)
  }
  func routeHeads(
    _ mask: Tensor, scores: Tensor, _ x: Tensor, router: HeadRouterMatrices, scratch: Tensor?,
    choice: ScoreChoice, headsPerUnit: Int
  ) {
    var (router, choice) = (router, choice)
    if fault == .routerForgetsHiddenLayer {
      router = HeadRouterMatrices(weight: router.weight, bias: router.bias)
    }
    if fault == .routerSelectsAtLeast, case .above(let threshold) = choice {
      choice = .above(threshold.nextDown)
    }
    inner.routeHeads(
      mask, scores: scores, x, router: router, scratch: scratch, choice: choice, headsPerUnit: headsPerUnit)
  }
  func routeNeurons(
    _ neurons: ActiveNeurons, _ x: Tensor, weight: PackedMatrix, scores: Tensor, aggregate: Tensor,
    choice: ScoreChoice
  ) {
    if fault == .neuronRouterDropsLastInput, x.rows > 1 {
      let last = x.rows(x.rows - 1..<x.rows).address.f32
      for column in 0..<x.columns { last[column] = 0 }
    }
    inner.routeNeurons(
      neurons, x, weight: weight, scores: scores, aggregate: aggregate, choice: choice)
  }
  func headNorms(_ out: Tensor, attention: Tensor) {
    inner.headNorms(out, attention: attention)
    if fault == .normsAreSquared { change(out) { _, _, value in value * value } }
  }
  func headDeviations(_ out: Tensor, attention: Tensor, fallback: Tensor?, gram: Tensor, residual: Tensor) {
    let ignored = fault == .deviationIgnoresFallback
    inner.headDeviations(
      out, attention: attention, fallback: ignored ? nil : fallback, gram: gram, residual: residual)
  }

  func selectiveUp(
    _ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor?, threshold: Float, neurons: ActiveNeurons?
  ) {
    let ignored = fault == .upIgnoresSelection && neurons.map { $0.capacity < weight.rows } ?? false
    let narrow = fault == .upForgetsGate && weight.columns == 2 * x.columns
    inner.selectiveUp(
      out, x, weight: narrow ? weight.columns(0..<x.columns) : weight, bias: bias,
      threshold: threshold, neurons: ignored ? nil : neurons)
    if fault == .allNeuronsDiffersFromDense, neurons != nil { change(out) { _, _, value in value.nextUp } }
  }
  func selectiveDown(_ out: Tensor, _ h: Tensor, weight: Tensor, bias: Tensor?, neurons: ActiveNeurons?) {
    guard fault == .downReadsInOrder, let neurons else {
      return inner.selectiveDown(out, h, weight: weight, bias: bias, neurons: neurons)
    }
    let count = Int(neurons.count.address.i32[0])
    inner.selectiveDown(
      out, h,
      weight: Tensor(weight.address, rows: count, columns: weight.columns, rowStride: weight.rowStride),
      bias: bias, neurons: nil)
  }
  func topKUnion(_ neurons: ActiveNeurons, sums: Tensor, scores: Tensor, k: Int) {
    inner.topKUnion(neurons, sums: sums, scores: scores, k: k)
    guard fault == .unionTakesZeros else { return }
    let (list, count) = (neurons.indices.address.i32, neurons.count.address.i32)
    var chosen = Set((0..<Int(count[0])).map { list[$0] })
    for n in 0..<Int32(scores.columns) where chosen.count < k { chosen.insert(n) }
    for (j, n) in chosen.sorted().enumerated() { list[j] = n }
    count[0] = Int32(chosen.count)
  }
  func unionAbove(_ neurons: ActiveNeurons, peaks: Tensor, scores: Tensor, threshold: Float) {
    inner.unionAbove(
      neurons, peaks: peaks, scores: fault == .unionOfFirstRow ? scores.rows(0..<1) : scores,
      threshold: threshold)
  }

  // MARK: Mechanics

  private func pointer(_ tensor: Tensor, _ row: Int) -> UnsafeMutablePointer<Float> {
    tensor.address.f32 + row * tensor.rowStride
  }
  private func float(_ tensor: Tensor, _ row: Int, _ column: Int) -> Float { pointer(tensor, row)[column] }
  private func change(_ tensor: Tensor, _ body: (Int, Int, Float) -> Float) {
    for row in 0..<tensor.rows {
      for column in 0..<tensor.columns {
        pointer(tensor, row)[column] = body(row, column, float(tensor, row, column))
      }
    }
  }
  private func copy(_ source: Tensor, to target: Tensor) {
    for row in 0..<target.rows {
      pointer(target, row).update(from: pointer(source, row), count: target.columns)
    }
  }

  /// Calls `body` with all positions moved by `step`, where they stay within the page they are in.
  private func shifted(_ batch: ForwardBatch, by step: Int32, _ body: (ForwardBatch) -> Void) {
    let positions = batch.positions.address.i32
    let saved = (0..<batch.rows).map { positions[$0] }
    for row in 0..<batch.rows where (saved[row] + step) / 16 == saved[row] / 16 && saved[row] + step >= 0 {
      positions[row] += step
    }
    body(batch)
    for row in 0..<batch.rows { positions[row] = saved[row] }
  }
}

extension Address {
  fileprivate var f32: UnsafeMutablePointer<Float> { UnsafeMutablePointer(bitPattern: bits)! }
  fileprivate var i32: UnsafeMutablePointer<Int32> { UnsafeMutablePointer(bitPattern: bits)! }
  fileprivate var u8: UnsafeMutablePointer<UInt8> { UnsafeMutablePointer(bitPattern: bits)! }
}

extension KVLayer {
  fileprivate func with(window: Int?) -> KVLayer {
    KVLayer(address, pages: pages, kvHeads: kvHeads, headDim: headDim, dtype: dtype, window: window)
  }
}
