// Selective MLP kernels for AVX-512 with BF16. Rows of chosen neurons become panels of pairs in registers or L1,
// [pairs][32][2] as linear layers have them, and every result is the chain over its inputs that the linear layer computes.
//
// What is read comes from memory, in rows that lie anywhere, so what counts is how many lines are under way. Lines are fetched
// in the order in which they are used, one fetch for each line that is used, 96 lines ahead: a core can have 128 of them under way.
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
  group_rows = 8,        // most rows of activations of one register tile
  pack_pairs = 32,       // pairs of inputs of an up-projection packed at a time, for several groups of rows
  block_entries = 16,    // neurons of a down-projection between stores of the accumulators, for one group of rows,
  panel_entries = 32,    // or for several
  list_entries = 64,     // neurons of a down-projection that share stretches of columns, for one group of rows:
  stretch = 512,         // columns, whose sums stay in L1 while the blocks of these neurons pass
  piece_columns = 16384, // columns whose sums of one group of rows fit into scratch
  lines_ahead = 96,      // lines fetched before they are used
  converted = 512,       // inputs of a down-projection that become bf16 at a time
  h_stride = converted + 32,
};

// The least stride of at least n bf16 elements that is an odd number of cache lines: rows of a tile at a stride of a
// power of two would fall into the same sets of L1.
static int64_t odd_lines(int64_t n) { return ((n + 31) / 32 | 1) * 32; }

// The rows of `count` entries of the list from `first` on; those behind the last repeat it.
static void find_rows(
  const uint16_t **rows, const polar_selective_args *args, int64_t first, int64_t end, int64_t count
) {
  for (int64_t j = 0; j < count; j++) {
    const int64_t entry = first + j < end ? first + j : end - 1;
    rows[j] = args->weight + (args->indices ? args->indices[entry] : entry) * args->weight_stride;
  }
}

// Where a group of rows is `step` elements after `position`, all rows being passed side by side: in these rows, of `length`
// elements, or in the next group's.
typedef struct {
  const uint16_t *const *rows;
  int64_t position;
} place;

