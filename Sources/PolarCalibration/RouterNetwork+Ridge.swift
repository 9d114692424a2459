import PolarCore

extension RouterNetwork {
  /// Ridge regressions of targets `[tokens, units]` on all tokens before `heldOut`, each with the penalty that does best
  /// on `heldOut`: without local features, and with them where the samples have some.
  static func ridge(
    data: TrainingData, units: Int, targets: [Float], heldOut: Range<Int>
  ) throws(PolarError) -> [(network: RouterNetwork, error: Double)] {
    let widest = RouterNetwork(data: data, units: units, hidden: 0, looksLocally: true)
    let equations = try widest.normalEquations(targets: targets, tokens: heldOut.lowerBound)
    var found: [(network: RouterNetwork, error: Double)] = []
    for looksLocally in data.samples.localFeatures > 0 ? [false, true] : [false] {
      var network = RouterNetwork(data: data, units: units, hidden: 0, looksLocally: looksLocally)
      for unit in 0..<units { network.bias[unit] = equations.means[unit] }
      let solution = try OwnedTensor(rows: network.inputs, columns: network.paddedUnits, on: data.ops)
      var best = (network: network, error: Double.infinity)
      for penalty in [0.001, 0.01, 0.05] {
        // The equations of fewer inputs are the leading block of those of all.
        try data.ops.solveRidge(
          solution.tensor, gram: equations.gram.rows(network.inputs).columns(0..<network.inputs),
          cross: equations.cross.rows(network.inputs), penalty: penalty * Double(heldOut.lowerBound))
        network.weight = solution.read()
        let error = try network.error(targets: targets, range: heldOut)
        if error < best.error { best = (network, error) }
      }
      found.append(best)
    }
    return found
  }

  private struct NormalEquations {
    /// `X' X`: `[width, width]`.
    var gram: OwnedTensor
    /// `X' (Y - means)`: `[width, paddedUnits]`.
    var cross: OwnedTensor
    /// Mean target of each unit.
    var means: [Float]
  }

  /// The sums over tokens `0 ..< tokens`.
  private func normalEquations(targets: [Float], tokens: Int) throws(PolarError) -> NormalEquations {
    let ops = data.ops
    var sums = [Double](repeating: 0, count: units)
    for i in 0..<tokens * units { sums[i % units] += Double(targets[i]) }
    let means = sums.map { Float($0 / Double(tokens)) }
    // Inputs are padded with zeros to a multiple of 8, which the kernels of the CPU like.
    let width = (inputs + 7) & ~7
    let gram = try OwnedTensor(rows: width, columns: width, on: ops)
    let cross = try OwnedTensor(rows: width, columns: paddedUnits, on: ops)
    let chunk = min(2048, tokens)
    let x = try OwnedTensor(rows: chunk, columns: width, on: ops)
    let y = try OwnedTensor(rows: chunk, columns: paddedUnits, on: ops)
    var centred = [Float](repeating: 0, count: chunk * paddedUnits)
    for start in stride(from: 0, to: tokens, by: chunk) {
      let count = min(chunk, tokens - start)
      for row in 0..<count {
        for unit in 0..<units {
          centred[row * paddedUnits + unit] = targets[(start + row) * units + unit] - means[unit]
        }
      }
      y.write(centred[..<(count * paddedUnits)])
      data.gather(x.rows(count).columns(0..<inputs), rows: data.list(start..<start + count))
      ops.multiply(gram.tensor, .transposed(x.rows(count)), .plain(x.rows(count)), adding: start > 0)
      ops.multiply(cross.tensor, .transposed(x.rows(count)), .plain(y.rows(count)), adding: start > 0)
    }
    // What is local here may go only when it is no longer in use.
    cross.wait()
    return NormalEquations(gram: gram, cross: cross, means: means)
  }
}
