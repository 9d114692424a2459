// Attention for AVX-512 with BF16. Queries (times the scale of scores) and softmax weights are rounded to bf16; a row's sum
// is that of its rounded weights. A score is one chain over pairs of dimensions and an output element one chain over pairs
// of tokens.
//
// Weights are 2^(score - m) with m an integer that a row raises, after every 32 tokens, only when a score exceeds it by
// more than 8: mostly the running output is not rescaled at all, and nothing is reduced across a vector. Raising is
// decided by a row's own scores at fixed places, so results do not depend on how many pages or rows are worked on at
// once: few rows stream over two pages at a time (decode), many go over four (prefill).
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16

#pragma clang attribute push( \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma"))), apply_to = function)
#include "vec.h"
#include "bf16_dot.h"

// The m of a row that has seen nothing yet.
#define NEVER -3.0e38f

enum {
  STEP_PAGES = 2,
  STEP_TOKENS = STEP_PAGES * POLAR_PAGE,
  STREAM_ROWS = 8,  // up to so many rows, reading the pages takes longer than computing
};

// The mantissas of bf16 numbers, round(128 * (2^(i / 256) - 1)).
static const uint8_t att_mantissas[256] __attribute__((aligned(64))) = {
  0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8,
  9, 9, 9, 10, 10, 10, 11, 11, 12, 12, 12, 13, 13, 13, 14, 14, 15, 15, 15, 16, 16, 17, 17, 17,
  18, 18, 19, 19, 19, 20, 20, 21, 21, 21, 22, 22, 23, 23, 23, 24, 24, 25, 25, 25, 26, 26, 27, 27,
  28, 28, 28, 29, 29, 30, 30, 31, 31, 31, 32, 32, 33, 33, 34, 34, 34, 35, 35, 36, 36, 37, 37, 38,
  38, 38, 39, 39, 40, 40, 41, 41, 42, 42, 43, 43, 43, 44, 44, 45, 45, 46, 46, 47, 47, 48, 48, 49,
  49, 50, 50, 51, 51, 52, 52, 53, 53, 54, 54, 54, 55, 55, 56, 56, 57, 57, 58, 58, 59, 60, 60, 61,
  61, 62, 62, 63, 63, 64, 64, 65, 65, 66, 66, 67, 67, 68, 68, 69, 69, 70, 70, 71, 72, 72, 73, 73,
  74, 74, 75, 75, 76, 76, 77, 78, 78, 79, 79, 80, 80, 81, 82, 82, 83, 83, 84, 84, 85, 86, 86, 87,
  87, 88, 88, 89, 90, 90, 91, 91, 92, 93, 93, 94, 94, 95, 96, 96, 97, 97, 98, 99, 99, 100, 100, 101,
  102, 102, 103, 104, 104, 105, 105, 106, 107, 107, 108, 109, 109, 110, 111, 111, 112, 113, 113, 114, 115, 115, 116, 116,
  117, 118, 118, 119, 120, 120, 121, 122, 123, 123, 124, 125, 125, 126, 127, 127,
};
static const uint16_t att_low_words[32] __attribute__((aligned(64))) = {
  0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
  32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62,
};

// 2^(a - m) and 2^(b - m) as bf16, for integer m and differences of at most 8 or -inf. A difference is rounded to a multiple
// of 2^-8 by adding a number whose last place that is. The lower half of the sum is then an exponent and the index of a
// mantissa. Ports that multiply are left to the products.
POLAR_ALWAYS_INLINE vu att_weights(vf a, vf b, vf m) {
  const vf zero = FN(splat)(49152), bias = FN(splat)(49152 + 127);
  a = (vf)_mm512_max_ps((__m512)(a - m + bias), (__m512)zero);
  b = (vf)_mm512_max_ps((__m512)(b - m + bias), (__m512)zero);
  const __m512i words = _mm512_permutex2var_epi16((__m512i)a, _mm512_load_si512(att_low_words), (__m512i)b);
  const __m512i lower = _mm512_permutex2var_epi8(
    _mm512_load_si512(att_mantissas), words, _mm512_load_si512(att_mantissas + 64));
  const __m512i upper = _mm512_permutex2var_epi8(
    _mm512_load_si512(att_mantissas + 128), words, _mm512_load_si512(att_mantissas + 192));
  const __m512i mantissas = _mm512_mask_mov_epi8(lower, _mm512_movepi8_mask(words), upper);
  const vu low = (vu){0} + 0x007f007f;
  return ((vu)mantissas & low) | ((vu)_mm512_srli_epi16(words, 1) & ~low);
}

