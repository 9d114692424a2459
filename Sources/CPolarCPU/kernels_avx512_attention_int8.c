// Attention over an int8 cache for AVX-512 with VNNI. Queries become integers of 16 bits and softmax weights of 15, as two
// bytes each, so that both products are exact sums of integers; what is rounded besides is what f32 arithmetic rounds.
//
// As in kernels_avx512_attention.c a row's m is an integer that it raises every 32 tokens by its own scores alone; its
// weights are cut to 15 bits per 32 tokens, too. So results do not depend on how many rows are worked on at once.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16

#pragma clang attribute push( \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), apply_to = function)
#include "vec.h"

enum {
  STEP_PAGES = 2,
  STEP_TOKENS = STEP_PAGES * POLAR_PAGE,
  AHEAD = 4,  // pages from one whose scores are computed to the one that is fetched meanwhile
};

// The span's queries as bytes, and what makes a score of a sum.
typedef struct {
  const int8_t *high, *low;           // [rows][padded]
  int64_t padded;
  float factor[POLAR_SPAN_ROWS];      // of a sum, for a score in powers of two
  int32_t high_start[POLAR_SPAN_ROWS], low_start[POLAR_SPAN_ROWS];  // -128 * the sum of the bytes
} att_queries;

// Four bytes in every lane.
POLAR_ALWAYS_INLINE __m512i att_splat4(const void *bytes) {
  int32_t four;
  __builtin_memcpy(&four, bytes, sizeof four);
  return _mm512_set1_epi32(four);
}

// The lanes of a vector of which `left` elements are left.
POLAR_ALWAYS_INLINE __mmask16 att_lanes(int64_t left) {
  return left >= VW ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

static void att_set_queries(const polar_span *span, att_queries *queries) {
  const int64_t padded = polar_kv_padded(span->head_dim);
  int8_t *high = (int8_t *)span->scratch, *low = high + span->rows * padded;
  queries->high = high;
  queries->low = low;
  queries->padded = padded;
  for (int r = 0; r < span->rows; r++, high += padded, low += padded) {
    const float *q = span->q + (int64_t)r * span->head_dim;
    __m512 largest = _mm512_setzero_ps();
    for (int64_t d = 0; d < span->head_dim; d += VW)
      largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(att_lanes(span->head_dim - d), q + d)));
    const float most = _mm512_reduce_max_ps(largest);
    // Codes reach 127 * 256 + 127.
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 32639.0f / most : 0);
    __m512i high_sum = _mm512_setzero_si512(), low_sum = _mm512_setzero_si512();
    for (int64_t d = 0; d < padded; d += VW) {
      const __m512 x = _mm512_maskz_loadu_ps(att_lanes(span->head_dim - d), q + d);
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
      const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(128)), 8);
      const __m512i lower = _mm512_sub_epi32(code, _mm512_slli_epi32(upper, 8));
      high_sum = _mm512_add_epi32(high_sum, upper);
      low_sum = _mm512_add_epi32(low_sum, lower);
      _mm512_mask_cvtepi32_storeu_epi8(high + d, att_lanes(padded - d), upper);
      _mm512_mask_cvtepi32_storeu_epi8(low + d, att_lanes(padded - d), lower);
    }
    queries->factor[r] = span->scale * (most / 32639.0f);
    queries->high_start[r] = -128 * _mm512_reduce_add_epi32(high_sum);
    queries->low_start[r] = -128 * _mm512_reduce_add_epi32(low_sum);
  }
}

// 2^(y - m) for integer m, by a fit of 2^f on -1/2 ... 1/2 that is off by at most 1e-7; 0 for y = -inf.
POLAR_ALWAYS_INLINE vf att_weight(vf y, vf m) {
  const vf f = (vf)_mm512_reduce_ps((__m512)y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  vf p = FN(splat)(1.326473133e-3f);
  p = p * f + 9.671513410e-3f;
  p = p * f + 5.550733728e-2f;
  p = p * f + 2.402224207e-1f;
  p = p * f + 6.931469776e-1f;
  p = p * f + 1.0f;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)(y - f - m));
}