POLAR_ALWAYS_INLINE place ahead(
  const uint16_t *const *rows, const uint16_t *const *next, int64_t position, int64_t step, int64_t length
) {
  const int64_t to = position + step;
  if (to < length) return (place){rows, to};
  return (place){next, to < 2 * length ? to - length : position};
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
static void pack(const uint16_t *const *rows, int halves, int64_t first, int64_t pairs, uint16_t *out) {
  for (int64_t k = 0; k < pairs; k += 16, out += 16 * 2 * POLAR_PANEL) {
    const int count = pairs - k < 16 ? (int)(pairs - k) : 16;
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    for (int half = 0; half < halves; half++) {
      __m512i r[16], t[16];
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
  const int R, const uint16_t *const *rows, const uint16_t *const *next, const uint16_t *x, int64_t xs,
  const float *start, float *c, int64_t pairs
) {
  vf acc[group_rows];
#pragma clang loop unroll(full)
  for (int q = 0; q < R; q++) acc[q] = FN(load)(start);
  for (int64_t k = 0; k < pairs; k += 16) {
    const int count = pairs - k < 16 ? (int)(pairs - k) : 16;
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    const place fetched = ahead(rows, next, 2 * k, lines_ahead / 16 * 32, 2 * pairs);
    __m512i r[16], t[16];
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i++) {
      r[i] = _mm512_maskz_loadu_epi32(mask, rows[i] + 2 * k);
      __builtin_prefetch(fetched.rows[i] + fetched.position, 0, 3);
    }
    transpose(r, t);
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
#pragma clang loop unroll(full)
  for (int q = 0; q < R; q++) FN(store)(c + q * POLAR_PANEL, acc[q]);
}

typedef void (*direct_kernel)(
  const uint16_t *const *rows, const uint16_t *const *next, const uint16_t *x, int64_t xs, const float *start,
  float *c, int64_t pairs);
#define DIRECT(R)                                                                                               \
  static void direct_##R(                                                                                       \
    const uint16_t *const *rows, const uint16_t *const *next, const uint16_t *x, int64_t xs, const float *start, \
    float *c, int64_t pairs                                                                                     \
  ) {                                                                                                           \
    direct(R, rows, next, x, xs, start, c, pairs);                                                              \
  }
DIRECT(1) DIRECT(2) DIRECT(3) DIRECT(4) DIRECT(5) DIRECT(6) DIRECT(7) DIRECT(8)

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

// One half (gate or up) of up to 16 neurons, or 32 for more than group_rows rows, for all rows of activations.
static void up_group(
  const uint16_t *const *w, const uint16_t *const *next, int halves, int64_t rows, const uint16_t *x, int64_t xs,
  const float *bias, float *sums, int64_t pairs
) {
  static const direct_kernel kernels[] = {direct_1, direct_2, direct_3, direct_4,
                                          direct_5, direct_6, direct_7, direct_8};
  static const tile_kernel tiles[2][group_rows] = {
    {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1, tile_7_1, tile_8_1},
    {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2, tile_7_2, tile_8_2}};
  if (rows <= group_rows) {
    kernels[rows - 1](w, next, x, xs, bias, sums, pairs);
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
  const int64_t width = rows > group_rows ? POLAR_PANEL : VW;
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

// One pair of neurons for R rows x 32 columns.
POLAR_ALWAYS_INLINE void down_step(const int R, const vu *weights, const uint16_t *h, vf *acc) {
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    const vu pair = FN(splat_pair)(h + r * h_stride);
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) acc[2 * r + i] = FN(pair_dot)(acc[2 * r + i], weights[i], pair);
  }
}

// The order in which lines of up to list_entries neurons are read: stretches of columns, in them blocks of neurons, in
// these panels of columns, of which a line of each neuron is read.
typedef struct {
  const uint16_t *const *rows;  // of the first block
  const uint16_t *const *next;  // rows that follow
  int64_t blocks, low, high;    // how many blocks there are, and the columns
  int64_t block, begin, at;     // block, where the stretch begins, panel
} reading;

POLAR_ALWAYS_INLINE void advance(reading *r) {
  r->at += POLAR_PANEL;
  if (r->at < r->high && r->at < r->begin + stretch) return;
  if (++r->block < r->blocks) {
    r->at = r->begin;
    return;
  }
  r->block = 0;
  if (r->at >= r->high) {
    r->rows = r->next;
    r->at = r->low;
  }
  r->begin = r->at;
}

// Columns [low, high) of up to list_entries neurons, for R rows, on top of `sums` [panel][R][32].
POLAR_ALWAYS_INLINE void down_few(
  const int R, const uint16_t *const *rows, const uint16_t *const *next, int64_t entries, int64_t low, int64_t high,
  const uint16_t *h, float *sums
) {
  const int64_t blocks = (entries + block_entries - 1) / block_entries;
  reading fetched = {rows, next, blocks, low, high, 0, low, low};
  for (int i = 0; i < lines_ahead / block_entries; i++) advance(&fetched);
  for (int64_t begin = low; begin < high; begin += stretch, sums += R * stretch)
    for (int64_t b = 0; b < blocks; b++) {
      const uint16_t *const *w = rows + b * block_entries;
      const uint16_t *x = h + b * block_entries;
      const int64_t end = begin + stretch < high ? begin + stretch : high;
      const int64_t pairs = (entries - b * block_entries + 1) / 2;
      float *c = sums;
      for (int64_t d = begin; d < end; d += POLAR_PANEL, c += R * POLAR_PANEL) {
        const __mmask32 mask = high - d < POLAR_PANEL ? (1u << (high - d)) - 1 : ~0u;
        const uint16_t *const *line = fetched.rows + fetched.block * block_entries;
        vf acc[2 * group_rows];
        vu weights[2];
#pragma clang loop unroll(full)
        for (int i = 0; i < 2 * R; i++) acc[i] = FN(load)(c + i * VW);
#pragma clang loop unroll(full)
        for (int k = 0; k < block_entries / 2; k++) {
          if (k >= pairs) continue;
          interleave(w[2 * k] + d, w[2 * k + 1] + d, mask, weights);
          __builtin_prefetch(line[2 * k] + fetched.at, 0, 3);
          __builtin_prefetch(line[2 * k + 1] + fetched.at, 0, 3);
          down_step(R, weights, x + 2 * k, acc);
          // The compiler would load for several pairs before it multiplies, and spill what it has no registers for.
#pragma clang loop unroll(full)
          for (int i = 0; i < 2 * R; i++) __asm__ volatile("" : "+v"(acc[i])::"memory");
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 2 * R; i++) FN(store)(c + i * VW, acc[i]);
        advance(&fetched);
      }
    }
}

typedef void (*down_few_kernel)(
  const uint16_t *const *rows, const uint16_t *const *next, int64_t entries, int64_t low, int64_t high,
  const uint16_t *h, float *sums);
#define DOWN_FEW(R)                                                                                             \
  static void down_few_##R(                                                                                     \
    const uint16_t *const *rows, const uint16_t *const *next, int64_t entries, int64_t low, int64_t high,       \
    const uint16_t *h, float *sums                                                                              \
  ) {                                                                                                           \
    down_few(R, rows, next, entries, low, high, h, sums);                                                       \
  }
DOWN_FEW(1) DOWN_FEW(2) DOWN_FEW(3) DOWN_FEW(4) DOWN_FEW(5) DOWN_FEW(6) DOWN_FEW(7) DOWN_FEW(8)

// R rows x 32 columns on top of `start`: h times the weights of pairs of neurons, which lie in a panel [pairs][2][16][2].
// Every result is one chain over the pairs.
POLAR_ALWAYS_INLINE void down_tile(
  const int R, const uint16_t *panel, __mmask32 mask, int64_t pairs, const uint16_t *h, const float *start,
  int64_t start_stride, float *c, int64_t cs
) {
  const __mmask16 masks[2] = {(__mmask16)mask, (__mmask16)(mask >> 16)};
  vf acc[2 * group_rows];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++)
      acc[2 * r + i] = (vf)_mm512_maskz_loadu_ps(masks[i], start + r * start_stride + i * VW);
  for (int64_t k = 0; k < pairs; k++) {
    const vu weights[2] = {FN(load_pairs)(panel + k * 64), FN(load_pairs)(panel + k * 64 + 32)};
    down_step(R, weights, h + 2 * k, acc);
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) _mm512_mask_storeu_ps(c + r * cs + i * VW, masks[i], (__m512)acc[2 * r + i]);
}

