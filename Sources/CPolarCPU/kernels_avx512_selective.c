// The first half of a selective MLP for AVX-512 with BF16. Rows of chosen neurons become panels of pairs in registers or L1,
// [pairs][32][2] as linear layers have them, and every result is the chain over its inputs that the linear layer computes.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16

#pragma clang attribute push( \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma"))), apply_to = function)
#include "vec.h"
#include "bf16_dot.h"
#include "selective_avx512.h"

enum {
  pack_pairs = 32,  // pairs of inputs packed at a time, for several groups of rows
  paired_rows = 4,  // most rows for which two sets of 16 neurons are worked on in turn
};

// The least stride of at least n bf16 elements that is an odd number of cache lines: rows of a tile at a stride of a
// power of two would fall into the same sets of L1.
static int64_t odd_lines(int64_t n) { return ((n + 31) / 32 | 1) * 32; }

// The first half of the transposition of 16 rows of 16 pairs: of 4 rows (r), lane L of b[e] gets those of pair 4L + e.
POLAR_ALWAYS_INLINE void transpose_lanes(const __m512i *r, __m512i *b) {
  const __m512i a0 = _mm512_unpacklo_epi32(r[0], r[1]), a1 = _mm512_unpackhi_epi32(r[0], r[1]);
  const __m512i a2 = _mm512_unpacklo_epi32(r[2], r[3]), a3 = _mm512_unpackhi_epi32(r[2], r[3]);
  b[0] = _mm512_unpacklo_epi64(a0, a2);
  b[1] = _mm512_unpackhi_epi64(a0, a2);
  b[2] = _mm512_unpacklo_epi64(a1, a3);
  b[3] = _mm512_unpackhi_epi64(a1, a3);
}

// The second half, of four times four rows (b): 16 pairs of 16 rows.
POLAR_ALWAYS_INLINE void exchange_lanes(const __m512i *b, __m512i *t) {
#pragma clang loop unroll(full)
  for (int e = 0; e < 4; e++) {
    const __m512i x0 = _mm512_shuffle_i32x4(b[e], b[4 + e], 0x88), x1 = _mm512_shuffle_i32x4(b[e], b[4 + e], 0xdd);
    const __m512i y0 = _mm512_shuffle_i32x4(b[8 + e], b[12 + e], 0x88);
    const __m512i y1 = _mm512_shuffle_i32x4(b[8 + e], b[12 + e], 0xdd);
    t[e] = _mm512_shuffle_i32x4(x0, y0, 0x88);
    t[4 + e] = _mm512_shuffle_i32x4(x1, y1, 0x88);
    t[8 + e] = _mm512_shuffle_i32x4(x0, y0, 0xdd);
    t[12 + e] = _mm512_shuffle_i32x4(x1, y1, 0xdd);
  }
}

// Packs `pairs` pairs of up to 32 rows, from pair `first` on.
static void pack(const uint16_t *const *rows, int halves, int64_t first, int64_t pairs, uint16_t *out) {
  for (int64_t k = 0; k < pairs; k += 16, out += 16 * 2 * POLAR_PANEL) {
    const int count = pairs - k < 16 ? (int)(pairs - k) : 16;
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    for (int half = 0; half < halves; half++) {
      __m512i r[16], b[16], t[16];
#pragma clang loop unroll(full)
      for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_epi32(mask, rows[16 * half + i] + 2 * (first + k));
#pragma clang loop unroll(full)
      for (int i = 0; i < 16; i += 4) transpose_lanes(r + i, b + i);
      exchange_lanes(b, t);
#pragma clang loop unroll(full)
      for (int i = 0; i < 16; i++)
        if (i < count) _mm512_store_si512(out + i * 2 * POLAR_PANEL + half * POLAR_PANEL, t[i]);
    }
  }
}

