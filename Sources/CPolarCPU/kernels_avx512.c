// Kernels for AVX-512 with BF16: linear layers on bf16 activations with vdpbf16ps, other ops on 512-bit vectors.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16
#define POLAR_PAIR_PEAK  // linear layers multiply pairs: their peak is measured below

#pragma clang attribute push( \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma"))), apply_to = function)
#include "vec.h"
#include "ops_impl.h"
#include "matmul_impl.h"
#include "bf16_dot.h"

// Most pairs of inputs between stores of the accumulators, when rows are many: a panel's block of 24 KiB stays in L1.
enum { block_pairs = 192 };

// R rows x 32 outputs over `pairs` pairs of inputs; every output is one chain, pair by pair, that starts at `start`.
POLAR_ALWAYS_INLINE void linear_tile(
  const int R, const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride, float *c,
  int64_t cs, int64_t pairs, const char *prefetch, int64_t step
) {
  vf low[8], high[8];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    low[r] = FN(load)(start + r * start_stride);
    high[r] = FN(load)(start + r * start_stride + VW);
  }
  for (int64_t k = 0; k < pairs; k++) {
    const vu first = FN(load_pairs)(w), second = FN(load_pairs)(w + POLAR_PANEL);
    __builtin_prefetch(prefetch, 0, 3);
    __builtin_prefetch(prefetch + 64, 0, 3);
    prefetch += step;
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const vu pair = FN(splat_pair)(x + r * xs + 2 * k);
      low[r] = FN(pair_dot)(low[r], first, pair);
      high[r] = FN(pair_dot)(high[r], second, pair);
    }
    w += 2 * POLAR_PANEL;
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    FN(store)(c + r * cs, low[r]);
    FN(store)(c + r * cs + VW, high[r]);
  }
}

#define LINEAR_TILE(R)                                                                                          \
  static void linear_tile_##R(                                                                                  \
    const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride, float *c,       \
    int64_t cs, int64_t pairs, const char *prefetch, int64_t step                                               \
  ) {                                                                                                           \
    linear_tile(R, w, x, xs, start, start_stride, c, cs, pairs, prefetch, step);                                \
  }
LINEAR_TILE(1)
LINEAR_TILE(2)
LINEAR_TILE(3)
LINEAR_TILE(4)
LINEAR_TILE(5)
LINEAR_TILE(6)
LINEAR_TILE(7)
LINEAR_TILE(8)

static void linear_avx512(
  const polar_linear_args *args, int64_t row_low, int64_t row_high, int64_t panel_low, int64_t panel_high,
  const uint16_t *prepared, int64_t prepared_stride, const char *next
) {
  typedef void (*tile)(
    const uint16_t *, const uint16_t *, int64_t, const float *, int64_t, float *, int64_t, int64_t, const char *,
    int64_t);
  static const tile tiles[] = {linear_tile_1, linear_tile_2, linear_tile_3, linear_tile_4,
                               linear_tile_5, linear_tile_6, linear_tile_7, linear_tile_8};
  const int64_t rows = row_high - row_low, pairs = args->weight.inputs / 2;
  const int64_t groups = (rows + 7) / 8, small = rows / groups, larger = rows % groups;
  // One row group passes over the whole panel, fetching 4 KiB ahead; several share blocks of it that stay in L1, each
  // fetching a part of the next.
  const int64_t lead = 4096 / (4 * POLAR_PANEL);
  float edge[POLAR_ROW_BLOCK * POLAR_PANEL];
  for (int64_t panel = panel_low; panel < panel_high; panel++) {
    const uint16_t *w = (const uint16_t *)args->weight.data + panel * pairs * 2 * POLAR_PANEL;
    const int64_t first = panel * POLAR_PANEL;
    const int64_t valid = args->weight.outputs - first < POLAR_PANEL ? args->weight.outputs - first : POLAR_PANEL;
    float *out = args->out + row_low * args->out_stride + first;
    // The last panel may be wider than the output: it is computed aside.
    float *c = valid < POLAR_PANEL ? edge : out;
    const int64_t cs = valid < POLAR_PANEL ? POLAR_PANEL : args->out_stride;
    float bias[POLAR_PANEL] = {0};
    if (args->bias)
      for (int64_t j = 0; j < valid; j++) bias[j] = args->bias[first + j];
    // Weights that follow this panel. Where they lie elsewhere, one row group ends with a short block that fetches them.
    const char *end = (const char *)(w + pairs * 2 * POLAR_PANEL), *behind = panel + 1 < panel_high ? end : next;
    const int64_t last = behind != end && pairs > lead ? lead : 0;
    const int64_t blocks = groups > 1 ? (pairs + block_pairs - 1) / block_pairs : last > 0 ? 2 : 1;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t k = groups > 1 ? pairs * b / blocks : b * (pairs - last);
      const int64_t count = (groups > 1 ? pairs * (b + 1) / blocks : b == 0 ? pairs - last : pairs) - k;
      const uint16_t *block = w + k * 2 * POLAR_PANEL;
      const int64_t step = (4 * POLAR_PANEL + groups - 1) / groups;
      const char *prefetch = (const char *)(block + (groups > 1 ? count : lead) * 2 * POLAR_PANEL);
      if (b + 1 == blocks && behind != end) prefetch = behind;
      int64_t row = 0;
      for (int64_t g = 0; g < groups; g++) {
        const int64_t size = small + (g < larger);
        tiles[size - 1](
          block, prepared + row * prepared_stride + 2 * k, prepared_stride, b == 0 ? bias : c + row * cs, b == 0 ? 0 : cs, c + row * cs,
          cs, count, prefetch, step);
        prefetch += step * count;
        row += size;
      }
    }
    if (valid < POLAR_PANEL)
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < valid; j++) out[r * args->out_stride + j] = edge[r * POLAR_PANEL + j];
  }
}

// The dot products of linear layers, from registers.
static double pairs_peak(int64_t steps, float *sink) {
  vf acc[16];
#pragma clang loop unroll(full)
  for (int i = 0; i < 16; i++) acc[i] = FN(splat)(sink[0] + (float)i);
  const vu x = (vu)FN(splat)(sink[1]), y = (vu)FN(splat)(sink[2]);
  for (int64_t step = 0; step < steps; step++)
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i++) acc[i] = FN(pair_dot)(acc[i], x, y);
#pragma clang loop unroll(full)
  for (int i = 1; i < 16; i++) acc[0] = acc[0] + acc[i];
  FN(store)(sink, acc[0]);
  return (double)steps * 16 * VW * 4;
}
#pragma clang attribute pop

const polar_kernels polar_kernels_avx512 = {
  .linear = linear_avx512,
  .prepare = convert_avx512,
  .ints = &polar_int_kernels_avx512,
  .queries = polar_attention_queries_avx512,
  .attention = polar_attention_avx512,
  .fold = fold_avx512,
  .finish = finish_avx512,
  .selective_up = polar_selective_up_avx512,
  .selective_down = polar_selective_down_avx512,
  .rms_norm = rms_norm_avx512,
  .add_rms_norm = add_rms_norm_avx512,
  .head_rms_norm = head_rms_norm_avx512,
  .layer_norm = layer_norm_avx512,
  .silu_mul = silu_mul_avx512,
  .relu_mul = relu_mul_avx512,
  .relu = relu_avx512,
  .add = add_avx512,
  .rotary = rotary_avx512,
  .store_kv = store_kv_avx512,
  .argmax = argmax_avx512,
  .head_norms = head_norms_avx512,
  .head_deviations = head_deviations_avx512,
  .matmul = matmul_avx512,
  .read = read_avx512,
  .fma = pairs_peak,
};
#endif