typedef void (*down_kernel)(
  const uint16_t *panel, __mmask32 mask, int64_t pairs, const uint16_t *h, const float *start, int64_t start_stride,
  float *c, int64_t cs);
#define DOWN_TILE(R)                                                                                            \
  static void down_tile_##R(                                                                                    \
    const uint16_t *panel, __mmask32 mask, int64_t pairs, const uint16_t *h, const float *start,                \
    int64_t start_stride, float *c, int64_t cs                                                                  \
  ) {                                                                                                           \
    down_tile(R, panel, mask, pairs, h, start, start_stride, c, cs);                                            \
  }
DOWN_TILE(1) DOWN_TILE(2) DOWN_TILE(3) DOWN_TILE(4) DOWN_TILE(5) DOWN_TILE(6) DOWN_TILE(7) DOWN_TILE(8)

// Columns [low, high) of `entries` neurons (an even number) for more than group_rows rows; `from_bias` where no neurons came
// before.
static void down_block(
  const polar_selective_args *args, const uint16_t *const *w, const uint16_t *const *next, int64_t entries,
  int64_t rows, int64_t row_low, int64_t low, int64_t high, const uint16_t *h, int from_bias
) {
  static const down_kernel kernels[] = {down_tile_1, down_tile_2, down_tile_3, down_tile_4,
                                        down_tile_5, down_tile_6, down_tile_7, down_tile_8};
  static const float zeros[POLAR_PANEL];
  const int64_t groups = (rows + group_rows - 1) / group_rows, small = rows / groups, larger = rows % groups;
  const int64_t cs = args->out_stride;
  uint16_t panel[panel_entries * POLAR_PANEL] __attribute__((aligned(64)));
  for (int64_t d = low; d < high; d += POLAR_PANEL) {
    const int64_t columns = high - d < POLAR_PANEL ? high - d : POLAR_PANEL;
    const __mmask32 mask = columns == POLAR_PANEL ? ~0u : (1u << columns) - 1;
    float *c = args->out + row_low * cs + d;
    const float *start = !from_bias ? c : args->bias ? args->bias + d : zeros;
    const int64_t start_stride = from_bias ? 0 : cs;
    const place fetched = ahead(w, next, d - low, lines_ahead / panel_entries * 32, high - low);
    const int64_t at = fetched.position + low;
#pragma clang loop unroll_count(4)
    for (int64_t k = 0; k < entries / 2; k++) {
      interleave(w[2 * k] + d, w[2 * k + 1] + d, mask, (vu *)(panel + k * 64));
      __builtin_prefetch(fetched.rows[2 * k] + at, 0, 3);
      __builtin_prefetch(fetched.rows[2 * k + 1] + at, 0, 3);
    }
    for (int64_t g = 0, row = 0; g < groups; g++) {
      const int64_t size = small + (g < larger);
      kernels[size - 1](
        panel, mask, entries / 2, h + row * h_stride, start + row * start_stride, start_stride, c + row * cs, cs);
      row += size;
    }
  }
}