// Sixteen bf16 as f32.
POLAR_ALWAYS_INLINE vf att_scales(const char *scales) {
  const __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)scales);
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}

// Scores of R rows against two pages, in powers of two. Fetches a block on the way.
POLAR_ALWAYS_INLINE void att_scores(
  const int R, const int64_t padded, const att_queries *queries, const char *const *block, const char *next, int row,
  float *scores
) {
  __m512i high[8], low[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) {
    high[i] = _mm512_set1_epi32(queries->high_start[row + i / 2]);
    low[i] = _mm512_set1_epi32(queries->low_start[row + i / 2]);
  }
  const char *first = block[0], *second = block[1];
  const int8_t *q_high = queries->high + row * padded, *q_low = queries->low + row * padded;
  for (int64_t d = 0; d < padded; d += 4) {
    if (next) {
      __builtin_prefetch(next + d * 32, 0, 3);
      __builtin_prefetch(next + d * 32 + 64, 0, 3);
    }
    // Codes plus 128 are unsigned, as the instruction wants its first factor.
    const __m512i sign = _mm512_set1_epi32((int)0x80808080u);
    const __m512i a = _mm512_xor_si512(_mm512_loadu_si512(first + d * POLAR_PAGE), sign);
    const __m512i b = _mm512_xor_si512(_mm512_loadu_si512(second + d * POLAR_PAGE), sign);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const __m512i h = att_splat4(q_high + r * padded + d), l = att_splat4(q_low + r * padded + d);
      high[2 * r] = _mm512_dpbusd_epi32(high[2 * r], a, h);
      low[2 * r] = _mm512_dpbusd_epi32(low[2 * r], a, l);
      high[2 * r + 1] = _mm512_dpbusd_epi32(high[2 * r + 1], b, h);
      low[2 * r + 1] = _mm512_dpbusd_epi32(low[2 * r + 1], b, l);
    }
  }
  if (next) __builtin_prefetch(next + 2 * POLAR_PAGE * padded, 0, 3);
  const vf scales[2] = {att_scales(first + 2 * POLAR_PAGE * padded), att_scales(second + 2 * POLAR_PAGE * padded)};
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) {
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[i], 8), low[i]);
    const vf factor = scales[i % 2] * queries->factor[row + i / 2];
    _mm512_store_ps(scores + i * VW, (__m512)((vf)_mm512_cvtepi32_ps(sum) * factor));
  }
}

// Raises a row's m to what the scores of a step ask for, and rescales its sum and its output so far.
static __attribute__((noinline)) float att_raise(float m, __m512 top, vf *sum, float *o, int64_t head_dim) {
  const float raised = __builtin_ceilf(_mm512_reduce_max_ps(top));
  const vf factor = (vf)_mm512_scalef_ps(_mm512_set1_ps(1), _mm512_set1_ps(m - raised));
  *sum = *sum * factor;
  for (int64_t d = 0; d < head_dim; d++) o[d] = o[d] * factor[0];
  return raised;
}

