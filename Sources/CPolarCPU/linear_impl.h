// Internal, included once per instruction set after vec.h: the linear layer on f32 activations.
// Every output is one chain over the inputs in order: bias, then input 0, 1, 2, ... The shape of a tile only says
// how many chains run side by side.

// Pairs of inputs between stores of the accumulators, when rows are many: half a panel of it fits in L1.
enum { FN(block_pairs) = 256 };

// R rows x `outputs` outputs over `pairs` pairs of inputs. c holds the chains so far.
POLAR_ALWAYS_INLINE void FN(linear_tile)(
  const int R, const int outputs, const uint16_t *w, const float *x, int64_t xs, float *c, int64_t cs, int64_t pairs,
  const char *prefetch, int64_t prefetch_step
) {
  const int NV = outputs / VW;
  vf acc[6 * POLAR_PANEL / VW];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) acc[r * NV + j] = FN(load)(c + r * cs + j * VW);
  for (int64_t k = 0; k < pairs; k++) {
    __builtin_prefetch(prefetch, 0, 3);
    if (outputs == POLAR_PANEL) __builtin_prefetch(prefetch + 64, 0, 3);
    prefetch += prefetch_step;
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) {
      vu pair = FN(load_pairs)(w + j * 2 * VW);
      vf even = FN(even)(pair), odd = FN(odd)(pair);
#pragma clang loop unroll(full)
      for (int r = 0; r < R; r++) {
        acc[r * NV + j] = acc[r * NV + j] + even * x[r * xs + 2 * k];
        acc[r * NV + j] = acc[r * NV + j] + odd * x[r * xs + 2 * k + 1];
      }
    }
    w += 2 * POLAR_PANEL;
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) FN(store)(c + r * cs + j * VW, acc[r * NV + j]);
}

typedef void (*FN(linear_kernel))(
  const uint16_t *w, const float *x, int64_t xs, float *c, int64_t cs, int64_t pairs, const char *prefetch,
  int64_t prefetch_step);

#define LINEAR_TILE(R, OUTPUTS)                                                                    \
  static void FN(linear_##R##x##OUTPUTS)(                                                          \
    const uint16_t *w, const float *x, int64_t xs, float *c, int64_t cs, int64_t pairs,            \
    const char *prefetch, int64_t prefetch_step                                                    \
  ) {                                                                                              \
    FN(linear_tile)(R, OUTPUTS, w, x, xs, c, cs, pairs, prefetch, prefetch_step);                  \
  }
LINEAR_TILE(1, 32)
LINEAR_TILE(2, 32)
LINEAR_TILE(3, 32)
LINEAR_TILE(3, 16)
LINEAR_TILE(4, 16)
LINEAR_TILE(5, 16)
LINEAR_TILE(6, 16)

// One panel for at most three rows: a single pass over the weights, which come from memory.
static void FN(linear_stream)(
  int64_t rows, const uint16_t *w, const float *x, int64_t xs, float *c, int64_t cs, int64_t pairs
) {
  static const FN(linear_kernel) kernels[] = {FN(linear_1x32), FN(linear_2x32), FN(linear_3x32)};
  kernels[rows - 1](w, x, xs, c, cs, pairs, (const char *)w + 4096, 4 * POLAR_PANEL);
}

// One panel for many rows: groups of up to six rows pass over a block of the weights that stays in L1, 16 outputs
// at a time, and fetch the next block meanwhile.
static void FN(linear_blocked)(
  int64_t rows, const uint16_t *w, const float *x, int64_t xs, float *c, int64_t cs, int64_t pairs
) {
  static const FN(linear_kernel) kernels[] = {
    FN(linear_3x16), FN(linear_4x16), FN(linear_5x16), FN(linear_6x16)};
  const int64_t groups = (rows + 5) / 6, small = rows / groups, larger = rows % groups;
  const int64_t step = (2 * POLAR_PANEL + groups - 1) / groups;
  for (int64_t k = 0; k < pairs; k += FN(block_pairs)) {
    const int64_t count = pairs - k < FN(block_pairs) ? pairs - k : FN(block_pairs);
    const uint16_t *block = w + k * 2 * POLAR_PANEL;
    const char *prefetch = (const char *)(block + count * 2 * POLAR_PANEL);
    for (int half = 0; half < 2; half++) {
      int64_t row = 0;
      for (int64_t g = 0; g < groups; g++) {
        const int64_t size = small + (g < larger);
        kernels[size - 3](
          block + half * POLAR_PANEL, x + row * xs + 2 * k, xs, c + row * cs + half * (POLAR_PANEL / 2), cs, count,
          prefetch, step);
        prefetch += step * count;
        row += size;
      }
    }
  }
}

static void FN(linear)(
  const polar_linear_args *args, int64_t row_low, int64_t row_high, int64_t panel_low, int64_t panel_high,
  uint16_t *scratch
) {
  (void)scratch;
  const int64_t rows = row_high - row_low, pairs = args->inputs / 2;
  const float *x = args->x + row_low * args->x_stride;
  float edge[POLAR_ROW_BLOCK * POLAR_PANEL];
  for (int64_t panel = panel_low; panel < panel_high; panel++) {
    const uint16_t *w = (const uint16_t *)args->weight + panel * pairs * 2 * POLAR_PANEL;
    const int64_t first = panel * POLAR_PANEL;
    const int64_t valid = args->outputs - first < POLAR_PANEL ? args->outputs - first : POLAR_PANEL;
    float *out = args->out + row_low * args->out_stride + first;
    // The last panel may be wider than the output: it is computed aside.
    float *c = valid < POLAR_PANEL ? edge : out;
    const int64_t cs = valid < POLAR_PANEL ? POLAR_PANEL : args->out_stride;
    for (int64_t r = 0; r < rows; r++)
      for (int64_t j = 0; j < POLAR_PANEL; j++)
        c[r * cs + j] = args->bias && j < valid ? args->bias[first + j] : 0.0f;
    if (rows <= 3) {
      FN(linear_stream)(rows, w, x, args->x_stride, c, cs, pairs);
    } else {
      FN(linear_blocked)(rows, w, x, args->x_stride, c, cs, pairs);
    }
    if (valid < POLAR_PANEL)
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < valid; j++) out[r * args->out_stride + j] = edge[r * POLAR_PANEL + j];
  }
}
