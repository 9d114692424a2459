public import PolarCore

/// Checks that a backend computes what ``ReferenceBackend`` computes: every op over odd shapes, and the properties that
/// the contract promises bit for bit. It takes seconds and needs nothing but the backend.
public struct ConformanceSuite: Sendable {
  /// The outcome of one check.
  public struct Result: Sendable, Equatable {
    /// Op and shape, such as `linear rows 3, K 30, N 31`.
    public let name: String
    /// Whether the backend passed.
    public let passed: Bool
    /// The worst error and where it is, or why the check failed.
    public let detail: String

    /// The outcome of one check.
    public init(name: String, passed: Bool, detail: String) {
      self.name = name
      self.passed = passed
      self.detail = detail
    }
  }

  private let seed: UInt64

  /// A suite whose inputs come from `seed`.
  public init(seed: UInt64 = 1) { self.seed = seed }

  /// Runs the checks whose name contains `part` (all when nil) on `backend`, calling `progress` after each, and returns
  /// their outcomes in order.
  public func run(
    _ backend: any Backend, matching part: String? = nil, progress: ((Result) -> Void)? = nil
  ) -> [Result] {
    let run = ConformanceRun(backend, seed: seed, matching: part, progress: progress)
    run.checkMemory()
    run.checkWeights()
    run.checkDenseOps()
    run.checkLinear()
    run.checkQuantized()
    run.checkGated()
    run.checkCache()
    run.checkAttention()
    run.checkSelectiveAttention()
    run.checkWindow()
    run.checkRouting()
    run.checkRouters()
    run.checkSelectiveMLP()
    return run.results
  }
}

/// One run of the suite: the backend under test, the reference, and the outcomes so far.
final class ConformanceRun {
  typealias Result = ConformanceSuite.Result
  /// A case computes its result on whatever backend its pool has, from inputs that its generator gives.
  typealias Case = (TensorPool, inout SplitMix64) throws(PolarError) -> HostTensor<Float>
  /// A case of `rows` independent rows, of which only the rows in the range are to be computed.
  typealias RowCase = (TensorPool, inout SplitMix64, Range<Int>) throws(PolarError) -> HostTensor<Float>

  let backend: any Backend
  let reference: ReferenceBackend
  private let seed: UInt64
  private let part: String?
  private let progress: ((Result) -> Void)?
  private(set) var results: [Result] = []

  init(_ backend: any Backend, seed: UInt64, matching part: String?, progress: ((Result) -> Void)?) {
    self.backend = backend
    reference = ReferenceBackend(kvDType: backend.kvDType)
    self.seed = seed
    self.part = part
    self.progress = progress
  }

  /// Whether the backend rounds f32 activations to bf16 before it multiplies.
  private(set) lazy var roundsActivations: Bool = {
    let fine: Float = 1 + 0x1p-12  // bf16 rounds it to 1
    let pool = TensorPool(backend)
    guard let x = try? pool.tensor(HostTensor([fine, 0])),
      let weight = try? pool.weight(HostTensor([1, 0])),
      let out = try? pool.output(columns: 1)
    else { return false }
    backend.linear(out, x, weight: weight, bias: nil)
    return pool.read(out)[0, 0] == 1
  }()

  /// The tolerance of attention on this backend.
  var attentionTolerance: Float {
    if backend.kvDType == .i8 { return Tolerance.attentionInt8 }
    return roundsActivations ? Tolerance.attentionRounded : Tolerance.attention
  }

  // MARK: Checks

  /// Compares a case on the backend with the same case on the reference.
  ///
  /// `floor` is the least magnitude that errors in a row are measured against: one for all rows, or one per row.
  func compare(_ name: String, _ tolerance: Float, floor: [Float] = [0], _ body: Case) {
    attempt(name) { () throws(PolarError) -> Result in
      let want = try evaluate(name, on: TensorPool(reference), body)
      let pool = TensorPool(backend)
      let got = try evaluate(name, on: pool, body)
      if let damage = pool.damage() { return Result(name: name, passed: false, detail: damage) }
      return verdict(name, got, want, tolerance, floor)
    }
  }

  /// Compares a case of independent rows with the reference, and then its rows, computed alone and in smaller
  /// batches, with the whole batch: those must agree bit for bit.
  func compareRows(_ name: String, rows: Int, _ tolerance: Float, floor: Float = 0, _ body: RowCase) {
    compare(name, tolerance, floor: [floor]) { (pool, generator) throws(PolarError) in
      try body(pool, &generator, 0..<rows)
    }
    guard rows > 1 else { return }
    let half = rows / 2
    let parts = [0..<1, half..<half + 1, rows - 1..<rows, 0..<half, half..<rows, 1..<rows]
    attempt(name + ": rows alone") { () throws(PolarError) -> Result in
      let whole = try evaluate(name, on: TensorPool(backend)) { (pool, generator) throws(PolarError) in
        try body(pool, &generator, 0..<rows)
      }
      for part in parts {
        let alone = try evaluate(name, on: TensorPool(backend)) { (pool, generator) throws(PolarError) in
          try body(pool, &generator, part)
        }
        if let difference = firstDifference(alone, whole.rows(part)) {
          return Result(
            name: name + ": rows alone", passed: false,
            detail: "rows \(part) alone differ from the batch of \(rows) at \(difference)")
        }
      }
      return Result(name: name + ": rows alone", passed: true, detail: "equal bit for bit")
    }
  }