// The weights of R rows for the step's tokens as two bytes each, and the factors of the sums they will be in.
POLAR_ALWAYS_INLINE void att_weights(
  const int R, const polar_span *span, const vf *value_scales, int row, const vf *y, uint8_t *high, uint8_t *low,
  float *factors, vf *sums
) {
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    const __m512 top = _mm512_max_ps((__m512)y[2 * r], (__m512)y[2 * r + 1]);
    if (_mm512_cmp_ps_mask(top, _mm512_set1_ps(span->m[row + r] + 8), _CMP_GT_OQ))
      span->m[row + r] = att_raise(
        span->m[row + r], top, &sums[row + r], span->o + (row + r) * (int64_t)span->head_dim, span->head_dim);
    const vf m = FN(splat)(span->m[row + r]);
    vf a = att_weight(y[2 * r], m), b = att_weight(y[2 * r + 1], m);
    sums[row + r] = sums[row + r] + a;
    sums[row + r] = sums[row + r] + b;
    a = a * value_scales[0];
    b = b * value_scales[1];
    // The largest weight comes to lie in 2^14 ..< 2^15.
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps((__m512)a, (__m512)b));
    const __m128 exponent = _mm_getexp_ss(_mm_set_ss(largest), _mm_set_ss(largest));
    const float e = largest > 0x1p-100f ? _mm_cvtss_f32(exponent) : -100;
    const __m512 scale = _mm512_scalef_ps(_mm512_set1_ps(1), _mm512_set1_ps(14 - e));
    factors[r] = _mm512_cvtss_f32(_mm512_scalef_ps(_mm512_set1_ps(1), _mm512_set1_ps(e - 14)));
    const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps((__m512)a, scale));
    const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps((__m512)b, scale));
    _mm_storeu_si128((__m128i *)(void *)(low + r * STEP_TOKENS), _mm512_cvtepi32_epi8(first));
    _mm_storeu_si128((__m128i *)(void *)(low + r * STEP_TOKENS + POLAR_PAGE), _mm512_cvtepi32_epi8(second));
    _mm_storeu_si128((__m128i *)(void *)(high + r * STEP_TOKENS), _mm512_cvtepi32_epi8(_mm512_srli_epi32(first, 8)));
    _mm_storeu_si128(
      (__m128i *)(void *)(high + r * STEP_TOKENS + POLAR_PAGE), _mm512_cvtepi32_epi8(_mm512_srli_epi32(second, 8)));
  }
}

// o += P V of R rows and NV vectors from dimension d0 on, over the first `tokens` tokens. Fetches a line per line read.
POLAR_ALWAYS_INLINE void att_values(
  const int R, const int NV, const char *const *block, const char *next, int64_t d0, const int64_t padded,
  __mmask16 lanes, int tokens, const uint8_t *high, const uint8_t *low, const float *factors, float *o,
  int64_t head_dim
) {
  __m512i sums[16];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R * NV; i++) sums[i] = _mm512_setzero_si512();
  for (int page = 0; page * POLAR_PAGE < tokens; page++) {
    const char *v = block[page] + POLAR_PAGE * padded + d0 * 4;
    const int count = tokens - page * POLAR_PAGE < POLAR_PAGE ? tokens - page * POLAR_PAGE : POLAR_PAGE;
    // Tokens behind the last have weight 0, and a code is never more than a number.
    for (int t = 0; t < count; t += 4, v += 4 * padded) {
      if (next) {
#pragma clang loop unroll(full)
        for (int j = 0; j < NV; j++) __builtin_prefetch(next + j * 64, 0, 3);
        next += NV * 64;
      }
      __m512i values[4];
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) values[j] = _mm512_maskz_loadu_epi32(lanes, v + j * 64);
#pragma clang loop unroll(full)
      for (int r = 0; r < R; r++) {
        const int at = r * STEP_TOKENS + page * POLAR_PAGE + t;
        const __m512i h = att_splat4(high + at), l = att_splat4(low + at);
#pragma clang loop unroll(full)
        for (int j = 0; j < NV; j++) {
          const int i = 2 * (r * NV + j);
          sums[i] = _mm512_dpbusd_epi32(sums[i], h, values[j]);
          sums[i + 1] = _mm512_dpbusd_epi32(sums[i + 1], l, values[j]);
        }
      }
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) {
      const int i = 2 * (r * NV + j);
      const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(sums[i], 8), sums[i + 1]);
      float *out = o + r * head_dim + d0 + j * VW;
      const vf before = (vf)_mm512_maskz_loadu_ps(lanes, out);
      _mm512_mask_storeu_ps(out, lanes, (__m512)((vf)_mm512_cvtepi32_ps(sum) * factors[r] + before));
    }
}