// `count` pairs from pair k on of R rows x 16 neurons, one of `sets` sets of 16 that are worked on in turn. `inside` when all lines
// that are fetched lie in the rows themselves: they are addressed with fewer instructions then.
POLAR_ALWAYS_INLINE void direct_step(
  const int R, const int sets, const int inside, const uint16_t *const *rows, const uint16_t *const *next,
  const uint16_t *x, int64_t xs, int64_t k, int count, int64_t pairs, vf *acc
) {
  const __mmask16 mask = (__mmask16)((1u << count) - 1);
  place fetched[3];
#pragma clang loop unroll(full)
  for (int i = 0; i < 3; i++) {
    const int64_t step = (i == 0 ? near_steps : i == 1 ? middle_steps : far_steps) / sets * 32;
    fetched[i] = inside ? (place){rows, 2 * k + step} : ahead(rows, next, 2 * k, step, 2 * pairs);
  }
  __m512i r[16], b[16], t[16];
#pragma clang loop unroll(full)
  for (int i = 0; i < 16; i++) {
    r[i] = _mm512_maskz_loadu_epi32(mask, rows[i] + 2 * k);
#pragma clang loop unroll(full)
    for (int j = 0; j < 3; j++) __builtin_prefetch(fetched[j].rows[i] + fetched[j].position, 0, 3);
    if (i % 4 < 3) continue;
    transpose_lanes(r + i - 3, b + i - 3);
    // The compiler would load more rows first, and spill what it has no registers for.
    __asm__ volatile("" : "+v"(b[i - 3]), "+v"(b[i - 2]), "+v"(b[i - 1]), "+v"(b[i])::"memory");
  }
  exchange_lanes(b, t);
  if (count == 16) {
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i++)
#pragma clang loop unroll(full)
      for (int q = 0; q < R; q++)
        acc[q] = FN(pair_dot)(acc[q], (vu)t[i], FN(splat_pair)(x + q * xs + 2 * (k + i)));
  } else {
#pragma clang loop unroll(full)
    for (int i = 0; i < 15; i++) {
      if (i < count)
#pragma clang loop unroll(full)
        for (int q = 0; q < R; q++)
          acc[q] = FN(pair_dot)(acc[q], (vu)t[i], FN(splat_pair)(x + q * xs + 2 * (k + i)));
    }
  }
}

// R rows x 16 * sets neurons over all pairs, without a panel: every result is one chain that starts at `start`.
POLAR_ALWAYS_INLINE void direct(
  const int R, const int sets, const uint16_t *const *rows, const uint16_t *const *next, const uint16_t *x, int64_t xs,
  const float *start, float *c, int64_t pairs
) {
  vf acc[2][group_rows];
#pragma clang loop unroll(full)
  for (int s = 0; s < sets; s++)
#pragma clang loop unroll(full)
    for (int q = 0; q < R; q++) acc[s][q] = FN(load)(start + s * VW);
  int64_t k = 0;
  for (; k + 16 * (far_steps / sets + 1) <= pairs; k += 16)
#pragma clang loop unroll(full)
    for (int s = 0; s < sets; s++) {
      direct_step(R, sets, 1, rows + s * VW, next + s * VW, x, xs, k, 16, pairs, acc[s]);
      __asm__ volatile("" ::: "memory");  // the compiler would load both sets' lines first, and spill them
    }
  for (; k < pairs; k += 16) {
    const int count = pairs - k < 16 ? (int)(pairs - k) : 16;
#pragma clang loop unroll(full)
    for (int s = 0; s < sets; s++) {
      direct_step(R, sets, 0, rows + s * VW, next + s * VW, x, xs, k, count, pairs, acc[s]);
      __asm__ volatile("" ::: "memory");
    }
  }
#pragma clang loop unroll(full)
  for (int s = 0; s < sets; s++)
#pragma clang loop unroll(full)
    for (int q = 0; q < R; q++) FN(store)(c + q * POLAR_PANEL + s * VW, acc[s][q]);
}

