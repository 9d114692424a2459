// Selective MLP kernels for AVX-512 with BF16. Rows of chosen neurons become panels of pairs in L1, [pairs][32][2] as
// linear layers have them, and every result is the chain over its inputs that the linear layer computes.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16

#pragma clang attribute push( \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma"))), apply_to = function)
#include "vec.h"
#include "bf16_dot.h"

enum {
  group_rows = 8,         // most rows of one register tile
  up_ahead = 32,          // rows of an up-projection that are fetched before they are used
  direct_rows = 4,        // most rows for which packed weights stay in registers
  shared_pairs = 32,      // pairs of inputs packed at a time when several groups of rows share them,
  single_pairs = 16,      // and when one group uses them
  down_ahead = 32,        // and of a down-projection
  single_entries = 16,    // neurons of a down-projection between stores of the accumulators: one group of rows,
  shared_entries = 32,    // or several
  h_stride = shared_entries + 32,
};

// The least stride of at least n bf16 elements that is an odd number of cache lines: rows of a tile at a stride of a
// power of two would fall into the same sets of L1.
static int64_t odd_lines(int64_t n) { return ((n + 31) / 32 | 1) * 32; }

// Rows of weights as one stream of cache lines, which is fetched ahead of its use: hardware does not foresee the jump
// from row to row.
typedef struct {
  const polar_selective_args *args;
  int64_t entry, end, offset, line, bytes;  // next entry; first byte of a row's part, next line of it, its length
  const char *row;
} stream;

static const uint16_t *row_of(const polar_selective_args *args, int64_t entry) {
  return args->weight + (args->indices ? args->indices[entry] : entry) * args->weight_stride;
}

static void seek(stream *s) {
  s->line = 0;
  if (s->entry < s->end) s->row = (const char *)row_of(s->args, s->entry) + s->offset;
}

static stream stream_from(
  const polar_selective_args *args, int64_t entry, int64_t end, int64_t offset, int64_t bytes
) {
  stream s = {.args = args, .entry = entry, .end = end, .offset = offset, .bytes = bytes};
  seek(&s);
  return s;
}

POLAR_ALWAYS_INLINE void fetch(stream *s, int lines) {
  for (int i = 0; i < lines && s->entry < s->end; i++) {
    __builtin_prefetch(s->row + s->line, 0, 3);
    s->line += 64;
    if (s->line < s->bytes) continue;
    s->entry++;
    seek(s);
  }
}

// 16 rows of 16 pairs to 16 pairs of 16 rows.
POLAR_ALWAYS_INLINE void transpose(const __m512i *r, __m512i *t) {
  __m512i a[16], b[16];
#pragma clang loop unroll(full)
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  // b[4 * g + e]: rows 4g ... 4g + 3 of pair 4L + e in lane L.
#pragma clang loop unroll(full)
  for (int g = 0; g < 4; g++) {
    b[4 * g] = _mm512_unpacklo_epi64(a[4 * g], a[4 * g + 2]);
    b[4 * g + 1] = _mm512_unpackhi_epi64(a[4 * g], a[4 * g + 2]);
    b[4 * g + 2] = _mm512_unpacklo_epi64(a[4 * g + 1], a[4 * g + 3]);
    b[4 * g + 3] = _mm512_unpackhi_epi64(a[4 * g + 1], a[4 * g + 3]);
  }
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
static void pack(const uint16_t *const *rows, int halves, int64_t first, int64_t pairs, uint16_t *out, stream *s) {
  for (int64_t k = 0; k < pairs; k += 16, out += 16 * 2 * POLAR_PANEL) {
    const int count = pairs - k < 16 ? (int)(pairs - k) : 16;
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    for (int half = 0; half < halves; half++) {
      __m512i r[16], t[16];
      fetch(s, 16);
#pragma clang loop unroll(full)
      for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_epi32(mask, rows[16 * half + i] + 2 * (first + k));
      transpose(r, t);
#pragma clang loop unroll(full)
      for (int i = 0; i < 16; i++)
        if (i < count) _mm512_store_si512(out + i * 2 * POLAR_PANEL + half * POLAR_PANEL, t[i]);
    }
  }
}

// R rows x 16 neurons over all pairs, without a panel: every result is one chain that starts at `start`.
POLAR_ALWAYS_INLINE void direct(
  const int R, const int H, const uint16_t *const *rows, const uint16_t *x, int64_t xs, const float *start, float *c,
  int64_t pairs, stream *s
) {
  vf acc[2 * direct_rows];
#pragma clang loop unroll(full)
  for (int i = 0; i < R * H; i++) acc[i] = FN(load)(start + i % H * VW);
  for (int64_t k = 0; k < pairs; k += 16) {
    const int count = pairs - k < 16 ? (int)(pairs - k) : 16;
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
#pragma clang loop unroll(full)
    for (int h = 0; h < H; h++) {
      __m512i r[16], t[16];
      fetch(s, 16);
#pragma clang loop unroll(full)
      for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_epi32(mask, rows[16 * h + i] + 2 * k);
      transpose(r, t);
      if (count == 16) {
#pragma clang loop unroll(full)
        for (int i = 0; i < 16; i++)
#pragma clang loop unroll(full)
          for (int q = 0; q < R; q++)
            acc[q * H + h] = FN(pair_dot)(acc[q * H + h], (vu)t[i], FN(splat_pair)(x + q * xs + 2 * (k + i)));
      } else {
#pragma clang loop unroll(full)
        for (int i = 0; i < 15; i++) {
          if (i < count)
#pragma clang loop unroll(full)
            for (int q = 0; q < R; q++)
              acc[q * H + h] = FN(pair_dot)(acc[q * H + h], (vu)t[i], FN(splat_pair)(x + q * xs + 2 * (k + i)));
        }
      }
    }
  }
#pragma clang loop unroll(full)
  for (int q = 0; q < R; q++)
#pragma clang loop unroll(full)
    for (int h = 0; h < H; h++) FN(store)(c + q * POLAR_PANEL + h * VW, acc[q * H + h]);
}

typedef void (*direct_kernel)(
  const uint16_t *const *rows, const uint16_t *x, int64_t xs, const float *start, float *c, int64_t pairs, stream *s);
#define DIRECT(R, H)                                                                                            \
  static void direct_##R##_##H(                                                                                 \
    const uint16_t *const *rows, const uint16_t *x, int64_t xs, const float *start, float *c, int64_t pairs,    \
    stream *s                                                                                                   \
  ) {                                                                                                           \
    direct(R, H, rows, x, xs, start, c, pairs, s);                                                              \
  }
