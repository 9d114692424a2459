// The second half of a selective MLP for AVX-512 with BF16. Pairs of chosen neurons are interleaved in registers or L1, and
// every result is the chain over pairs of neurons that the linear layer computes.
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
  block_entries = step_lines,  // neurons between stores of the accumulators, for one group of rows,
  panel_entries = 32,     // or for several
  list_entries = 64,      // neurons that share stretches of columns, for one group of rows:
  stretch = 512,          // columns, whose sums stay in L1 while the blocks of these neurons pass
  piece_columns = 16384,  // columns whose sums of one group of rows fit into scratch
  converted = 512,        // inputs that become bf16 at a time
  h_stride = converted + 32,
};

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

POLAR_ALWAYS_INLINE place take(reading *r) {
  const place here = {r->rows + r->block * block_entries, r->at};
  advance(r);
  return here;
}

// A panel of columns of a block of neurons, for R rows, on top of c [R][32]. A line of each row of `fetched` is fetched; those of
// the first `inside` places lie in the rows `w` themselves and are addressed with fewer instructions.
POLAR_ALWAYS_INLINE void down_panel(
  const int R, const int inside, const uint16_t *const *w, int64_t d, __mmask32 mask, int64_t pairs, const uint16_t *h,
  const place *fetched, float *c
) {
  vf acc[2 * group_rows];
  vu weights[2];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) acc[i] = FN(load)(c + i * VW);
#pragma clang loop unroll(full)
  for (int k = 0; k < block_entries / 2; k++) {
    if (k >= pairs) continue;
    interleave(w[2 * k] + d, w[2 * k + 1] + d, mask, weights);
#pragma clang loop unroll(full)
    for (int i = 0; i < 3; i++) {
      const uint16_t *const *rows = i < inside ? w : fetched[i].rows;
      const int64_t at = i < inside ? d + (i == 0 ? near_steps : middle_steps) * POLAR_PANEL : fetched[i].position;
      __builtin_prefetch(rows[2 * k] + at, 0, 3);
      __builtin_prefetch(rows[2 * k + 1] + at, 0, 3);
    }
    down_step(R, weights, h + 2 * k, acc);
    // The compiler would load for several pairs before it multiplies, and spill what it has no registers for.
#pragma clang loop unroll(full)
    for (int i = 0; i < 2 * R; i++) __asm__ volatile("" : "+v"(acc[i])::"memory");
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) FN(store)(c + i * VW, acc[i]);
}

// Columns [low, high) of up to list_entries neurons, for R rows, on top of `sums` [panel][R][32].
POLAR_ALWAYS_INLINE void down_few(
  const int R, const uint16_t *const *rows, const uint16_t *const *next, int64_t entries, int64_t low, int64_t high,
  const uint16_t *h, float *sums
) {
  const int64_t blocks = (entries + block_entries - 1) / block_entries;
  // Where the lines of steps lie, by the number of the step modulo what there is room for.
  enum { places = 2 * far_steps };
  place order[places];
  reading read = {rows, next, blocks, low, high, 0, low, low};
  for (int i = 0; i < far_steps; i++) order[i] = take(&read);
  unsigned step = 0;
  for (int64_t begin = low; begin < high; begin += stretch, sums += R * stretch)
    for (int64_t b = 0; b < blocks; b++) {
      const uint16_t *const *w = rows + b * block_entries;
      const uint16_t *x = h + b * block_entries;
      const int64_t end = begin + stretch < high ? begin + stretch : high;
      const int64_t pairs = (entries - b * block_entries + 1) / 2;
      float *c = sums;
      for (int64_t d = begin; d < end; d += POLAR_PANEL, c += R * POLAR_PANEL, step++) {
        const __mmask32 mask = high - d < POLAR_PANEL ? (1u << (high - d)) - 1 : ~0u;
        order[(step + far_steps) % places] = take(&read);
        const place fetched[3] = {
          order[(step + near_steps) % places], order[(step + middle_steps) % places], order[(step + far_steps) % places]};
        if (d + middle_steps * POLAR_PANEL < end)
          down_panel(R, 2, w, d, mask, pairs, x, fetched, c);
        else
          down_panel(R, 0, w, d, mask, pairs, x, fetched, c);
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
    const place near = ahead(w, next, d - low, lines_ahead / panel_entries * 32, high - low);
    const place far = ahead(w, next, d - low, far_steps * step_lines / panel_entries * 32, high - low);
    const int64_t near_at = near.position + low, far_at = far.position + low;
#pragma clang loop unroll_count(4)
    for (int64_t k = 0; k < entries / 2; k++) {
      interleave(w[2 * k] + d, w[2 * k + 1] + d, mask, (vu *)(panel + k * 64));
      __builtin_prefetch(near.rows[2 * k] + near_at, 0, 3);
      __builtin_prefetch(near.rows[2 * k + 1] + near_at, 0, 3);
      __builtin_prefetch(far.rows[2 * k] + far_at, 0, 3);
      __builtin_prefetch(far.rows[2 * k + 1] + far_at, 0, 3);
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
