/// The middle value of an odd number of samples, or the mean of the two middle ones; NaN of none.
public func median(_ samples: [Double]) -> Double {
  guard !samples.isEmpty else { return .nan }
  let sorted = samples.sorted()
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/// Wall seconds that `work` takes.
public func seconds(_ work: () throws -> Void) rethrows -> Double {
  let elapsed = try ContinuousClock().measure(work).components
  return Double(elapsed.seconds) + Double(elapsed.attoseconds) * 1e-18
}

/// What the machine can do at best, measured once: the limits that results are given as fractions of.
public struct MachineLimits: Sendable, Codable {
  /// DRAM read rate in GB/s with all threads, one sequential stream each.
  public var readBandwidth: Double
  /// Multiply-add peak in GFLOP/s with all threads.
  public var arithmeticPeak: Double
  /// Peak of products of bytes in GOP/s with all threads; 0 where it was not measured.
  public var integerPeak: Double

  /// Limits as measured.
  public init(readBandwidth: Double, arithmeticPeak: Double, integerPeak: Double = 0) {
    self.readBandwidth = readBandwidth
    self.arithmeticPeak = arithmeticPeak
    self.integerPeak = integerPeak
  }
}
