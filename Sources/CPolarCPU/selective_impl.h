// Internal, included once per instruction set after vec.h: selective MLPs on f32 activations. Rows of chosen neurons
// become f32 blocks in L1, [inputs][16], and every result is the chain over its inputs that the linear layer computes:
// bias, then input 0, 1, 2, ...

enum {
  // Outputs of a tile, and its most rows.
  FN(selective_outputs) = 16,
  FN(selective_rows) = 6,
  // Inputs (up) or entries (down) between stores of the accumulators: a block of 8 KiB.
  FN(selective_inputs) = 128,
};

// R rows x 16 outputs over `inputs` inputs of a block.
POLAR_ALWAYS_INLINE void FN(selective_tile)(
  const int R, const float *w, const float *x, int64_t xs, const float *start, int64_t start_stride, float *c,
  int64_t cs, int64_t inputs
) {
  const int NV = FN(selective_outputs) / VW;
  vf acc[6 * 16 / VW];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) acc[r * NV + j] = FN(load)(start + r * start_stride + j * VW);
  for (int64_t k = 0; k < inputs; k++, w += FN(selective_outputs)) {
    vf part[16 / VW];
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) part[j] = FN(load)(w + j * VW);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) acc[r * NV + j] = acc[r * NV + j] + part[j] * x[r * xs + k];
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) FN(store)(c + r * cs + j * VW, acc[r * NV + j]);
}

typedef void (*FN(selective_kernel))(
  const float *w, const float *x, int64_t xs, const float *start, int64_t start_stride, float *c, int64_t cs,
  int64_t inputs);
#define SELECTIVE_TILE(R)                                                                                       \
  static void FN(selective_tile_##R)(                                                                           \
    const float *w, const float *x, int64_t xs, const float *start, int64_t start_stride, float *c, int64_t cs, \
    int64_t inputs                                                                                              \
  ) {                                                                                                           \
    FN(selective_tile)(R, w, x, xs, start, start_stride, c, cs, inputs);                                        \
  }
SELECTIVE_TILE(1)
SELECTIVE_TILE(2)
SELECTIVE_TILE(3)
SELECTIVE_TILE(4)
SELECTIVE_TILE(5)
SELECTIVE_TILE(6)

// All rows over one block, in groups of nearly equal size.
static void FN(selective_all)(
  int64_t rows, const float *w, const float *x, int64_t xs, const float *start, int64_t start_stride, float *c,
  int64_t cs, int64_t inputs
) {
  static const FN(selective_kernel) tiles[] = {FN(selective_tile_1), FN(selective_tile_2), FN(selective_tile_3),
                                               FN(selective_tile_4), FN(selective_tile_5), FN(selective_tile_6)};
  const int64_t groups = (rows + FN(selective_rows) - 1) / FN(selective_rows);
  const int64_t small = rows / groups, larger = rows % groups;
  for (int64_t g = 0, row = 0; g < groups; g++) {
    const int64_t size = small + (g < larger);
    tiles[size - 1](w, x + row * xs, xs, start + row * start_stride, start_stride, c + row * cs, cs, inputs);
    row += size;
  }
}

POLAR_ALWAYS_INLINE vu FN(load_halves)(const uint16_t *p) {
  typedef uint16_t FN(halves) __attribute__((vector_size(VW * 2), aligned(2), may_alias));
  return __builtin_convertvector(*(const FN(halves) *)p, vu) << 16;
}