// The rest of a step of R rows, the first of which is `row`, over two pages of which the first one's tokens start at
// `start` of the span, given its scores. Fetches a block on the way.
POLAR_ALWAYS_INLINE void att_accumulate(
  const int R, const int64_t head_dim, const polar_span *span, const char *const *block, const char *next, int start,
  int row, const float *scores, vf *sums
) {
  const int64_t padded = polar_kv_padded(head_dim);
  vf y[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) y[i] = (vf)_mm512_load_ps(scores + i * VW);
  int visible = 0;
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    const int low = span->starts[row + r] - start, high = span->limits[row + r] - start;
    visible = high > visible ? high : visible;
    if (low <= 0 && high >= STEP_TOKENS) continue;
    uint32_t mask = high <= 0 ? 0 : high >= STEP_TOKENS ? 0xffffffffu : (1u << high) - 1;
    if (low > 0) mask = low >= STEP_TOKENS ? 0 : mask & ~((1u << low) - 1);
#pragma clang loop unroll(full)
    for (int p = 0; p < STEP_PAGES; p++)
      y[2 * r + p] = (vf)_mm512_mask_mov_ps(
        _mm512_set1_ps(-__builtin_inff()), (__mmask16)(mask >> p * POLAR_PAGE), (__m512)y[2 * r + p]);
  }
  visible = visible > STEP_TOKENS ? STEP_TOKENS : visible;

  uint8_t high[4 * STEP_TOKENS] __attribute__((aligned(64))), low[4 * STEP_TOKENS] __attribute__((aligned(64)));
  float factors[4];
  const int64_t scales = 2 * POLAR_PAGE * padded + 2 * POLAR_PAGE;
  vf value_scales[2] = {att_scales(block[0] + scales), att_scales(block[1] + scales)};
  if (visible < STEP_TOKENS) {
    // Behind the last token there may be anything.
    value_scales[0] = (vf)_mm512_maskz_mov_ps(att_lanes(visible), (__m512)value_scales[0]);
    value_scales[1] = (vf)_mm512_maskz_mov_ps(att_lanes(visible - POLAR_PAGE), (__m512)value_scales[1]);
  }
  att_weights(R, span, value_scales, row, y, high, low, factors, sums);

  float *o = span->o + row * head_dim;
  if (next) __builtin_prefetch(next + 2 * POLAR_PAGE * padded, 0, 3);
  int64_t d = 0;
  for (; R <= 2 && d + 4 * VW <= head_dim; d += 4 * VW)
    att_values(
      R, 4, block, next ? next + d * 32 : NULL, d, padded, 0xffff, visible, high, low, factors, o, head_dim);
  for (; d + 2 * VW <= head_dim; d += 2 * VW)
    att_values(
      R, 2, block, next ? next + d * 32 : NULL, d, padded, 0xffff, visible, high, low, factors, o, head_dim);
  for (; d < head_dim; d += VW) {
    att_values(R, 1, block, NULL, d, padded, att_lanes(head_dim - d), visible, high, low, factors, o, head_dim);
  }
}

// The two halves of a step for some number of rows and some head_dim.
typedef struct {
  void (*scores)(
    const polar_span *, const att_queries *, const char *const *block, const char *next, int row, float *scores);
  void (*accumulate)(
    const polar_span *, const char *const *block, const char *next, int start, int row, const float *scores,
    vf *sums);
} att_functions;

#define ATTENTION_ROWS(R, D, HEAD_DIM)                                                                     \
  static void att_scores_##R##_##D(                                                                        \
    const polar_span *span, const att_queries *queries, const char *const *block, const char *next, int row, \
    float *scores                                                                                          \
  ) {                                                                                                      \
    (void)span;                                                                                            \
    att_scores(R, polar_kv_padded(HEAD_DIM), queries, block, next, row, scores);                           \
  }                                                                                                        \
  static void att_accumulate_##R##_##D(                                                                    \
    const polar_span *span, const char *const *block, const char *next, int start, int row,                \
    const float *scores, vf *sums                                                                          \
  ) {                                                                                                      \
    att_accumulate(R, HEAD_DIM, span, block, next, start, row, scores, sums);                              \
  }