// acc plus the sums of pairs of weights.
POLAR_ALWAYS_INLINE vf att_add(vf acc, vu weights) { return FN(pair_dot)(acc, weights, (vu){0} + 0x3f803f80); }

// acc += scores of R rows against P pages over a pair of dimensions. Fetches two lines of a block on the way, unless NULL.
POLAR_ALWAYS_INLINE void att_score_pair(
  const int R, const int P, const uint16_t *const *k, const uint16_t *next, const uint16_t *q, const int64_t head_dim,
  int64_t d, vf *acc
) {
  if (next) {
    __builtin_prefetch(next + d * 2 * POLAR_PAGE, 0, 3);
    __builtin_prefetch(next + d * 2 * POLAR_PAGE + 32, 0, 3);
  }
  vu keys[POLAR_TILE_PAGES];
#pragma clang loop unroll(full)
  for (int p = 0; p < P; p++) keys[p] = FN(load_pairs)(k[p] + d * POLAR_PAGE);
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    const vu pair = FN(splat_pair)(q + r * head_dim + d);
#pragma clang loop unroll(full)
    for (int p = 0; p < P; p++) acc[r * P + p] = FN(pair_dot)(acc[r * P + p], keys[p], pair);
  }
}

// Scores of R rows against P pages. Fetches a block on the way.
POLAR_ALWAYS_INLINE void att_scores(
  const int R, const int P, const uint16_t *const *block, const uint16_t *next, const uint16_t *q,
  const int64_t head_dim, vf *scores
) {
  const uint16_t *k[POLAR_TILE_PAGES];
  vf acc[4 * POLAR_TILE_PAGES];
#pragma clang loop unroll(full)
  for (int p = 0; p < P; p++) k[p] = block[p];
#pragma clang loop unroll(full)
  for (int i = 0; i < R * P; i++) acc[i] = (vf){0};
  if (P == STEP_PAGES) {
    // As long as 64 dimensions are: memory is read faster when every line has a load instruction of its own (see the log).
#pragma clang loop unroll_count(32)
    for (int64_t d = 0; d < head_dim; d += 2) att_score_pair(R, P, k, next, q, head_dim, d, acc);
  } else {
#pragma clang loop unroll_count(2)
    for (int64_t d = 0; d < head_dim; d += 2) att_score_pair(R, P, k, next, q, head_dim, d, acc);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < R * P; i++) scores[i] = acc[i];
}

// acc += P V of R rows, NV vectors of dimensions and one pair of tokens. Elements of `v` outside of `keep` count as
// zero and lanes outside of `lanes` are not read.
POLAR_ALWAYS_INLINE void att_pair(
  const int R, const int NV, const uint16_t *v, const uint16_t *p, uint32_t keep, __mmask16 lanes, vf *acc
) {
  vu pair[4];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) pair[r] = FN(splat_pair)(p + r * POLAR_TILE_TOKENS) & keep;
#pragma clang loop unroll(full)
  for (int j = 0; j < NV; j++) {
    vu values = (vu)_mm512_maskz_loadu_epi32(lanes, v + j * 2 * VW);
    if (keep != 0xffffffffu) values &= keep;
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) acc[r * NV + j] = FN(pair_dot)(acc[r * NV + j], values, pair[r]);
  }
}

