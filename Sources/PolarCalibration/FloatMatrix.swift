internal import CPolarCPU
import PolarCore

/// The few float kernels that router training needs.
enum FloatMatrix {
  /// `out = a b`, or `out += a b` when `accumulate`, on the calling thread. b `[k, n]` lies at `b` with leading dimension
  /// `ldb`; either orientation of a is read in place.
  static func multiply(
    _ out: Tensor, _ a: MatrixOperand, b: UnsafePointer<Float>, ldb: Int, accumulate: Bool
  ) {
    var args = polar_matmul_args()
    args.c = out.hostBase(as: Float.self)
    args.c_stride = Int64(out.rowStride)
    args.b = b
    args.b_stride = Int64(ldb)
    args.rows = Int64(out.rows)
    args.columns = Int64(out.columns)
    args.accumulate = accumulate ? 1 : 0
    switch a {
    case .plain(let a):
      args.a = UnsafePointer(a.hostBase(as: Float.self))
      (args.row_stride, args.inner_stride, args.inner) = (Int64(a.rowStride), 1, Int64(a.columns))
    case .transposed(let a):
      args.a = UnsafePointer(a.hostBase(as: Float.self))
      (args.row_stride, args.inner_stride, args.inner) = (1, Int64(a.rowStride), Int64(a.rows))
    }
    polar_matmul(polar_cpu_table(polar_isa_best()), &args)
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