#define ATTENTION_SIZES(R)     \
  ATTENTION_ROWS(R, 64, 64)    \
  ATTENTION_ROWS(R, 128, 128)  \
  ATTENTION_ROWS(R, any, span->head_dim)
ATTENTION_SIZES(1)
ATTENTION_SIZES(2)
ATTENTION_SIZES(3)
ATTENTION_SIZES(4)

#define ATTENTION_FUNCTIONS(R, D) {att_scores_##R##_##D, att_accumulate_##R##_##D}
#define ATTENTION_TABLE(D) \
  {ATTENTION_FUNCTIONS(1, D), ATTENTION_FUNCTIONS(2, D), ATTENTION_FUNCTIONS(3, D), ATTENTION_FUNCTIONS(4, D)}
static const att_functions att_tables[3][4] = {ATTENTION_TABLE(64), ATTENTION_TABLE(128), ATTENTION_TABLE(any)};

// The span's page `page`. Pages before the first one that counts and behind the last are masked; what is read for them is
// one that counts.
static const char *att_block(const polar_span *span, int page) {
  const int here = page < span->first ? span->first : page < span->pages ? page : span->pages - 1;
  return span->blocks + polar_span_page(span, here) * span->block_bytes;
}

// A page to fetch, which may be one that is read after the span; NULL where there is none.
static const char *att_next(const polar_span *span, int page) {
  if (page < span->pages) return att_block(span, page);
  return page - span->pages < POLAR_TILE_PAGES ? span->next[page - span->pages] : NULL;
}

void polar_attention_int8_avx512(const polar_span *span) {
  const att_functions *functions = att_tables[span->head_dim == 64 ? 0 : span->head_dim == 128 ? 1 : 2];
  // Of two steps: the scores of one are computed while the softmax of the one before waits for its results.
  float scores[2][POLAR_SPAN_ROWS * STEP_TOKENS] __attribute__((aligned(64)));
  const char *block[2][STEP_PAGES];
  vf sums[POLAR_SPAN_ROWS];
  for (int r = 0; r < span->rows; r++) {
    sums[r] = (vf){0};
    span->m[r] = -3.0e38f;
  }
  att_queries queries;
  att_set_queries(span, &queries);
  __builtin_memset(span->o, 0, sizeof(float) * (size_t)span->rows * (size_t)span->head_dim);
  const int first = span->first / STEP_PAGES * STEP_PAGES;
  for (int page = first; page < span->pages + STEP_PAGES; page += STEP_PAGES) {
    const int ahead = page < span->pages, behind = page > first, turn = page / STEP_PAGES % 2;
    for (int i = 0; i < STEP_PAGES; i++) block[turn][i] = att_block(span, page + i);
    const char *next[STEP_PAGES];
    for (int i = 0; i < STEP_PAGES; i++) next[i] = att_next(span, page + AHEAD + i);
    for (int row = 0; row < span->rows;) {
      const int left = span->rows - row;
      const int count = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;
      const att_functions *function = &functions[count - 1];
      if (ahead)
        function->scores(span, &queries, block[turn], next[0], row, scores[turn] + row * STEP_TOKENS);
      if (behind)
        function->accumulate(
          span, block[!turn], next[1], (page - STEP_PAGES) * POLAR_PAGE, row, scores[!turn] + row * STEP_TOKENS, sums);
      next[0] = next[1] = NULL;
      row += count;
    }
  }
  for (int r = 0; r < span->rows; r++) span->l[r] = FN(sum)(sums[r]);
}
#pragma clang attribute pop
#endif