// Sets the sums [panel][rows][32] of columns [low, high) to the bias, or copies them to the output.
static void begin_sums(const polar_selective_args *args, int64_t rows, int64_t low, int64_t high, float *sums) {
  for (int64_t d = low; d < high; d += VW) {
    const __mmask16 mask = (__mmask16)(high - d < VW ? (1u << (high - d)) - 1 : 0xffff);
    const __m512 bias = args->bias ? _mm512_maskz_loadu_ps(mask, args->bias + d) : _mm512_setzero_ps();
    float *to = sums + (d - low) / POLAR_PANEL * POLAR_PANEL * rows + (d - low) % POLAR_PANEL;
    for (int64_t r = 0; r < rows; r++) _mm512_storeu_ps(to + r * POLAR_PANEL, bias);
  }
}

static void end_sums(
  const polar_selective_args *args, int64_t row_low, int64_t rows, int64_t low, int64_t high, const float *sums
) {
  for (int64_t r = 0; r < rows; r++) {
    float *out = args->out + (row_low + r) * args->out_stride;
    for (int64_t d = low; d < high; d += VW) {
      const __mmask16 mask = (__mmask16)(high - d < VW ? (1u << (high - d)) - 1 : 0xffff);
      const int64_t panel = (d - low) / POLAR_PANEL;
      _mm512_mask_storeu_ps(
        out + d, mask, _mm512_loadu_ps(sums + (panel * rows + r) * POLAR_PANEL + (d - low) % POLAR_PANEL));
    }
  }
}

void polar_selective_down_avx512(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch
) {
  static const down_few_kernel few[] = {down_few_1, down_few_2, down_few_3, down_few_4,
                                        down_few_5, down_few_6, down_few_7, down_few_8};
  const int64_t rows = row_high - row_low, block = rows > group_rows ? panel_entries : list_entries;
  const uint16_t *w[list_entries], *next[list_entries];
  if (entries == 0) {
    for (int64_t r = row_low; r < row_high; r++)
      polar_set_bias(args->out + r * args->out_stride + low, args->bias ? args->bias + low : NULL, high - low);
    return;
  }
  for (; high - low > piece_columns; low += piece_columns)
    polar_selective_down_avx512(args, entries, row_low, row_high, low, low + piece_columns, scratch);
  // Sums of few rows lie side by side: in the output, rows apart, they would compete for the sets of L1 with the weights.
  float *sums = (float *)(scratch + group_rows * h_stride);
  if (rows <= group_rows) begin_sums(args, rows, low, high, sums);
  find_rows(next, args, 0, entries, block);
  for (int64_t base = 0; base < entries; base += converted) {
    const int64_t count = entries - base < converted ? entries - base : converted;
    for (int64_t r = 0; r < rows; r++) {
      FN(convert)(scratch + r * h_stride, args->x + (row_low + r) * args->x_stride + base, count);
      scratch[r * h_stride + count] = 0;  // an odd last entry is paired with itself, times zero
    }
    for (int64_t first = 0; first < count; first += block) {
      const int64_t valid = count - first < block ? count - first : block;
      for (int64_t j = 0; j < block; j++) w[j] = next[j];
      find_rows(next, args, base + first + block, entries, block);
      if (rows <= group_rows)
        few[rows - 1](w, next, valid, low, high, scratch + first, sums);
      else
        down_block(
          args, w, next, (valid + 1) / 2 * 2, rows, row_low, low, high, scratch + first, base + first == 0);
    }
  }
  if (rows <= group_rows) end_sums(args, row_low, rows, low, high, sums);
}
#pragma clang attribute pop
#endif