// Fetches LINES lines and returns what is behind them, unless NULL.
POLAR_ALWAYS_INLINE const uint16_t *att_fetch_lines(const int LINES, const uint16_t *next) {
  if (!next || LINES == 0) return next;
#pragma clang loop unroll(full)
  for (int i = 0; i < LINES; i++) __builtin_prefetch(next + i * 32, 0, 3);
  return next + LINES * 32;
}

// o += P V of R rows and NV vectors from dimension d0 on, over the first `tokens` tokens of the pages; what o was counts in the
// lanes `seen`. Fetches LINES lines per pair of tokens on the way.
POLAR_ALWAYS_INLINE void att_values(
  const int P, const int R, const int NV, const int LINES, const uint16_t *const *block, const uint16_t *next, int64_t d0,
  const int64_t head_dim, __mmask16 lanes, __mmask16 seen, int tokens, const uint16_t *p, float *o
) {
  vf acc[24];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++)
      acc[r * NV + j] = (vf)_mm512_maskz_loadu_ps(lanes & seen, o + r * head_dim + d0 + j * VW);
  for (int page = 0; page * POLAR_PAGE < tokens; page++) {
    const uint16_t *v = block[page] + POLAR_PAGE * head_dim + d0 * 2;
    const uint16_t *weights = p + page * POLAR_PAGE;
    const int count = tokens - page * POLAR_PAGE < POLAR_PAGE ? tokens - page * POLAR_PAGE : POLAR_PAGE;
    int t = 0;
    if (P == STEP_PAGES) {
#pragma clang loop unroll_count(8)
      for (; t + 2 <= count; t += 2, v += 2 * head_dim) {
        next = att_fetch_lines(LINES, next);
        att_pair(R, NV, v, weights + t, 0xffffffffu, lanes, acc);
      }
    }
    for (; t + 2 <= count; t += 2, v += 2 * head_dim) att_pair(R, NV, v, weights + t, 0xffffffffu, lanes, acc);
    // The second token of the last pair may be one that is not visible, with anything as its value.
    if (t < count) att_pair(R, NV, v, weights + t, 0x0000ffffu, lanes, acc);
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++)
      _mm512_mask_storeu_ps(o + r * head_dim + d0 + j * VW, lanes, (__m512)acc[r * NV + j]);
}

// att_values over all dimensions. How they are cut decides about speed only: enough chains, and lines fetched evenly.
POLAR_ALWAYS_INLINE void att_all_values(
  const int P, const int R, const uint16_t *const *block, const uint16_t *next, const int64_t head_dim, __mmask16 seen,
  int tokens, const uint16_t *p, float *o
) {
  const __mmask16 all = 0xffff;
  if (head_dim == 64) {
    att_values(P, R, 4, 4, block, next, 0, head_dim, all, seen, tokens, p, o);
  } else if (head_dim == 128 && R == 1) {
    att_values(P, R, 4, 8, block, next, 0, head_dim, all, seen, tokens, p, o);
    att_values(P, R, 4, 0, block, NULL, 4 * VW, head_dim, all, seen, tokens, p, o);
  } else if (head_dim == 128 && R <= 3) {
    att_values(P, R, 8, 8, block, next, 0, head_dim, all, seen, tokens, p, o);
  } else if (head_dim == 128) {
    att_values(P, 2, 8, 4, block, next, 0, head_dim, all, seen, tokens, p, o);
    const uint16_t *rest = next ? next + POLAR_PAGE * head_dim : NULL;
    att_values(P, 2, 8, 4, block, rest, 0, head_dim, all, seen, tokens, p + 2 * POLAR_TILE_TOKENS, o + 2 * head_dim);
  } else {
    int64_t d = 0;
    for (; d + 4 * VW <= head_dim; d += 4 * VW)
      att_values(P, R, 4, 4, block, next ? next + d * POLAR_PAGE : NULL, d, head_dim, all, seen, tokens, p, o);
    for (; d < head_dim; d += VW) {
      const __mmask16 lanes = head_dim - d < VW ? (__mmask16)((1u << (head_dim - d)) - 1) : all;
      att_values(P, R, 1, 1, block, next ? next + d * POLAR_PAGE : NULL, d, head_dim, lanes, seen, tokens, p, o);
    }
  }
}