DIRECT(1, 1) DIRECT(2, 1) DIRECT(3, 1) DIRECT(4, 1) DIRECT(1, 2) DIRECT(2, 2) DIRECT(3, 2) DIRECT(4, 2)
static const direct_kernel directs[2][direct_rows] = {
  {direct_1_1, direct_2_1, direct_3_1, direct_4_1}, {direct_1_2, direct_2_2, direct_3_2, direct_4_2}};

// R rows x 16 * H outputs over `pairs` pairs of a packed panel; every output is one chain that starts at `start`.
POLAR_ALWAYS_INLINE void tile(
  const int R, const int H, const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride,
  float *c, int64_t cs, int64_t pairs
) {
  vf acc[2 * group_rows];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int h = 0; h < H; h++) acc[r * H + h] = FN(load)(start + r * start_stride + h * VW);
  for (int64_t k = 0; k < pairs; k++, w += 2 * POLAR_PANEL) {
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
  int64_t pairs);
#define TILE(R, H)                                                                                              \
  static void tile_##R##_##H(                                                                                   \
    const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride, float *c,       \
    int64_t cs, int64_t pairs                                                                                   \
  ) {                                                                                                           \
    tile(R, H, w, x, xs, start, start_stride, c, cs, pairs);                                                    \
  }
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1) TILE(7, 1) TILE(8, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2) TILE(7, 2) TILE(8, 2)
static const tile_kernel tiles[2][group_rows] = {
  {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1, tile_7_1, tile_8_1},
  {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2, tile_7_2, tile_8_2}};

// All rows over one packed panel, in groups of nearly equal size.
static void tile_rows(
  int64_t rows, int halves, const uint16_t *w, const uint16_t *x, int64_t xs, const float *start, int64_t start_stride,
  float *c, int64_t cs, int64_t pairs
) {
  const int64_t groups = (rows + group_rows - 1) / group_rows, small = rows / groups, larger = rows % groups;
  for (int64_t g = 0, row = 0; g < groups; g++) {
    const int64_t size = small + (g < larger);
    tiles[halves - 1][size - 1](
      w, x + row * xs, xs, start + row * start_stride, start_stride, c + row * cs, cs, pairs);
    row += size;
  }
}

