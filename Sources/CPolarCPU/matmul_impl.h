// Internal, included once per instruction set after vec.h: f32 matrix products for training routers.

enum { matmul_rows = 6, matmul_vectors = VW == 16 ? 4 : 2, matmul_depth = 128 };

// R rows x V vectors of c over `depth` terms.
POLAR_ALWAYS_INLINE void FN(matmul_tile)(
  const int R, const int V, float *c, int64_t ldc, const float *a, int64_t row_stride, int64_t inner_stride,
  const float *b, int64_t ldb, int64_t depth, int adds
) {
  vf sum[matmul_rows][matmul_vectors];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < V; v++) sum[r][v] = adds ? FN(load)(c + r * ldc + v * VW) : (vf){0};
  for (int64_t p = 0; p < depth; p++) {
    vf row[matmul_vectors];
#pragma clang loop unroll(full)
    for (int v = 0; v < V; v++) row[v] = FN(load)(b + p * ldb + v * VW);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const vf value = FN(splat)(a[r * row_stride + p * inner_stride]);
#pragma clang loop unroll(full)
      for (int v = 0; v < V; v++) sum[r][v] = sum[r][v] + value * row[v];
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < V; v++) FN(store)(c + r * ldc + v * VW, sum[r][v]);
}

// V vectors of columns from `j` on, all rows.
POLAR_ALWAYS_INLINE void FN(matmul_columns)(
  const int V, const polar_matmul_args *args, int64_t j, int64_t start, int64_t depth, int adds
) {
  const float *b = args->b + start * args->b_stride + j;
  const float *a = args->a + start * args->inner_stride;
  float *c = args->c + j;
  int64_t i = 0;
  for (; i + matmul_rows <= args->rows; i += matmul_rows)
    FN(matmul_tile)(
      matmul_rows, V, c + i * args->c_stride, args->c_stride, a + i * args->row_stride, args->row_stride,
      args->inner_stride, b, args->b_stride, depth, adds);
  for (; i < args->rows; i++)
    FN(matmul_tile)(
      1, V, c + i * args->c_stride, args->c_stride, a + i * args->row_stride, args->row_stride, args->inner_stride, b,
      args->b_stride, depth, adds);
}

static void FN(matmul)(const polar_matmul_args *args) {
  // A block of b of `matmul_depth` rows and one tile's columns stays in the first-level cache while rows of a pass by.
  for (int64_t start = 0; start < args->inner || start == 0; start += matmul_depth) {
    const int64_t left = args->inner - start, depth = left < matmul_depth ? left : matmul_depth;
    const int adds = args->accumulate || start > 0;
    int64_t j = 0;
    for (; j + matmul_vectors * VW <= args->columns; j += matmul_vectors * VW)
      FN(matmul_columns)(matmul_vectors, args, j, start, depth, adds);
    for (; j + VW <= args->columns; j += VW) FN(matmul_columns)(1, args, j, start, depth, adds);
    for (; j < args->columns; j++)
      for (int64_t i = 0; i < args->rows; i++) {
        float total = adds ? args->c[i * args->c_stride + j] : 0;
        for (int64_t p = start; p < start + depth; p++)
          total += args->a[i * args->row_stride + p * args->inner_stride] * args->b[p * args->b_stride + j];
        args->c[i * args->c_stride + j] = total;
      }
  }
}