// Raises a row's m to what the scores a and b of a step ask for, and rescales its sum and its output so far. Scores that are
// not numbers, or infinite, make the sum none.
static __attribute__((noinline)) float att_raise(float m, __m512 a, __m512 b, vf *sum, float *o, int64_t head_dim) {
  const float raised = __builtin_ceilf(_mm512_reduce_max_ps(_mm512_max_ps(a, b)));
  if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) || raised == __builtin_inff()) {
    *sum = FN(splat)(__builtin_nanf(""));
    return m;
  }
  if (m == NEVER) return raised;  // nothing has been summed up
  const vf factor = (vf)_mm512_scalef_ps(_mm512_set1_ps(1), _mm512_set1_ps(m - raised));
  *sum = *sum * factor;
  for (int64_t d = 0; d < head_dim; d++) o[d] = o[d] * factor[0];
  return raised;
}

// The lanes of `lanes` in which a score asks for no other m than m8 - 8.
POLAR_ALWAYS_INLINE __mmask16 att_fits(__mmask16 lanes, vf scores, vf m8) {
  return _mm512_mask_cmp_ps_mask(lanes, (__m512)scores, (__m512)m8, _CMP_LE_OQ);
}

// The lanes of the output that count in the step that starts at `start` of the span: none in the first one.
POLAR_ALWAYS_INLINE __mmask16 att_seen(const polar_span *span, int start) {
  const int most = span->rows > STREAM_ROWS ? POLAR_TILE_PAGES : STEP_PAGES;
  return start == span->first / most * most * POLAR_PAGE ? 0 : 0xffff;
}

// One softmax step of R rows over the two pages from `page` of the step on, of whose scores y has P vectors per row.
POLAR_ALWAYS_INLINE void att_accumulate(
  const int R, const int P, const int64_t head_dim, const polar_span *span, const uint16_t *const *block,
  const int page, const uint16_t *next, int row, __mmask16 seen, int visible, const vf *y, vf *sums
) {
  float *o = span->o + row * head_dim;
  uint16_t p[4 * POLAR_TILE_TOKENS] __attribute__((aligned(64)));
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    const vf a = y[r * P + page], b = y[r * P + page + 1], m8 = FN(splat)(span->m[row + r] + 8);
    if (att_fits(att_fits(0xffff, a, m8), b, m8) != 0xffff)
      span->m[row + r] =
        att_raise(span->m[row + r], (__m512)a, (__m512)b, &sums[row + r], o + r * head_dim, head_dim);
    const vu weights = att_weights(a, b, FN(splat)(span->m[row + r]));
    _mm512_store_si512(p + r * POLAR_TILE_TOKENS, (__m512i)weights);
    sums[row + r] = att_add(sums[row + r], weights);
  }
  att_all_values(P, R, block + page, next, head_dim, seen, visible - page * POLAR_PAGE, p, o);
}

