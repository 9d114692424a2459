// Internal, included once, after vec.h: the products of attention over an int8 cache for AVX-512, and the weights between
// them, for up to four rows and two pages at a time. kernels_avx512_attention_int8.c says how numbers are represented.

enum {
  STEP_PAGES = 2,
  LIST_PAGES = POLAR_CHUNK_PAGES + STEP_PAGES + POLAR_NEXT_PAGES,
  CODES = 64,  // bytes of one row's weights of a step
};

// What is known of queries besides their bytes, which are high ones [rows][padded] and then low ones. Lies in a span's `q`.
typedef struct {
  int32_t high_start[POLAR_SPAN_ROWS], low_start[POLAR_SPAN_ROWS];  // -128 * the sum of the bytes
  float factor[POLAR_SPAN_ROWS];  // of a sum, for a score in powers of two
} att_queries;

// What attention works with besides the span.
typedef struct {
  const int8_t *high, *low;  // [rows][padded]: the queries as bytes
  int64_t padded;
  const int32_t *high_start, *low_start;
  const float *factor;
  vf sums[POLAR_SPAN_ROWS];
} att_state;

// What is fetched while a page is worked on: a block that is used soon, into L1, and one that is used later, into L2.
typedef struct {
  const char *close, *distant;
} att_fetch;

POLAR_ALWAYS_INLINE void att_prefetch(att_fetch fetch, int64_t at) {
  __builtin_prefetch(fetch.close + at, 0, 3);
  __builtin_prefetch(fetch.distant + at, 0, 2);
}

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

// 2^(y - m) for integer m, by a fit of 2^f on 0 ... 1 that is off by at most 3e-6; 0 for y = -inf.
POLAR_ALWAYS_INLINE vf att_weight(vf y, vf m) {
  // The fraction and the integer are those of the rounded difference: y may lie so close to an integer that it is one.
  const vf difference = y - m;
  const vf f = (vf)_mm512_reduce_ps((__m512)difference, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  vf p = f * 1.342668622e-2f + 5.224246981e-2f;
  p = p * f + 2.412802079e-1f;
  p = p * f + 6.930448442e-1f;
  p = p * f + 1.0f;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)difference);
}

// Sixteen bf16 as f32.
POLAR_ALWAYS_INLINE vf att_scales(const char *scales) {
  const __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)scales);
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}

// 64 codes of K plus 128, since the instruction wants its first factor unsigned.
POLAR_ALWAYS_INLINE __m512i att_keys(const char *codes) {
  return _mm512_xor_si512(_mm512_loadu_si512(codes), _mm512_set1_epi32((int)0x80808080u));
}

// The scores of a row against a page, in powers of two.
POLAR_ALWAYS_INLINE vf att_score(__m512i high, __m512i low, vf scales, float factor) {
  const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  return (vf)_mm512_cvtepi32_ps(sum) * (scales * factor);
}

// Scores of R rows against two pages, in powers of two. Fetches a block on the way if FETCH.
POLAR_ALWAYS_INLINE void att_scores(
  const int R, const int FETCH, const int64_t padded, const att_state *state, const char *const *block,
  att_fetch next, int row, float *scores
) {
  __m512i high[8], low[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) {
    high[i] = _mm512_set1_epi32(state->high_start[row + i / 2]);
    low[i] = _mm512_set1_epi32(state->low_start[row + i / 2]);
  }
  const char *first = block[0], *second = block[1];
  const int8_t *q_high = state->high + row * padded, *q_low = state->low + row * padded;
#pragma clang loop unroll_count(4)
  for (int64_t d = 0; d < padded; d += 4) {
    if (FETCH) {
      att_prefetch(next, d * 32);
      att_prefetch(next, d * 32 + 64);
    }
    const __m512i a = att_keys(first + d * POLAR_PAGE), b = att_keys(second + d * POLAR_PAGE);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const __m512i h = att_splat4(q_high + r * padded + d), l = att_splat4(q_low + r * padded + d);
      high[2 * r] = _mm512_dpbusd_epi32(high[2 * r], a, h);
      low[2 * r] = _mm512_dpbusd_epi32(low[2 * r], a, l);
      high[2 * r + 1] = _mm512_dpbusd_epi32(high[2 * r + 1], b, h);
      low[2 * r + 1] = _mm512_dpbusd_epi32(low[2 * r + 1], b, l);
    }
  }
  if (FETCH) att_prefetch(next, 2 * POLAR_PAGE * padded);
  const vf scales[2] = {att_scales(first + 2 * POLAR_PAGE * padded), att_scales(second + 2 * POLAR_PAGE * padded)};
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++)
    _mm512_store_ps(scores + i * VW, (__m512)att_score(high[i], low[i], scales[i % 2], state->factor[row + i / 2]));
}

