public import PolarCore

/// How far training on a device may lie from the host's. This is the one place where that is fixed.
public enum TrainingTolerance {
  /// Moves, comparisons and sums in the same order; a compiler may fuse a product and a sum.
  public static let exact: Float = 1e-6
  /// Sigmoids by different approximations, each to about 1e-6.
  public static let slopes: Float = 4e-6
  /// Sums in another order.
  public static let sums: Float = 1e-5
  /// Products whose operands are both rounded to bf16: each off by up to 2^-9, random in sign.
  public static let products: Float = 0x1p-7
  /// A trained router's loss on held-out tokens, relative to the host's: hundreds of steps on products as above.
  public static let loss = 0.01
  /// Fraction of held-out predictions that are the host's. Those near the decision flip.
  public static let agreement = 0.99
  /// Recall, precision and explained variance: what a calibration reports.
  public static let quality = 0.02
}

/// The same tensor on the host and on a device; rows are `gap` elements apart, which must stay NaN.
private struct Twin {
  let host: OwnedTensor
  let device: OwnedTensor
  let columns: Int

  init(
    _ values: [Float], rows: Int, gap: Int = 0, on ops: (host: any TrainingOps, device: any TrainingOps)
  ) throws(PolarError) {
    columns = values.count / rows
    var padded: [Float] = []
    for row in 0..<rows {
      padded += values[row * columns..<(row + 1) * columns] + Array(repeating: .nan, count: gap)
    }
    host = try OwnedTensor(padded, rows: rows, on: ops.host)
    device = try OwnedTensor(padded, rows: rows, on: ops.device)
  }

  func view(_ tensor: OwnedTensor) -> Tensor { tensor.tensor.columns(0..<columns) }

  /// The largest difference relative to the largest magnitude of the row or `floor`; infinite when a gap was written to.
  func error(floor: Float = 1e-3) -> Float {
    let (want, got) = (host.read(), device.read())
    let stride = host.tensor.columns
    var worst: Float = 0
    for row in 0..<host.tensor.rows {
      let range = row * stride..<row * stride + columns
      let scale = max(floor, want[range].lazy.map(\.magnitude).max() ?? 0)
      for i in range {
        let error = (want[i] - got[i]).magnitude / scale
        worst = error <= worst ? worst : error.isNaN ? .infinity : error
      }
      for i in range.upperBound..<row * stride + stride where !got[i].isNaN || !want[i].isNaN {
        return .infinity
      }
    }
    return worst
  }
}

/// Checks that a device's ops of training do what the host's do, at odd shapes with gaps between rows. It takes seconds.
public struct TrainingConformance {
  private let ops: (host: any TrainingOps, device: any TrainingOps)
  private var generator: SplitMix64
  private var faults: [String] = []

  private init(_ device: any TrainingOps, seed: UInt64) throws(PolarError) {
    ops = (HostTrainingOps(), device)
    generator = SplitMix64(seed: seed)
    try device.prepareTraining()
  }