void polar_selective_up_avx512(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch
) {
  (void)entries;
  const int64_t rows = row_high - row_low, hidden = args->hidden, pairs = hidden / 2, xs = odd_lines(hidden);
  for (int64_t r = 0; r < rows; r++)
    FN(convert)(scratch + r * xs, args->x + (row_low + r) * args->x_stride, hidden);
  uint16_t panel[shared_pairs * 2 * POLAR_PANEL] __attribute__((aligned(64)));
  float sums[2][POLAR_ROW_BLOCK * POLAR_PANEL] __attribute__((aligned(64)));
  const uint16_t *w[POLAR_PANEL];
  const int64_t step = rows > group_rows ? shared_pairs : single_pairs;
  stream s = stream_from(args, low, high, 0, 2 * hidden * (args->gated ? 2 : 1));
  fetch(&s, (int)(up_ahead * ((s.bytes + 63) / 64)));
  for (int64_t first = low; first < high; first += POLAR_PANEL) {
    const int64_t valid = high - first < POLAR_PANEL ? high - first : POLAR_PANEL;
    const int halves = valid > 16 ? 2 : 1;
    float bias[2][POLAR_PANEL] = {{0}};
    for (int64_t j = 0; j < POLAR_PANEL; j++) {
      // Entries behind the last repeat it; their results are dropped.
      const int64_t entry = j < valid ? first + j : first + valid - 1;
      const int64_t n = args->indices ? args->indices[entry] : entry;
      w[j] = args->weight + n * args->weight_stride;
      if (args->bias) bias[0][j] = args->bias[n];
      if (args->gated_bias) bias[1][j] = args->gated_bias[n];
    }
    for (int part = 0; part <= args->gated; part++) {
      if (part == 1)
        for (int64_t j = 0; j < POLAR_PANEL; j++) w[j] += hidden;
      if (rows <= direct_rows) {
        directs[halves - 1][rows - 1](w, scratch, xs, bias[part], sums[part], pairs, &s);
        continue;
      }
      for (int64_t k = 0; k < pairs; k += step) {
        const int64_t count = pairs - k < step ? pairs - k : step;
        pack(w, halves, k, count, panel, &s);
        tile_rows(
          rows, halves, panel, scratch + 2 * k, xs, k == 0 ? bias[part] : sums[part], k == 0 ? 0 : POLAR_PANEL,
          sums[part], POLAR_PANEL, count);
      }
    }
    for (int64_t r = 0; r < rows; r++) {
      float *out = args->out + (row_low + r) * args->out_stride + first;
      const float *a = sums[0] + r * POLAR_PANEL, *b = sums[1] + r * POLAR_PANEL;
      if (args->gated) {
        for (int64_t j = 0; j < valid; j++) out[j] = a[j] > args->threshold ? a[j] * b[j] : 0;
      } else {
        for (int64_t j = 0; j < valid; j++) out[j] = a[j] > args->threshold ? a[j] : 0;
      }
    }
  }
}

// Columns of two neurons, interleaved: pairs of elements of the first 16 columns and of the next 16.
POLAR_ALWAYS_INLINE void interleave(const uint16_t *a, const uint16_t *b, __mmask32 mask, vu *pairs) {
  const __m512i low = _mm512_set_epi16(
    47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32,
    0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const __m512i x = _mm512_maskz_loadu_epi16(mask, a), y = _mm512_maskz_loadu_epi16(mask, b);
  pairs[0] = (vu)_mm512_permutex2var_epi16(x, low, y);
  pairs[1] = (vu)_mm512_permutex2var_epi16(x, high, y);
}

// R rows x 32 columns, on top of what c holds: h times the weights of pairs of neurons, which come from panel
// [pairs][2][16] or, where that is NULL, from the rows w at `column`. Every result is one chain over the pairs.
POLAR_ALWAYS_INLINE void down_tile(
  const int R, const uint16_t *panel, const uint16_t *const *w, int64_t column, __mmask32 mask, int64_t pairs,
  const uint16_t *h, int64_t hs, float *c, int64_t cs, stream *s
) {
  const __mmask16 masks[2] = {(__mmask16)mask, (__mmask16)(mask >> 16)};
  vf acc[2 * group_rows];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) acc[2 * r + i] = (vf)_mm512_maskz_loadu_ps(masks[i], c + r * cs + i * VW);
  for (int64_t k = 0; k < pairs; k++) {
    vu weights[2];
    if (panel) {
      weights[0] = FN(load_pairs)(panel + k * 64);
      weights[1] = FN(load_pairs)(panel + k * 64 + 32);
    } else {
      fetch(s, 2);
      interleave(w[2 * k] + column, w[2 * k + 1] + column, mask, weights);
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const vu pair = FN(splat_pair)(h + r * hs + 2 * k);
#pragma clang loop unroll(full)
      for (int i = 0; i < 2; i++) acc[2 * r + i] = FN(pair_dot)(acc[2 * r + i], weights[i], pair);
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) _mm512_mask_storeu_ps(c + r * cs + i * VW, masks[i], (__m512)acc[2 * r + i]);
}

typedef void (*down_kernel)(
  const uint16_t *panel, const uint16_t *const *w, int64_t column, __mmask32 mask, int64_t pairs, const uint16_t *h,
  int64_t hs, float *c, int64_t cs, stream *s);
#define DOWN_TILE(R)                                                                                            \
  static void down_direct_##R(                                                                                  \
    const uint16_t *panel, const uint16_t *const *w, int64_t column, __mmask32 mask, int64_t pairs,             \
    const uint16_t *h, int64_t hs, float *c, int64_t cs, stream *s                                              \
  ) {                                                                                                           \
    (void)panel;                                                                                                \
    down_tile(R, NULL, w, column, mask, pairs, h, hs, c, cs, s);                                                   \
  }                                                                                                             \
  static void down_panel_##R(                                                                                   \
    const uint16_t *panel, const uint16_t *const *w, int64_t column, __mmask32 mask, int64_t pairs,             \
    const uint16_t *h, int64_t hs, float *c, int64_t cs, stream *s                                              \
  ) {                                                                                                           \
    down_tile(R, panel, w, column, mask, pairs, h, hs, c, cs, s);                                                  \
  }