// The sum of a product of counts and values, whose high bytes and low bytes have been multiplied apart.
POLAR_ALWAYS_INLINE vf att_value(__m512i high, __m512i low) {
  return (vf)_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
}

// The lanes of the page from `start` on that a row sees.
POLAR_ALWAYS_INLINE __mmask16 att_visible(const polar_span *span, int row, int start) {
  const int low = span->starts[row] - start, high = span->limits[row] - start;
  return (__mmask16)(att_lanes(high) & ~(low > 0 ? att_lanes(low) : 0));
}

// True when the row sees all tokens of two pages.
POLAR_ALWAYS_INLINE int att_sees(const polar_span *span, int row, int start) {
  return span->starts[row] <= start && span->limits[row] >= start + STEP_PAGES * POLAR_PAGE;
}

// The larger of positive numbers, or one that is not a number.
POLAR_ALWAYS_INLINE vf att_larger(vf a, vf b) { return (vf)_mm512_max_epu32((__m512i)a, (__m512i)b); }

// True when a count does not fit or is not a number.
POLAR_ALWAYS_INLINE int att_overflows(vf counts) {
  return _mm512_cmpgt_epu32_mask((__m512i)counts, (__m512i)FN(splat)(65535)) != 0;
}

// log2 of the scales of V, at most 0.09 too small, and not less than -100, so that weights stay far from infinity.
POLAR_ALWAYS_INLINE vf att_log2(vf scales) {
  const vf bits = (vf)_mm512_cvtepi32_ps((__m512i)scales);
  return (vf)_mm512_max_ps((__m512)(bits * 0x1p-23f - 127.0f), _mm512_set1_ps(-100));
}

// The counts of a row for two pages, the first of which starts at `start`, given their scores, when it may not see all of
// their tokens or counts do not fit. Returns what the row has summed up before is to be multiplied with.
static __attribute__((noinline)) float att_careful(
  const polar_span *span, att_state *state, int row, int start, const float *scores, const vf *scales, vf *counts
) {
  const __mmask16 visible[STEP_PAGES] = {att_visible(span, row, start), att_visible(span, row, start + POLAR_PAGE)};
  const float m = span->m[row];
  vf seen[STEP_PAGES], weights[STEP_PAGES];
  for (int i = 0; i < STEP_PAGES; i++)
    seen[i] = (vf)_mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), visible[i], _mm512_load_ps(scores + i * VW));
  float raised = m;
  for (int turn = 0; turn < 2; turn++) {
    for (int i = 0; i < STEP_PAGES; i++) {
      weights[i] = att_weight(seen[i], FN(splat)(raised));
      // Behind the last token there may be anything.
      counts[i] = (vf)_mm512_maskz_mul_ps(visible[i], (__m512)weights[i], (__m512)scales[i]);
    }
    if (turn == 1 || !att_overflows(att_larger(counts[0], counts[1]))) break;
    // The largest count comes to lie between 2^14 and 2^15.1.
    const vf a = seen[0] + att_log2(scales[0]), b = seen[1] + att_log2(scales[1]);
    raised = __builtin_ceilf(_mm512_reduce_max_ps(_mm512_max_ps((__m512)a, (__m512)b))) - 15;
  }
  span->m[row] = raised;
  const float factor = _mm512_cvtss_f32(_mm512_scalef_ps(_mm512_set1_ps(1), _mm512_set1_ps(m - raised)));
  // A V that is no number gives none.
  if (_mm512_cmp_ps_mask((__m512)counts[0], (__m512)counts[1], _CMP_UNORD_Q)) weights[0] = FN(splat)(__builtin_nanf(""));
  state->sums[row] = state->sums[row] * factor + weights[0] + weights[1];
  return factor;
}

// Counts of the weights of two pages as bytes: of tokens 4 * i ... 4 * i + 3 the low ones at 16 * i, of the second page at
// 16 * i + 4, the high ones 8 bytes behind.
POLAR_ALWAYS_INLINE void att_store_counts(vf a, vf b, uint8_t *codes) {
  const __m512i words = _mm512_packus_epi32(_mm512_cvtps_epi32((__m512)a), _mm512_cvtps_epi32((__m512)b));
  const __m512i low = _mm512_and_si512(words, _mm512_set1_epi16(255)), high = _mm512_srli_epi16(words, 8);
  _mm512_store_si512(codes, _mm512_packus_epi16(low, high));
  // They are to be broadcast from memory, which is faster than to take the vector apart.
  __asm__ volatile("" : : "r"(codes) : "memory");
}