typedef void (*direct_kernel)(
  const uint16_t *const *rows, const uint16_t *const *next, const uint16_t *x, int64_t xs, const float *start,
  float *c, int64_t pairs);
#define DIRECT(R, SETS)                                                                                         \
  static void direct_##R##_##SETS(                                                                              \
    const uint16_t *const *rows, const uint16_t *const *next, const uint16_t *x, int64_t xs, const float *start, \
    float *c, int64_t pairs                                                                                     \
  ) {                                                                                                           \
    direct(R, SETS, rows, next, x, xs, start, c, pairs);                                                        \
  }
DIRECT(1, 1) DIRECT(2, 1) DIRECT(3, 1) DIRECT(4, 1) DIRECT(5, 1) DIRECT(6, 1) DIRECT(7, 1) DIRECT(8, 1)
DIRECT(1, 2) DIRECT(2, 2) DIRECT(3, 2) DIRECT(4, 2)

// R rows x 16 * H outputs over `pairs` pairs of a packed panel; every output is one chain that starts at `start`. A line
// of each row `fetched` is fetched meanwhile, unless that is NULL.
POLAR_ALWAYS_INLINE void tile(
  const int R, const int H, const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride,
  float *c, int64_t cs, int64_t pairs, const uint16_t *const *fetched, int64_t at
) {
  vf acc[2 * group_rows];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int h = 0; h < H; h++) acc[r * H + h] = FN(load)(start + r * start_stride + h * VW);
  for (int64_t k = 0; k < pairs; k++, w += 2 * POLAR_PANEL) {
    if (fetched) __builtin_prefetch(fetched[k] + at, 0, 3);
    vu weights[2];
#pragma clang loop unroll(full)
    for (int h = 0; h < H; h++) weights[h] = FN(load_pairs)(w + h * POLAR_PANEL);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const vu pair = FN(splat_pair)(x + r * xs + 2 * k);
#pragma clang loop unroll(full)
      for (int h = 0; h < H; h++) acc[r * H + h] = FN(pair_dot)(acc[r * H + h], weights[h], pair);
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int h = 0; h < H; h++) FN(store)(c + r * cs + h * VW, acc[r * H + h]);
}

typedef void (*tile_kernel)(
  const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride, float *c, int64_t cs,
  int64_t pairs, const uint16_t *const *fetched, int64_t at);
#define TILE(R, H)                                                                                              \
  static void tile_##R##_##H(                                                                                   \
    const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride, float *c,       \
    int64_t cs, int64_t pairs, const uint16_t *const *fetched, int64_t at                                       \
  ) {                                                                                                           \
    tile(R, H, w, x, xs, start, start_stride, c, cs, pairs, fetched, at);                                       \
  }
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1) TILE(7, 1) TILE(8, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2) TILE(7, 2) TILE(8, 2)

// How many neurons are worked on side by side. A product takes 6 cycles, so that one chain of 16 neurons alone would take as long
// as fast memory: with few rows there are two. More than group_rows rows share panels.
static int64_t up_width(int64_t rows) { return rows <= paired_rows || rows > group_rows ? POLAR_PANEL : VW; }