#if VW == 8
#define SELECTIVE_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
// 8 rows of 8 pairs (r) to 8 pairs of 8 rows.
POLAR_ALWAYS_INLINE void FN(transpose)(vu *r) {
  vu a[8], b[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i += 2) {
    a[i] = SELECTIVE_MIX(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[i + 1] = SELECTIVE_MIX(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma clang loop unroll(full)
  for (int g = 0; g < 2; g++)
#pragma clang loop unroll(full)
    for (int e = 0; e < 2; e++) {
      b[4 * g + 2 * e] = SELECTIVE_MIX(a[4 * g + e], a[4 * g + 2 + e], 0, 1, 8, 9, 4, 5, 12, 13);
      b[4 * g + 2 * e + 1] = SELECTIVE_MIX(a[4 * g + e], a[4 * g + 2 + e], 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma clang loop unroll(full)
  for (int e = 0; e < 4; e++) {
    r[e] = SELECTIVE_MIX(b[e], b[4 + e], 0, 1, 2, 3, 8, 9, 10, 11);
    r[e + 4] = SELECTIVE_MIX(b[e], b[4 + e], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
#undef SELECTIVE_MIX
#else
// 4 rows of 4 pairs (r) to 4 pairs of 4 rows.
POLAR_ALWAYS_INLINE void FN(transpose)(vu *r) {
  const vu a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  const vu c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
#endif

// Inputs [first, first + inputs) of 16 rows as a block; `inputs` is even.
static void FN(selective_pack_up)(const uint16_t *const *rows, int64_t first, int64_t inputs, float *out) {
  const int outputs = FN(selective_outputs);
  int64_t k = 0;
  for (; k + 2 * VW <= inputs; k += 2 * VW)
    for (int j = 0; j < outputs; j += VW) {
      vu r[VW];
#pragma clang loop unroll(full)
      for (int i = 0; i < VW; i++) {
        r[i] = FN(load_pairs)(rows[j + i] + first + k);
        __builtin_prefetch(rows[j + i] + first + k + 4 * FN(selective_inputs), 0, 3);
      }
      FN(transpose)(r);
#pragma clang loop unroll(full)
      for (int i = 0; i < VW; i++) {
        FN(store)(out + (k + 2 * i) * outputs + j, FN(even)(r[i]));
        FN(store)(out + (k + 2 * i + 1) * outputs + j, FN(odd)(r[i]));
      }
    }
  for (; k < inputs; k++)
    for (int j = 0; j < outputs; j++) out[k * outputs + j] = polar_f32(rows[j][first + k]);
}

static void FN(selective_up)(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch
) {
  (void)entries;
  (void)scratch;
  const int outputs = FN(selective_outputs);
  const int64_t rows = row_high - row_low, hidden = args->hidden;
  const float *x = args->x + row_low * args->x_stride;
  float block[FN(selective_inputs) * 16] __attribute__((aligned(64)));
  float sums[2][POLAR_ROW_BLOCK * 16] __attribute__((aligned(64)));
  for (int64_t first = low; first < high; first += outputs) {
    const int64_t valid = high - first < outputs ? high - first : outputs;
    const uint16_t *weights[16];
    float bias[2][16] = {{0}};
    for (int64_t j = 0; j < outputs; j++) {
      // Entries behind the last repeat it; their results are dropped.
      const int64_t entry = j < valid ? first + j : first + valid - 1;
      const int64_t n = args->indices ? args->indices[entry] : entry;
      weights[j] = args->weight + n * args->weight_stride;
      if (args->bias) bias[0][j] = args->bias[n];
      if (args->gated_bias) bias[1][j] = args->gated_bias[n];
    }
    for (int part = 0; part <= args->gated; part++)
      for (int64_t k = 0; k < hidden; k += FN(selective_inputs)) {
        const int64_t count = hidden - k < FN(selective_inputs) ? hidden - k : FN(selective_inputs);
        FN(selective_pack_up)(weights, part * hidden + k, count, block);
        FN(selective_all)(
          rows, block, x + k, args->x_stride, k == 0 ? bias[part] : sums[part], k == 0 ? 0 : outputs, sums[part],
          outputs, count);
      }
    for (int64_t r = 0; r < rows; r++) {
      float *out = args->out + (row_low + r) * args->out_stride + first;
      const float *a = sums[0] + r * outputs, *b = sums[1] + r * outputs;
      if (args->gated) {
        for (int64_t j = 0; j < valid; j++) out[j] = a[j] > args->threshold ? a[j] * b[j] : 0;
      } else {
        for (int64_t j = 0; j < valid; j++) out[j] = a[j] > args->threshold ? a[j] : 0;
      }
    }
  }
}

static void FN(selective_down)(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch
) {
  (void)scratch;
  const int outputs = FN(selective_outputs);
  const int64_t rows = row_high - row_low;
  float block[FN(selective_inputs) * 16] __attribute__((aligned(64)));
  float edge[POLAR_ROW_BLOCK * 16] __attribute__((aligned(64)));
  const uint16_t *weights[FN(selective_inputs)];
  for (int64_t r = row_low; r < row_high; r++)
    polar_set_bias(args->out + r * args->out_stride + low, args->bias ? args->bias + low : NULL, high - low);
  for (int64_t first = 0; first < entries; first += FN(selective_inputs)) {
    const int64_t count = entries - first < FN(selective_inputs) ? entries - first : FN(selective_inputs);
    const float *x = args->x + row_low * args->x_stride + first;
    for (int64_t j = 0; j < count; j++)
      weights[j] = args->weight + (args->indices ? args->indices[first + j] : first + j) * args->weight_stride;
    for (int64_t d = low; d < high; d += outputs) {
      const int64_t columns = high - d < outputs ? high - d : outputs;
      float *out = args->out + row_low * args->out_stride + d;
      if (columns == outputs) {
        for (int64_t j = 0; j < count; j++)
#pragma clang loop unroll(full)
          for (int v = 0; v < 16; v += VW) {
            FN(store)(block + j * outputs + v, (vf)FN(load_halves)(weights[j] + d + v));
            __builtin_prefetch(weights[j] + d + 8 * outputs, 0, 3);
          }
        FN(selective_all)(
          rows, block, x, args->x_stride, out, args->out_stride, out, args->out_stride, count);
        continue;
      }
      for (int64_t j = 0; j < count; j++)
        for (int64_t v = 0; v < outputs; v++)
          block[j * outputs + v] = v < columns ? polar_f32(weights[j][d + v]) : 0;
      for (int64_t r = 0; r < rows; r++)
        for (int64_t v = 0; v < columns; v++) edge[r * outputs + v] = out[r * args->out_stride + v];
      FN(selective_all)(rows, block, x, args->x_stride, edge, outputs, edge, outputs, count);
      for (int64_t r = 0; r < rows; r++)
        for (int64_t v = 0; v < columns; v++) out[r * args->out_stride + v] = edge[r * outputs + v];
    }
  }
}
#undef SELECTIVE_TILE
