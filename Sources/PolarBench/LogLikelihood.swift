#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// `-log softmax(logits)[token]`, in double precision.
public func negativeLogLikelihood(_ logits: UnsafeBufferPointer<Float>, of token: Int) -> Double {
  var largest = -Float.infinity
  for value in logits { largest = max(largest, value) }
  var sum = 0.0
  for value in logits { sum += Double(expf(value - largest)) }
  return Double(largest) + log(sum) - Double(logits[token])
}

/// e to the power of `value`.
func exponential(_ value: Double) -> Double { exp(value) }