// One half (gate or up) of up to up_width(rows) neurons, 16 * halves, for all rows of activations.
static void up_group(
  const uint16_t *const *w, const uint16_t *const *next, int halves, int64_t rows, const uint16_t *x, int64_t xs,
  const float *bias, float *sums, int64_t pairs
) {
  static const direct_kernel kernels[2][group_rows] = {
    {direct_1_1, direct_2_1, direct_3_1, direct_4_1, direct_5_1, direct_6_1, direct_7_1, direct_8_1},
    {direct_1_2, direct_2_2, direct_3_2, direct_4_2}};
  static const tile_kernel tiles[2][group_rows] = {
    {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1, tile_7_1, tile_8_1},
    {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2, tile_7_2, tile_8_2}};
  if (rows <= group_rows) {
    kernels[halves - 1][rows - 1](w, next, x, xs, bias, sums, pairs);
    return;
  }
  uint16_t panel[pack_pairs * 2 * POLAR_PANEL] __attribute__((aligned(64)));
  const int64_t groups = (rows + group_rows - 1) / group_rows, small = rows / groups, larger = rows % groups;
  for (int64_t k = 0; k < pairs; k += pack_pairs) {
    const int64_t count = pairs - k < pack_pairs ? pairs - k : pack_pairs;
    pack(w, halves, k, count, panel);
    const place fetched = ahead(w, next, 2 * k, lines_ahead / POLAR_PANEL * 32, 2 * pairs);
    for (int64_t g = 0, row = 0; g < groups; g++) {
      const int64_t size = small + (g < larger);
      float *c = sums + row * POLAR_PANEL;
      tiles[halves - 1][size - 1](
        panel, x + row * xs + 2 * k, xs, k == 0 ? bias : c, k == 0 ? 0 : POLAR_PANEL, c, POLAR_PANEL, count,
        g < 2 ? fetched.rows : NULL, fetched.position + 32 * g);  // the block has two lines of each row
      row += size;
    }
  }
}

// `out = a > threshold ? a : 0`, gated: times b.
static void activate(
  const polar_selective_args *args, const float *a, const float *b, int64_t valid, float *out
) {
  for (int64_t j = 0; j < valid; j += VW) {
    const __mmask16 mask = (__mmask16)(valid - j < VW ? (1u << (valid - j)) - 1 : 0xffff);
    const __m512 value = _mm512_loadu_ps(a + j);
    const __mmask16 active = _mm512_cmp_ps_mask(value, _mm512_set1_ps(args->threshold), _CMP_GT_OQ);
    _mm512_mask_storeu_ps(
      out + j, mask,
      args->gated ? _mm512_maskz_mul_ps(active, value, _mm512_loadu_ps(b + j)) : _mm512_maskz_mov_ps(active, value));
  }
}

void polar_selective_up_avx512(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch
) {
  (void)entries;
  const int64_t rows = row_high - row_low, hidden = args->hidden, xs = odd_lines(hidden);
  const int64_t width = up_width(rows);
  float sums[2][POLAR_ROW_BLOCK * POLAR_PANEL] __attribute__((aligned(64)));
  const uint16_t *w[POLAR_PANEL], *second[POLAR_PANEL], *next[POLAR_PANEL];
  for (int64_t r = 0; r < rows; r++)
    FN(convert)(scratch + r * xs, args->x + (row_low + r) * args->x_stride, hidden);
  find_rows(next, args, low, high, width);
  for (int64_t first = low; first < high; first += width) {
    const int64_t valid = high - first < width ? high - first : width;
    float bias[2][POLAR_PANEL] = {{0}};
    for (int64_t j = 0; j < width; j++) {
      w[j] = next[j];
      second[j] = w[j] + hidden;
    }
    find_rows(next, args, first + width, high, width);
    for (int64_t j = 0; j < valid; j++) {
      const int64_t n = args->indices ? args->indices[first + j] : first + j;
      if (args->bias) bias[0][j] = args->bias[n];
      if (args->gated_bias) bias[1][j] = args->gated_bias[n];
    }
    const int halves = valid > VW ? 2 : 1;
    up_group(w, args->gated ? second : next, halves, rows, scratch, xs, bias[0], sums[0], hidden / 2);
    if (args->gated) up_group(second, next, halves, rows, scratch, xs, bias[1], sums[1], hidden / 2);
    for (int64_t r = 0; r < rows; r++)
      activate(
        args, sums[0] + r * POLAR_PANEL, sums[1] + r * POLAR_PANEL, valid,
        args->out + (row_low + r) * args->out_stride + first);
  }
}
#pragma clang attribute pop
#endif