  /// Checks that two results of the backend are equal bit for bit.
  func requireEqual(
    _ name: String,
    _ body: (TensorPool, inout SplitMix64) throws(PolarError) -> (HostTensor<Float>, HostTensor<Float>)
  ) {
    attempt(name) { () throws(PolarError) -> Result in
      var generator = SplitMix64(seed: seed, label: name)
      let (got, want) = try body(TensorPool(backend), &generator)
      let difference = firstDifference(got, want)
      return Result(
        name: name, passed: difference == nil,
        detail: difference.map { "differs at \($0)" } ?? "equal bit for bit")
    }
  }

  /// Checks that two attention results of the backend for the same rows, one of prefill and one of decode, are equal bit
  /// for bit where the backend promises that, and as near as rounding allows where it does not. The rows have one of
  /// `floors` each, or all have the least of them.
  func requireAgreement(
    _ name: String, floors: [Float],
    _ body: (TensorPool, inout SplitMix64) throws(PolarError) -> (HostTensor<Float>, HostTensor<Float>)
  ) {
    if backend.prefillMatchesDecode { return requireEqual(name, body) }
    attempt(name) { () throws(PolarError) -> Result in
      var generator = SplitMix64(seed: seed, label: name)
      let (got, want) = try body(TensorPool(backend), &generator)
      let floors = floors.count == want.rows ? floors : [floors.min() ?? 0]
      // Both may be off by the tolerance.
      return verdict(name, got, want, 2 * attentionTolerance, floors)
    }
  }

  /// Checks a condition; the body returns what breaks it, or nil.
  func require(
    _ name: String, _ body: (TensorPool, inout SplitMix64) throws(PolarError) -> String?
  ) {
    attempt(name) { () throws(PolarError) -> Result in
      var generator = SplitMix64(seed: seed, label: name)
      let failure = try body(TensorPool(backend), &generator)
      return Result(name: name, passed: failure == nil, detail: failure ?? "holds")
    }
  }

  // MARK: Mechanics

  private func attempt(_ name: String, _ body: () throws(PolarError) -> Result) {
    if let part, !name.contains(part) { return }
    let result: Result
    do throws(PolarError) {
      result = try body()
    } catch {
      result = Result(name: name, passed: false, detail: "\(error)")
    }
    results.append(result)
    progress?(result)
  }

  private func evaluate(
    _ name: String, on pool: TensorPool, _ body: Case
  ) throws(PolarError) -> HostTensor<Float> {
    var generator = SplitMix64(seed: seed, label: name)
    return try body(pool, &generator)
  }

  private func verdict(
    _ name: String, _ got: HostTensor<Float>, _ want: HostTensor<Float>, _ tolerance: Float, _ floor: [Float]
  ) -> Result {
    guard got.rows == want.rows, got.columns == want.columns else {
      return Result(
        name: name, passed: false, detail: "\(got.rows) x \(got.columns), not \(want.rows) x \(want.columns)")
    }
    var worst: Float = -1
    var place = ""
    for i in 0..<want.rows {
      var scale = floor[min(i, floor.count - 1)]
      for j in 0..<want.columns { scale = max(scale, want[i, j].magnitude) }
      for j in 0..<want.columns where got[i, j] != want[i, j] {
        let error = (got[i, j] - want[i, j]).magnitude / scale
        // Written so that NaN counts as the worst error of all.
        if !(error <= worst) {
          worst = error.isNaN ? .infinity : error
          place = " at [\(i), \(j)]: \(got[i, j]), reference \(want[i, j])"
        }
      }
    }
    let passed = worst <= tolerance
    if worst < 0 { return Result(name: name, passed: true, detail: "equal") }
    return Result(name: name, passed: passed, detail: "worst error \(worst) of \(tolerance) allowed\(place)")
  }

  private func firstDifference(_ got: HostTensor<Float>, _ want: HostTensor<Float>) -> String? {
    guard got.values.count == want.values.count else { return "shape" }
    for i in 0..<want.rows {
      for j in 0..<want.columns where got[i, j].bitPattern != want[i, j].bitPattern {
        return "[\(i), \(j)]: \(got[i, j]) and \(want[i, j])"
      }
    }
    return nil
  }
}