// Masks what is not visible in the scores of R rows against P pages, of which the first one's tokens start at `start` of the
// span; returns how many tokens are, of the row that sees most.
POLAR_ALWAYS_INLINE int att_mask(const int R, const int P, const polar_span *span, int start, int row, vf *y) {
  const int tokens = P * POLAR_PAGE;
  int visible = 0;
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    const int low = span->starts[row + r] - start, high = span->limits[row + r] - start;
    visible = high > visible ? high : visible;
    if (low <= 0 && high >= tokens) continue;
    uint64_t mask = high <= 0 ? 0 : high >= 64 ? ~0ull : (1ull << high) - 1;
    if (low > 0) mask = low >= 64 ? 0 : mask & ~((1ull << low) - 1);
#pragma clang loop unroll(full)
    for (int p = 0; p < P; p++)
      y[r * P + p] = (vf)_mm512_mask_mov_ps(
        _mm512_set1_ps(-__builtin_inff()), (__mmask16)(mask >> p * POLAR_PAGE), (__m512)y[r * P + p]);
  }
  return visible > tokens ? tokens : visible;
}

// One step of R rows, the first of which is `row`, over two pages of which the first one's tokens start at `start` of the
// span. Fetches the blocks `next` on the way, unless NULL.
POLAR_ALWAYS_INLINE void att_rows(
  const int R, const int64_t head_dim, const polar_span *span, const uint16_t *const *block,
  const uint16_t *const *next, int start, int row, vf *sums
) {
  vf y[4 * STEP_PAGES];
  att_scores(R, STEP_PAGES, block, next ? next[0] : NULL, span->scratch + row * head_dim, head_dim, y);
  const int visible = att_mask(R, STEP_PAGES, span, start, row, y);
  att_accumulate(R, STEP_PAGES, head_dim, span, block, 0, next ? next[1] : NULL, row, att_seen(span, start), visible, y, sums);
}

// acc += scores of four rows against four pages over dimensions d ..< end.
POLAR_ALWAYS_INLINE void att_score_range(
  const uint16_t *const *block, const uint16_t *q, const int64_t head_dim, int64_t d, const int64_t end, vf *acc
) {
  enum { R = 4, P = POLAR_TILE_PAGES };
#pragma clang loop unroll(disable)
  for (; d < end; d += 2) att_score_pair(R, P, block, NULL, q, head_dim, d, acc);
}

// The m that a row that has seen nothing takes from its first scores; NEVER where there are none, or none that will do.
POLAR_ALWAYS_INLINE float att_first(vf a, vf b) {
  const float top = __builtin_ceilf(_mm512_reduce_max_ps(_mm512_max_ps((__m512)a, (__m512)b)));
  const int numbers = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q) == 0;
  return numbers && top > NEVER && top < __builtin_inff() ? top : NEVER;
}

// True when the scores of four rows against four pages ask for no other m. Rows that have seen nothing get theirs.
POLAR_ALWAYS_INLINE int att_all_fit(const polar_span *span, int row, const vf *y) {
  enum { R = 4, P = POLAR_TILE_PAGES };
  int all = 0xffff;
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    if (span->m[row + r] == NEVER) span->m[row + r] = att_first(y[r * P], y[r * P + 1]);
    const vf m8 = FN(splat)(span->m[row + r] + 8);
    __mmask16 fits = 0xffff;
#pragma clang loop unroll(full)
    for (int p = 0; p < P; p++) fits = att_fits(fits, y[r * P + p], m8);
    all &= fits;
  }
  return all == 0xffff;
}

// The weights of a row for two pages of which no score asks for another m.
POLAR_ALWAYS_INLINE void att_weigh(const polar_span *span, int row, const vf *y, uint16_t *p, vf *sums) {
  const vu weights = att_weights(y[0], y[1], FN(splat)(span->m[row]));
  _mm512_store_si512(p, (__m512i)weights);
  sums[row] = att_add(sums[row], weights);
}