DOWN_TILE(1)
DOWN_TILE(2)
DOWN_TILE(3)
DOWN_TILE(4)
DOWN_TILE(5)
DOWN_TILE(6)
DOWN_TILE(7)
DOWN_TILE(8)

// Columns [low, high) of `entries` neurons (an even number) for all rows.
static void down_block(
  const polar_selective_args *args, const uint16_t *const *w, int64_t entries, int64_t rows, int64_t row_low,
  int64_t low, int64_t high, const uint16_t *h, stream *s
) {
  static const down_kernel direct[] = {down_direct_1, down_direct_2, down_direct_3, down_direct_4,
                                       down_direct_5, down_direct_6, down_direct_7, down_direct_8};
  static const down_kernel shared[] = {down_panel_1, down_panel_2, down_panel_3, down_panel_4,
                                       down_panel_5, down_panel_6, down_panel_7, down_panel_8};
  const int64_t groups = (rows + group_rows - 1) / group_rows, small = rows / groups, larger = rows % groups;
  uint16_t panel[shared_entries * POLAR_PANEL] __attribute__((aligned(64)));
  for (int64_t d = low; d < high; d += POLAR_PANEL) {
    const int64_t columns = high - d < POLAR_PANEL ? high - d : POLAR_PANEL;
    const __mmask32 mask = columns == POLAR_PANEL ? ~0u : (1u << columns) - 1;
    float *c = args->out + row_low * args->out_stride + d;
    if (groups == 1) {
      direct[rows - 1](NULL, w, d, mask, entries / 2, h, h_stride, c, args->out_stride, s);
      continue;
    }
    for (int64_t k = 0; k < entries / 2; k++) {
      fetch(s, 2);
      interleave(w[2 * k] + d, w[2 * k + 1] + d, mask, (vu *)(panel + k * 64));
    }
    for (int64_t g = 0, row = 0; g < groups; g++) {
      const int64_t size = small + (g < larger);
      shared[size - 1](
        panel, NULL, 0, mask, entries / 2, h + row * h_stride, h_stride, c + row * args->out_stride,
        args->out_stride, s);
      row += size;
    }
  }
}

void polar_selective_down_avx512(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch
) {
  const int64_t rows = row_high - row_low;
  const uint16_t *w[shared_entries];
  const int64_t block = rows > group_rows ? shared_entries : single_entries;
  for (int64_t r = 0; r < rows; r++) {
    float *out = args->out + (row_low + r) * args->out_stride;
    for (int64_t d = low; d < high; d++) out[d] = args->bias ? args->bias[d] : 0;
  }
  stream s = stream_from(args, 0, entries, 2 * low, 2 * (high - low));
  fetch(&s, (int)(down_ahead * ((s.bytes + 63) / 64)));
  for (int64_t first = 0; first < entries; first += block) {
    const int64_t valid = entries - first < block ? entries - first : block, even = (valid + 1) / 2 * 2;
    // An odd last entry is paired with itself, times zero.
    for (int64_t j = 0; j < even; j++) w[j] = row_of(args, first + (j < valid ? j : valid - 1));
    for (int64_t r = 0; r < rows; r++) {
      FN(convert)(scratch + r * h_stride, args->x + (row_low + r) * args->x_stride + first, valid);
      if (even > valid) scratch[r * h_stride + valid] = 0;
    }
    down_block(args, w, even, rows, row_low, low, high, scratch, &s);
  }
}
#pragma clang attribute pop
#endif