// o += P V of R rows and NV vectors from dimension d0 on, over two pages. Fetches a line per line read if FETCH.
POLAR_ALWAYS_INLINE void att_values(
  const int R, const int NV, const int FETCH, const char *const *block, att_fetch next, int64_t at, int64_t d0,
  const int64_t padded, __mmask16 lanes, const uint8_t *codes, float *o, int64_t head_dim
) {
  __m512i low[8], high[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < R * NV; i++) low[i] = high[i] = _mm512_setzero_si512();
#pragma clang loop unroll(full)
  for (int i = 0; i < STEP_PAGES * 4; i++) {
    const char *v = block[i / 4] + POLAR_PAGE * padded + d0 * 4 + i % 4 * 4 * padded;
    const uint8_t *weights = codes + i % 4 * 16 + i / 4 * 4;
    if (FETCH) {
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) att_prefetch(next, at + j * 64);
      at += NV * 64;
    }
    __m512i values[4];
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) values[j] = _mm512_maskz_loadu_epi32(lanes, v + j * 64);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const __m512i l = att_splat4(weights + r * CODES), h = att_splat4(weights + r * CODES + 8);
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) {
        low[r * NV + j] = _mm512_dpbusd_epi32(low[r * NV + j], l, values[j]);
        high[r * NV + j] = _mm512_dpbusd_epi32(high[r * NV + j], h, values[j]);
      }
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) {
      float *out = o + r * head_dim + d0 + j * VW;
      const vf before = (vf)_mm512_maskz_loadu_ps(lanes, out);
      _mm512_mask_storeu_ps(out, lanes, (__m512)(before + att_value(high[r * NV + j], low[r * NV + j])));
    }
}

// att_values of all dimensions.
POLAR_ALWAYS_INLINE void att_all_values(
  const int R, const int FETCH, const int64_t head_dim, const char *const *block, att_fetch next, const uint8_t *codes,
  float *o
) {
  const int64_t padded = polar_kv_padded(head_dim);
  if (FETCH) att_prefetch(next, 2 * POLAR_PAGE * padded);
  int64_t d = 0;
#pragma clang loop unroll(disable)
  for (; R <= 2 && d + 4 * VW <= head_dim; d += 4 * VW)
    att_values(R, 4, FETCH, block, next, d * 32, d, padded, 0xffff, codes, o, head_dim);
#pragma clang loop unroll(disable)
  for (; d + 2 * VW <= head_dim; d += 2 * VW)
    att_values(R, 2, FETCH, block, next, d * 32, d, padded, 0xffff, codes, o, head_dim);
  for (; d < head_dim; d += VW)
    att_values(R, 1, 0, block, next, 0, d, padded, att_lanes(head_dim - d), codes, o, head_dim);
}

// Weights of R rows, the first of which is `row`, for two pages of which the first one's tokens start at `start` of the
// span, given their scores.
POLAR_ALWAYS_INLINE void att_weights(
  const int R, const int64_t head_dim, const polar_span *span, att_state *state, const char *const *block, int start,
  int row, const float *scores, uint8_t *codes
) {
  const int64_t padded = polar_kv_padded(head_dim), at = 2 * POLAR_PAGE * padded + 2 * POLAR_PAGE;
  const vf scales[STEP_PAGES] = {att_scales(block[0] + at), att_scales(block[1] + at)};
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++) {
    const vf m = FN(splat)(span->m[row + r]);
    const vf a = att_weight((vf)_mm512_load_ps(scores + 2 * r * VW), m);
    const vf b = att_weight((vf)_mm512_load_ps(scores + (2 * r + 1) * VW), m);
    vf counts[STEP_PAGES] = {a * scales[0], b * scales[1]};
    if (att_sees(span, row + r, start) && !att_overflows(att_larger(counts[0], counts[1]))) {
      state->sums[row + r] = state->sums[row + r] + a + b;
    } else {
      const float factor = att_careful(span, state, row + r, start, scores + 2 * r * VW, scales, counts);
      float *o = span->o + (row + r) * head_dim;
      for (int64_t d = 0; d < head_dim; d++) o[d] *= factor;
    }
    att_store_counts(counts[0], counts[1], codes + r * CODES);
  }
}