// Rows `low` ..< `high`, four at a time, over four pages. The weights of four rows are computed between the products of the
// scores of the next four.
POLAR_ALWAYS_INLINE void att_tile(
  const int64_t head_dim, const polar_span *span, const uint16_t *const *block, int start, int low, int high, vf *sums
) {
  enum { R = 4, P = POLAR_TILE_PAGES, PARTS = R * P / STEP_PAGES };
  const __mmask16 seen = att_seen(span, start);
  vf y[R * P];
  if (low >= high) return;
  att_scores(R, P, block, NULL, span->scratch + low * head_dim, head_dim, y);
  for (int row = low; row < high; row += R) {
    uint16_t p[R * POLAR_TILE_TOKENS] __attribute__((aligned(64)));
    int visible = att_mask(R, P, span, start, row, y);
    const uint16_t *q = span->scratch + (row + R) * head_dim;
    if (!att_all_fit(span, row, y)) {
      const int first = visible < STEP_TOKENS ? visible : STEP_TOKENS;
      att_accumulate(R, P, head_dim, span, block, 0, NULL, row, seen, first, y, sums);
      att_accumulate(R, P, head_dim, span, block, STEP_PAGES, NULL, row, 0xffff, visible, y, sums);
      if (row + R < high) att_scores(R, P, block, NULL, q, head_dim, y);
      continue;
    }
    if (row + R < high) {
      vf acc[R * P];
#pragma clang loop unroll(full)
      for (int i = 0; i < R * P; i++) acc[i] = (vf){0};
#pragma clang loop unroll(full)
      for (int i = 0; i < PARTS; i++) {
        att_weigh(span, row + i * R / PARTS, y + i * STEP_PAGES, p + i * STEP_TOKENS, sums);
        // Loads that are made earlier would push the sums out of the registers.
        __asm__ volatile("" : : : "memory");
        att_score_range(block, q, head_dim, head_dim / 2 * i / PARTS * 2, head_dim / 2 * (i + 1) / PARTS * 2, acc);
      }
#pragma clang loop unroll(full)
      for (int i = 0; i < R * P; i++) y[i] = acc[i];
    } else {
#pragma clang loop unroll(full)
      for (int i = 0; i < PARTS; i++)
        att_weigh(span, row + i * R / PARTS, y + i * STEP_PAGES, p + i * STEP_TOKENS, sums);
    }
    att_all_values(P, R, block, NULL, head_dim, seen, visible, p, span->o + row * head_dim);
  }
}

typedef void (*att_function)(
  const polar_span *, const uint16_t *const *block, const uint16_t *const *next, int start, int row, vf *sums);

typedef void (*att_tile_function)(
  const polar_span *, const uint16_t *const *block, int start, int low, int high, vf *sums);

#define ATTENTION_ROWS(R, D, HEAD_DIM)                                                                     \
  static void att_rows_##R##_##D(                                                                          \
    const polar_span *span, const uint16_t *const *block, const uint16_t *const *next, int start, int row, \
    vf *sums                                                                                               \
  ) {                                                                                                      \
    att_rows(R, HEAD_DIM, span, block, next, start, row, sums);                                            \
  }
#define ATTENTION_SIZE(D, HEAD_DIM)                                                                             \
  ATTENTION_ROWS(1, D, HEAD_DIM)                                                                                \
  ATTENTION_ROWS(2, D, HEAD_DIM)                                                                                \
  ATTENTION_ROWS(3, D, HEAD_DIM)                                                                                \
  ATTENTION_ROWS(4, D, HEAD_DIM)                                                                                \
  static void att_tile_##D(                                                                                     \
    const polar_span *span, const uint16_t *const *block, int start, int low, int high, vf *sums                \
  ) {                                                                                                           \
    att_tile(HEAD_DIM, span, block, start, low, high, sums);                                                    \
  }
ATTENTION_SIZE(64, 64)
ATTENTION_SIZE(128, 128)
ATTENTION_SIZE(any, span->head_dim)

#define ATTENTION_FUNCTIONS(D) {att_rows_1_##D, att_rows_2_##D, att_rows_3_##D, att_rows_4_##D}
static const att_function att_functions[3][4] = {
  ATTENTION_FUNCTIONS(64), ATTENTION_FUNCTIONS(128), ATTENTION_FUNCTIONS(any)};
