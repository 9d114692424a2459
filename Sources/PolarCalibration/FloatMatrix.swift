/// The few float kernels that router training needs.
enum FloatMatrix {
  /// `c[i, j] = sum_p a(i, p) b[p, j]`, added to `c` when `accumulate`.
  ///
  /// `a(i, p)` lies at `a[i * rowStride + p * innerStride]`, so that either orientation is read in place. c is
  /// `[rows, columns]` with leading dimension `ldc`, b `[inner, columns]` with leading dimension `ldb`; `columns` is a
  /// multiple of 8.
  static func multiply(
    _ c: UnsafeMutablePointer<Float>, ldc: Int, a: UnsafePointer<Float>, rowStride: Int,
    innerStride: Int, b: UnsafePointer<Float>, ldb: Int, rows: Int, columns: Int, inner: Int,
    accumulate: Bool = false
  ) {
    precondition(columns % 8 == 0, "columns must be a multiple of 8")
    // Blocks of b of 256 x 8 floats stay in the first-level cache while the rows of a pass by.
    var start = 0
    repeat {
      let depth = min(256, inner - start)
      let adds = accumulate || start > 0
      for j in stride(from: 0, to: columns, by: 8) {
        let panel = b + start * ldb + j
        var i = 0
        while i + 4 <= rows {
          let a0 = a + i * rowStride + start * innerStride
          let (a1, a2, a3) = (a0 + rowStride, a0 + 2 * rowStride, a0 + 3 * rowStride)
          var (s0, s1) = (SIMD8<Float>.zero, SIMD8<Float>.zero)
          var (s2, s3) = (SIMD8<Float>.zero, SIMD8<Float>.zero)
          for p in 0..<depth {
            let values = load(panel + p * ldb)
            let at = p * innerStride
            s0 += values * a0[at]
            s1 += values * a1[at]
            s2 += values * a2[at]
            s3 += values * a3[at]
          }
          let target = c + i * ldc + j
          store(s0, target, adds)
          store(s1, target + ldc, adds)
          store(s2, target + 2 * ldc, adds)
          store(s3, target + 3 * ldc, adds)
          i += 4
        }
        while i < rows {
          let row = a + i * rowStride + start * innerStride
          var sum = SIMD8<Float>.zero
          for p in 0..<depth { sum += load(panel + p * ldb) * row[p * innerStride] }
          store(sum, c + i * ldc + j, adds)
          i += 1
        }
      }
      start += depth
    } while start < inner
  }

  @inline(__always)
  private static func load(_ pointer: UnsafePointer<Float>) -> SIMD8<Float> {
    UnsafeRawPointer(pointer).loadUnaligned(as: SIMD8<Float>.self)
  }

  @inline(__always)
  private static func store(
    _ value: SIMD8<Float>, _ pointer: UnsafeMutablePointer<Float>, _ adds: Bool
  ) {
    let raw = UnsafeMutableRawPointer(pointer)
    raw.storeBytes(of: adds ? load(pointer) + value : value, as: SIMD8<Float>.self)
  }

  /// Solves `(matrix + ridge I) x = rhs` for a symmetric positive matrix `[n, n]` and rhs `[n, columns]` by Cholesky
  /// factorisation, all row-major.
  static func solve(matrix: [Double], ridge: Double, rhs: [Double], n: Int, columns: Int) -> [Double] {
    var factor = matrix
    var x = rhs
    factor.withUnsafeMutableBufferPointer { l in
      x.withUnsafeMutableBufferPointer { x in
        for j in 0..<n {
          var diagonal = l[j * n + j] + ridge
          for k in 0..<j { diagonal -= l[j * n + k] * l[j * n + k] }
          let root = max(diagonal, 1e-12).squareRoot()
          l[j * n + j] = root
          for i in (j + 1)..<max(n, j + 1) {
            // Four partial sums: a single one would wait on every addition.
            var (s0, s1, s2, s3) = (0.0, 0.0, 0.0, 0.0)
            var k = 0
            while k + 4 <= j {
              s0 += l[i * n + k] * l[j * n + k]
              s1 += l[i * n + k + 1] * l[j * n + k + 1]
              s2 += l[i * n + k + 2] * l[j * n + k + 2]
              s3 += l[i * n + k + 3] * l[j * n + k + 3]
              k += 4
            }
            while k < j {
              s0 += l[i * n + k] * l[j * n + k]
              k += 1
            }
            l[i * n + j] = (l[i * n + j] - (s0 + s1 + s2 + s3)) / root
          }
        }
        for i in 0..<n {
          for k in 0..<i {
            let value = l[i * n + k]
            for c in 0..<columns { x[i * columns + c] -= value * x[k * columns + c] }
          }
          for c in 0..<columns { x[i * columns + c] /= l[i * n + i] }
        }
        for i in stride(from: n - 1, through: 0, by: -1) {
          for c in 0..<columns { x[i * columns + c] /= l[i * n + i] }
          for k in 0..<i {
            let value = l[i * n + k]
            for c in 0..<columns { x[k * columns + c] -= value * x[i * columns + c] }
          }
        }
      }
    }
    return x
  }
}