  /// What differs, by op; empty when the device does what the host does.
  /// - Parameters:
  ///   - seed: what inputs come from.
  ///   - large: also products and a factorisation of real sizes, for devices that are fast.
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)``, or what the device says when it cannot train.
  public static func faults(
    of device: any TrainingOps, seed: UInt64 = 1, large: Bool = false
  ) throws(PolarError) -> [String] {
    var checks = try TrainingConformance(device, seed: seed)
    try checks.recording()
    try checks.samples()
    let shapes =
      [(1, 1, 1), (5, 70, 33), (67, 9, 130)] + (large ? [(256, 1024, 768), (512, 2048, 256)] : [])
    for (m, n, k) in shapes { try checks.products(m, n, k) }
    try checks.losses()
    try checks.updates()
    for (n, units) in [(1, 1), (31, 3), (100, 8)] + (large ? [(500, 32)] : []) { try checks.ridge(n, units) }
    if let failure = device.failure { checks.faults.append("\(failure)") }
    return checks.faults
  }

  private mutating func values(_ count: Int, zeros: Bool = false) -> [Float] {
    (0..<count).map { _ in
      let value = generator.unitFloat() * 2 - 1
      return zeros && generator.next() % 2 == 0 ? 0 : value
    }
  }

  private func twin(_ values: [Float], rows: Int, gap: Int = 0) throws(PolarError) -> Twin {
    try Twin(values, rows: rows, gap: gap, on: ops)
  }

  private func indices(_ list: [Int32]) throws(PolarError) -> (host: OwnedTensor, device: OwnedTensor) {
    let pair = (
      host: try OwnedTensor(columns: list.count, dtype: .i32, on: ops.host),
      device: try OwnedTensor(columns: list.count, dtype: .i32, on: ops.device)
    )
    pair.host.write(list)
    pair.device.write(list)
    return pair
  }

  /// Bytes of a tensor of any type.
  private func bytes(_ tensor: OwnedTensor, _ ops: any TrainingOps) -> [UInt8] {
    let tensor = tensor.tensor
    return [UInt8](unsafeUninitializedCapacity: tensor.count * tensor.dtype.byteCount) { buffer, count in
      count = tensor.count * tensor.dtype.byteCount
      ops.download(
        tensor.address,
        into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<count]))
    }
  }

  private mutating func expect(_ op: String, _ twin: Twin, within tolerance: Float, floor: Float = 1e-3) {
    let error = twin.error(floor: floor)
    if !(error <= tolerance) { faults.append("\(op): \(error) is more than \(tolerance)") }
  }

  private mutating func recording() throws(PolarError) {
    let (rows, columns) = (7, 300)
    let x = try twin(values(rows * columns, zeros: true), rows: rows, gap: 3)
    let zero = [Float](repeating: 0, count: columns)
    let delta = try twin(values((rows - 1) * columns) + zero, rows: rows, gap: 1)
    let turns = try twin(Array(repeating: -1, count: rows), rows: 1)
    ops.host.turns(turns.host.tensor, x.view(x.host), delta.view(delta.host))
    ops.device.turns(turns.device.tensor, x.view(x.device), delta.view(delta.device))
    expect("turns", turns, within: TrainingTolerance.sums)

    let list = try indices([4, 0, 6])
    for isListed in [true, false] {
      let sums = try twin(Array(repeating: -1, count: columns), rows: 1)
      ops.host.sumRows(sums.host.tensor, x.view(x.host), rows: isListed ? list.host.tensor : nil)
      ops.device.sumRows(sums.device.tensor, x.view(x.device), rows: isListed ? list.device.tensor : nil)
      expect("sumRows", sums, within: TrainingTolerance.exact)
    }

    // Rows of 304 elements of which 300 are written; ties between neighbouring bf16 go to the even one.
    let stored = (
      try OwnedTensor(rows: 3, columns: 304, dtype: .bf16, on: ops.host),
      try OwnedTensor(rows: 3, columns: 304, dtype: .bf16, on: ops.device)
    )
    ops.host.storeRows(stored.0.tensor.columns(0..<columns), x.view(x.host), rows: list.host.tensor)
    ops.device.storeRows(stored.1.tensor.columns(0..<columns), x.view(x.device), rows: list.device.tensor)
    if bytes(stored.0, ops.host) != bytes(stored.1, ops.device) { faults.append("storeRows") }

    for columns in [1, 32, 300] {
      let width = ActivationBits.bytesPerToken(neurons: columns)
      let packed = (
        try OwnedTensor(rows: 3, columns: width, dtype: .u8, on: ops.host),
        try OwnedTensor(rows: 3, columns: width, dtype: .u8, on: ops.device)
      )
      ops.host.packActive(packed.0.tensor, x.view(x.host).columns(0..<columns), rows: list.host.tensor)
      ops.device.packActive(packed.1.tensor, x.view(x.device).columns(0..<columns), rows: list.device.tensor)
      if bytes(packed.0, ops.host) != bytes(packed.1, ops.device) { faults.append("packActive") }
    }
  }

  private mutating func samples() throws(PolarError) {
    let (tokens, columns) = (40, 270)
    // One column never varies.
    var inputs = values(tokens * columns)
    for token in 0..<tokens { inputs[token * columns] = 2 }
    var stores = (
      try LayerSamples(inputs: columns, units: 0, capacity: tokens, on: ops.host),
      try LayerSamples(inputs: columns, units: 0, capacity: tokens, on: ops.device)
    )
    for token in 0..<tokens {
      let row = inputs[token * columns..<(token + 1) * columns]
      stores.0.append(input: row, deviations: [], norms: [])
      stores.1.append(input: row, deviations: [], norms: [])
    }
    let blank = [Float](repeating: 0, count: columns)
    let (mean, scale) = (try twin(blank, rows: 1), try twin(blank, rows: 1))
    ops.host.moments(
      mean: mean.host.tensor, scale: scale.host.tensor, of: stores.0.inputRows(0..<tokens), step: 3)
    ops.device.moments(
      mean: mean.device.tensor, scale: scale.device.tensor, of: stores.1.inputRows(0..<tokens), step: 3)
    expect("moments", mean, within: TrainingTolerance.exact)
    expect("moments", scale, within: TrainingTolerance.sums)
    let list = try indices([39, 0, 7, 7])
    let gathered = try twin(Array(repeating: 0, count: 4 * 260), rows: 4, gap: 2)
    ops.host.gatherScaled(
      gathered.view(gathered.host), stores.0.inputRows(0..<tokens), rows: list.host.tensor,
      mean: mean.host.tensor, scale: scale.host.tensor)
    ops.device.gatherScaled(
      gathered.view(gathered.device), stores.1.inputRows(0..<tokens), rows: list.device.tensor,
      mean: mean.device.tensor, scale: scale.device.tensor)
    expect("gatherScaled", gathered, within: TrainingTolerance.sums)
  }

  /// Both orientations of both operands, replacing and adding.
  private mutating func products(_ m: Int, _ n: Int, _ k: Int) throws(PolarError) {
    for (turnsA, turnsB, adding) in [
      (false, false, false), (false, true, false), (true, false, false), (true, true, true),
      (false, false, true),
    ] {
      let a = try twin(values(m * k), rows: turnsA ? k : m, gap: 1)
      let b = try twin(values(k * n), rows: turnsB ? n : k, gap: 3)
      let out = try twin(values(m * n), rows: m, gap: 2)
      func operand(_ twin: Twin, _ tensor: OwnedTensor, _ turns: Bool) -> MatrixOperand {
        turns ? .transposed(twin.view(tensor)) : .plain(twin.view(tensor))
      }
      ops.host.multiply(
        out.view(out.host), operand(a, a.host, turnsA), operand(b, b.host, turnsB), adding: adding)
      ops.device.multiply(
        out.view(out.device), operand(a, a.device, turnsA), operand(b, b.device, turnsB), adding: adding)
      expect("multiply", out, within: TrainingTolerance.products, floor: Float(k).squareRoot() / 3)
    }
  }

  private mutating func losses() throws(PolarError) {
    let (tokens, batch, units, columns) = (9, 4, 275, 280)
    let list = try indices([8, 2, 0, 5])
    var bits = ActivationBits(neurons: units)
    for _ in 0..<tokens { bits.append(values(units, zeros: true)) }
    let scores = try twin(values(batch * columns).map { $0 * 6 }, rows: batch, gap: 1)
    let copies = (try bits.copy(tokens: tokens, on: ops.host), try bits.copy(tokens: tokens, on: ops.device))
    ops.host.crossEntropySlopes(
      scores.view(scores.host), bits: copies.0.tensor, rows: list.host.tensor, units: units,
      negativeWeight: 0.3)
    ops.device.crossEntropySlopes(
      scores.view(scores.device), bits: copies.1.tensor, rows: list.device.tensor, units: units,
      negativeWeight: 0.3)
    expect("crossEntropySlopes", scores, within: TrainingTolerance.slopes, floor: 1)

    let targets = try twin(values(tokens * units), rows: tokens, gap: 2)
    let distances = try twin(values(batch * columns), rows: batch, gap: 1)
    ops.host.squaredErrorSlopes(
      distances.view(distances.host), targets: targets.view(targets.host), rows: list.host.tensor)
    ops.device.squaredErrorSlopes(
      distances.view(distances.device), targets: targets.view(targets.device), rows: list.device.tensor)
    expect("squaredErrorSlopes", distances, within: TrainingTolerance.exact)
  }

  private mutating func updates() throws(PolarError) {
    let (rows, columns) = (3, 261)
    let bias = try twin(values(columns), rows: 1)
    for rectifying in [false, true] {
      let x = try twin(values(rows * columns), rows: rows, gap: 1)
      ops.host.addBias(x.view(x.host), bias.host.tensor, rectifying: rectifying)
      ops.device.addBias(x.view(x.device), bias.device.tensor, rectifying: rectifying)
      expect("addBias", x, within: TrainingTolerance.exact)
      let activations = try twin(values(rows * columns, zeros: true), rows: rows, gap: 2)
      ops.host.maskInactive(x.view(x.host), activations.view(activations.host))
      ops.device.maskInactive(x.view(x.device), activations.view(activations.device))
      expect("maskInactive", x, within: TrainingTolerance.exact)
    }
    let (parameters, gradient) = (try twin(values(700), rows: 7), try twin(values(700), rows: 7))
    let (mean, square) = (
      try twin(values(700), rows: 7), try twin(values(700).map(\.magnitude), rows: 7)
    )
    for step in [1, 30] {
      let update = AdamWUpdate(step: step, rate: 0.05, gradientScale: 0.3)
      ops.host.adamW(
        parameters.host.tensor, gradient: gradient.host.tensor, mean: mean.host.tensor,
        square: square.host.tensor, update: update)
      ops.device.adamW(
        parameters.device.tensor, gradient: gradient.device.tensor, mean: mean.device.tensor,
        square: square.device.tensor, update: update)
    }
    for twin in [parameters, mean, square] { expect("adamW", twin, within: TrainingTolerance.sums) }
  }

  private mutating func ridge(_ n: Int, _ units: Int) throws(PolarError) {
    // X' X of a few more rows than columns.
    let x = values((n + 5) * n)
    var gram = [Float](repeating: 0, count: n * n)
    for row in 0..<n + 5 {
      for i in 0..<n {
        for j in 0..<n { gram[i * n + j] += x[row * n + i] * x[row * n + j] }
      }
    }
    let (g, c) = (try twin(gram, rows: n, gap: 3), try twin(values(n * units), rows: n, gap: 1))
    let out = try twin(Array(repeating: 0, count: n * units), rows: n, gap: 2)
    try ops.host.solveRidge(
      out.view(out.host), gram: g.view(g.host), cross: c.view(c.host), penalty: 0.1)
    try ops.device.solveRidge(
      out.view(out.device), gram: g.view(g.device), cross: c.view(c.device), penalty: 0.1)
    expect("solveRidge", out, within: TrainingTolerance.sums)
  }
}