static const att_tile_function att_tiles[3] = {att_tile_64, att_tile_128, att_tile_any};

// The block of the span's page `page`. Pages before the first one that counts and behind the last are masked; what is
// read for them is a page that counts.
static const uint16_t *att_block(const polar_span *span, int page) {
  const int here = page < span->first ? span->first : page < span->pages ? page : span->pages - 1;
  return (const uint16_t *)(const void *)(span->blocks + polar_span_page(span, here) * span->block_bytes);
}

// The block of a page to fetch, which may be one of what is read after the span; NULL where there is none.
static const uint16_t *att_next(const polar_span *span, int page) {
  if (page < span->pages) return att_block(span, page);
  return page - span->pages < POLAR_NEXT_PAGES ? (const void *)span->next[page - span->pages] : NULL;
}

void polar_attention_queries_avx512(const polar_queries *queries) {
  if (queries->type == POLAR_KV_INT8) {
    polar_attention_int8_queries_avx512(queries);
    return;
  }
  const int64_t head_dim = queries->head_dim;
  uint16_t *out = queries->scratch;
  for (int r = 0; r < queries->rows; r++, out += head_dim) {
    const float *q = queries->source[r];
    int64_t d = 0;
    for (; d + VW <= head_dim; d += VW) FN(store_bf16)(out + d, FN(load)(q + d) * queries->scale);
    for (; d < head_dim; d++) out[d] = polar_bf16(q[d] * queries->scale);
  }
}

void polar_attention_avx512(const polar_span *span) {
  if (span->type == POLAR_KV_INT8) {
    polar_attention_int8_avx512(span);
    return;
  }
  const int size = span->head_dim == 64 ? 0 : span->head_dim == 128 ? 1 : 2;
  const att_function *functions = att_functions[size];
  vf sums[POLAR_SPAN_ROWS];
  for (int r = 0; r < span->rows; r++) {
    sums[r] = (vf){0};
    span->m[r] = NEVER;
  }
  const int most = span->rows > STREAM_ROWS ? POLAR_TILE_PAGES : STEP_PAGES;
  // Pages from those that are worked on to those that are fetched.
  const int ahead = span->head_dim > 64 ? STEP_PAGES : 2 * STEP_PAGES;
  for (int page = span->first / most * most, pages; page < span->pages; page += pages) {
    pages = span->pages - page > STEP_PAGES ? most : STEP_PAGES;
    const uint16_t *block[POLAR_TILE_PAGES], *following[STEP_PAGES];
    for (int i = 0; i < pages; i++) block[i] = att_block(span, page + i);
    const uint16_t *const *next = NULL;
    int blocked = 0;
    if (span->fetch) polar_fetch_step(span->fetch);
    if (most == STEP_PAGES) {
      for (int i = 0; i < STEP_PAGES; i++) following[i] = att_next(span, page + ahead + i);
      next = following;
    } else if (pages == POLAR_TILE_PAGES) {
      // Rows ascend, and the first ones may not see the second half.
      for (; blocked + 4 <= span->rows && span->limits[blocked + 3] <= (page + STEP_PAGES) * POLAR_PAGE; blocked += 4)
        functions[3](span, block, NULL, page * POLAR_PAGE, blocked, sums);
      const int rest = blocked + (span->rows - blocked) / 4 * 4;
      att_tiles[size](span, block, page * POLAR_PAGE, blocked, rest, sums);
      blocked = rest;
    }
    for (int half = 0; half < pages; half += STEP_PAGES) {
      for (int row = blocked; row < span->rows;) {
        const int left = span->rows - row;
        const int count = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;
        functions[count - 1](span, block + half, next, (page + half) * POLAR_PAGE, row, sums);
        next = NULL;
        row += count;
      }
    }
  }
  for (int r = 0; r < span->rows; r++) span->l[r] = FN(sum)(sums[r]);
}
#pragma clang attribute pop
#endif
