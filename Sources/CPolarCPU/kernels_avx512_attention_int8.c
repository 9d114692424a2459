// Attention over an int8 cache for AVX-512 with VNNI. Queries and softmax weights become integers of 16 bits, as two bytes
// each, so that both products are exact sums of integers; what is rounded besides is what f32 arithmetic rounds.
//
// A row has an integer m, and its weights are 2^(score - m). Weights times the scales of V are rounded to integers, counts; m
// is such that they fit in 16 bits, and changes only before a pair of pages one of whose counts would not, by the row's own
// scores alone. Products of counts and V are added up as integers over a pair. So results do not depend on how many rows
// are worked on at once.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16

#pragma clang attribute push( \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), apply_to = function)
#include "vec.h"
#include "attention_int8_avx512.h"

void polar_attention_int8_queries_avx512(const polar_queries *queries) {
  const int64_t head_dim = queries->head_dim, padded = polar_kv_padded(head_dim);
  att_queries *out = (att_queries *)(void *)queries->q;
  int8_t *high = (int8_t *)queries->scratch, *low = high + queries->rows * padded;
  for (int r = 0; r < queries->rows; r++, high += padded, low += padded) {
    const float *q = queries->source[r];
    __m512 largest = _mm512_setzero_ps();
    for (int64_t d = 0; d < head_dim; d += VW)
      largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(att_lanes(head_dim - d), q + d)));
    const float most = _mm512_reduce_max_ps(largest);
    // Codes reach 127 * 256 + 127.
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 32639.0f / most : 0);
    __m512i high_sum = _mm512_setzero_si512(), low_sum = _mm512_setzero_si512();
    for (int64_t d = 0; d < padded; d += VW) {
      const __m512 x = _mm512_maskz_loadu_ps(att_lanes(head_dim - d), q + d);
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
      const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(128)), 8);
      const __m512i lower = _mm512_sub_epi32(code, _mm512_slli_epi32(upper, 8));
      high_sum = _mm512_add_epi32(high_sum, upper);
      low_sum = _mm512_add_epi32(low_sum, lower);
      _mm512_mask_cvtepi32_storeu_epi8(high + d, att_lanes(padded - d), upper);
      _mm512_mask_cvtepi32_storeu_epi8(low + d, att_lanes(padded - d), lower);
    }
    out->factor[r] = queries->scale * (most / 32639.0f);
    out->high_start[r] = -128 * _mm512_reduce_add_epi32(high_sum);
    out->low_start[r] = -128 * _mm512_reduce_add_epi32(low_sum);
  }
}

static void att_begin(const polar_span *span, att_state *state) {
  const att_queries *queries = (const att_queries *)(const void *)span->q;
  state->padded = polar_kv_padded(span->head_dim);
  state->high = (const int8_t *)span->scratch;
  state->low = state->high + span->rows * state->padded;
  state->high_start = queries->high_start;
  state->low_start = queries->low_start;
  state->factor = queries->factor;
  __builtin_memset(span->o, 0, sizeof(float) * (size_t)span->rows * (size_t)span->head_dim);
  for (int r = 0; r < span->rows; r++) {
    state->sums[r] = (vf){0};
    span->m[r] = -3.0e38f;
  }
}

// Two pages of which the first one's tokens start at `start` of the span, given their scores, and the scores of the pages
// `ahead`; either may be NULL; for R rows, the first of which is `row`. The scores are computed while the softmax waits for
// its results. Fetches the blocks `next` on the way, unless NULL, one with either product.
POLAR_ALWAYS_INLINE void att_rows(
  const int R, const int64_t head_dim, const polar_span *span, att_state *state, const char *const *block,
  const char *const *ahead, const att_fetch *next, int start, int row, const float *scores, float *scores_ahead
) {
  const int64_t padded = polar_kv_padded(head_dim);
  uint8_t codes[4 * CODES] __attribute__((aligned(64)));
  if (block) att_weights(R, head_dim, span, state, block, start, row, scores, codes);
  float *o = span->o + row * head_dim;
  if (next) {
    if (ahead) att_scores(R, 1, padded, state, ahead, next[0], row, scores_ahead);
    if (block) att_all_values(R, 1, head_dim, block, next[1], codes, o);
  } else {
    if (ahead) att_scores(R, 0, padded, state, ahead, (att_fetch){0}, row, scores_ahead);
    if (block) att_all_values(R, 0, head_dim, block, (att_fetch){0}, codes, o);
  }
}

typedef void (*att_function)(
  const polar_span *, att_state *, const char *const *block, const char *const *ahead, const att_fetch *next, int start,
  int row, const float *scores, float *scores_ahead);

#define ATTENTION_ROWS(R, D, HEAD_DIM)                                                                              \
  static void att_rows_##R##_##D(                                                                                   \
    const polar_span *span, att_state *state, const char *const *block, const char *const *ahead,                   \
    const att_fetch *next, int start, int row, const float *scores, float *scores_ahead                              \
  ) {                                                                                                               \
    att_rows(R, HEAD_DIM, span, state, block, ahead, next, start, row, scores, scores_ahead);                       \
  }
#define ATTENTION_SIZES(R)     \
  ATTENTION_ROWS(R, 64, 64)    \
  ATTENTION_ROWS(R, 128, 128)  \
  ATTENTION_ROWS(R, any, span->head_dim)
ATTENTION_SIZES(1)
ATTENTION_SIZES(2)
ATTENTION_SIZES(3)
ATTENTION_SIZES(4)

#define ATTENTION_TABLE(D) {att_rows_1_##D, att_rows_2_##D, att_rows_3_##D, att_rows_4_##D}
static const att_function att_tables[3][4] = {ATTENTION_TABLE(64), ATTENTION_TABLE(128), ATTENTION_TABLE(any)};

// The span's page `page`. Pages before the first one that counts and behind the last are masked; what is read for them is
// one that counts.
static const char *att_block(const polar_span *span, int page) {
  const int here = page < span->first ? span->first : page < span->pages ? page : span->pages - 1;
  return span->blocks + polar_span_page(span, here) * span->block_bytes;
}

// The pages from `page` on, those of a chunk and some that are fetched behind them. Where there is none, the one before.
static void att_list(const polar_span *span, int page, const char **blocks) {
  for (int i = 0; i < LIST_PAGES; i++, page++) {
    const int behind = page - span->pages;
    const char *next = behind >= 0 && behind < POLAR_NEXT_PAGES ? span->next[behind] : NULL;
    blocks[i] = behind < 0 ? att_block(span, page) : next ? next : blocks[i - 1];
  }
}

// Any number of rows.
static void att_steps(const polar_span *span, att_state *state) {
  const att_function *functions = att_tables[span->head_dim == 64 ? 0 : span->head_dim == 128 ? 1 : 2];
  float scores[2][POLAR_SPAN_ROWS * STEP_PAGES * POLAR_PAGE] __attribute__((aligned(64)));
  const char *blocks[LIST_PAGES];
  // Pages from those whose scores are computed to those that are fetched meanwhile.
  const int close = span->head_dim > 64 ? 3 : 6, distant = span->head_dim > 64 ? 5 : 7;
  const int first = span->first / STEP_PAGES * STEP_PAGES;
  att_list(span, first, blocks);
  // The first step has scores alone, the last one values.
  for (int page = first - STEP_PAGES, at = 0, turn = 0; page < span->pages; page += STEP_PAGES, turn = !turn) {
    const char *const *block = page < first ? NULL : blocks + at, *const *ahead = block ? block + STEP_PAGES : blocks;
    const att_fetch next[STEP_PAGES] = {{ahead[close], ahead[distant]}, {ahead[close + 1], ahead[distant + 1]}};
    const int more = page + STEP_PAGES < span->pages;
    int fetch = 1;
    if (span->fetch) polar_fetch_step(span->fetch);
    for (int row = 0; row < span->rows;) {
      const int left = span->rows - row;
      const int count = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;
      const int score = row * STEP_PAGES * POLAR_PAGE;
      functions[count - 1](
        span, state, block, more ? ahead : NULL, fetch ? next : NULL, page * POLAR_PAGE, row, scores[turn] + score,
        scores[!turn] + score);
      fetch = 0;
      row += count;
    }
    at = block ? at + STEP_PAGES : 0;
    if (at == POLAR_CHUNK_PAGES && more) {
      att_list(span, page + STEP_PAGES, blocks);
      at = 0;
    }
  }
}

POLAR_ALWAYS_INLINE __m512i att_sum(const __m512i *chains) {
  return _mm512_add_epi32(_mm512_add_epi32(chains[0], chains[1]), _mm512_add_epi32(chains[2], chains[3]));
}

// Two pages of a single row, from their scores on. Fetches a block for each.
static __attribute__((noinline)) void att_pair(
  const polar_span *span, att_state *state, const char *const *block, const att_fetch *next, int start
) {
  float scores[STEP_PAGES * VW] __attribute__((aligned(64)));
  uint8_t codes[CODES] __attribute__((aligned(64)));
  att_scores(1, 1, state->padded, state, block, next[0], 0, scores);
  att_weights(1, span->head_dim, span, state, block, start, 0, scores, codes);
  att_all_values(1, 1, span->head_dim, block, next[1], codes, span->o);
}

// The scores of a single row against a page, in four chains for each byte, since the softmax waits for them. Fetches the
// page's part of a block on the way if FETCH.
POLAR_ALWAYS_INLINE vf att_page_scores(
  const int FETCH, const int64_t head_dim, const att_state *state, const char *block, att_fetch fetch
) {
  __m512i high[4] = {_mm512_set1_epi32(state->high_start[0])}, low[4] = {_mm512_set1_epi32(state->low_start[0])};
#pragma clang loop unroll(full)
  for (int k = 0; k < head_dim / 4; k++) {
    if (FETCH) att_prefetch(fetch, k * 64);
    const __m512i keys = att_keys(block + k * 64);
    high[k % 4] = _mm512_dpbusd_epi32(high[k % 4], keys, att_splat4(state->high + 4 * k));
    low[k % 4] = _mm512_dpbusd_epi32(low[k % 4], keys, att_splat4(state->low + 4 * k));
  }
  const int64_t scales = 2 * POLAR_PAGE * head_dim;
  if (FETCH) att_prefetch(fetch, scales);
  return att_score(att_sum(high), att_sum(low), att_scales(block + scales), state->factor[0]);
}

// What a pair of pages adds to a single row, unless it asks for another m.
typedef struct {
  vf scores;  // of the page that is next
  vf sum;
  __m512i low[8], high[8];
  int fits;
} att_single;

// One page of a single row, the first of `turn`, and the scores of the page behind it.
POLAR_ALWAYS_INLINE void att_page(
  const int64_t head_dim, const att_state *state, const char *const *turn, att_fetch fetch, vf m, att_single *row
) {
  const int vectors = (int)(head_dim / VW);
  const char *block = turn[0], *v = block + POLAR_PAGE * head_dim;
  uint8_t codes[CODES] __attribute__((aligned(64)));
  const vf weights = att_weight(row->scores, m);
  const vf counts = weights * att_scales(block + 2 * POLAR_PAGE * head_dim + 2 * POLAR_PAGE);
  row->fits &= !att_overflows(counts);
  row->sum = row->sum + weights;
  att_store_counts(counts, (vf){0}, codes);
  row->scores = att_page_scores(1, head_dim, state, turn[1], fetch);
#pragma clang loop unroll(full)
  for (int t = 0; t < 4; t++) {
    const __m512i l = att_splat4(codes + 16 * t), h = att_splat4(codes + 16 * t + 8);
#pragma clang loop unroll(full)
    for (int j = 0; j < vectors; j++) {
      const int64_t at = (t * vectors + j) * 64;
      att_prefetch(fetch, POLAR_PAGE * head_dim + at);
      const __m512i values = _mm512_loadu_si512(v + at);
      row->low[j] = _mm512_dpbusd_epi32(row->low[j], l, values);
      row->high[j] = _mm512_dpbusd_epi32(row->high[j], h, values);
    }
  }
}

// A single row, as all heads are without grouped queries: computing takes less time than reading, if only the reading never
// stops. The values of a page are used together with the keys of the next one; blocks are fetched into L2, and then into L1,
// in the order of their addresses and evenly over the instructions, `far` and `near` pages ahead. What a page adds counts
// only when the other one of its pair asks for no other m; else both are computed again.
POLAR_ALWAYS_INLINE void att_stream(
  const int64_t head_dim, const int near, const int far, const polar_span *span, att_state *state
) {
  const int vectors = (int)(head_dim / VW);
  const char *blocks[LIST_PAGES];
  const int first = span->first / STEP_PAGES * STEP_PAGES;
  att_single row;
  for (int page = first; page < span->pages; page += STEP_PAGES) {
    const int list = (page - first) % POLAR_CHUNK_PAGES;
    const char *const *turn = blocks + list;
    if (list == 0) att_list(span, page, blocks);
    if (page == first) row.scores = att_page_scores(0, head_dim, state, turn[0], (att_fetch){0});
    const int start = page * POLAR_PAGE;
    const att_fetch next[STEP_PAGES] = {{turn[near], turn[far]}, {turn[near + 1], turn[far + 1]}};
    row.fits = att_sees(span, 0, start);
    if (row.fits) {
      const vf m = FN(splat)(span->m[0]);
      row.sum = state->sums[0];
#pragma clang loop unroll(full)
      for (int j = 0; j < vectors; j++) row.low[j] = row.high[j] = _mm512_setzero_si512();
      // A load instruction of each pair's own lines is best where pages are short (see the log).
      if (head_dim <= 64) {
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_PAGES; i++) att_page(head_dim, state, turn + i, next[i], m, &row);
      } else {
#pragma clang loop unroll(disable)
        for (int i = 0; i < STEP_PAGES; i++) att_page(head_dim, state, turn + i, next[i], m, &row);
      }
      if (row.fits) {
        state->sums[0] = row.sum;
#pragma clang loop unroll(full)
        for (int j = 0; j < vectors; j++) {
          float *o = span->o + j * VW;
          FN(store)(o, FN(load)(o) + att_value(row.high[j], row.low[j]));
        }
      }
    }
    if (row.fits) continue;
    att_pair(span, state, turn, next, start);
    row.scores = att_page_scores(0, head_dim, state, turn[STEP_PAGES], (att_fetch){0});
  }
}

static void att_stream_64(const polar_span *span, att_state *state) { att_stream(64, 7, 8, span, state); }
static void att_stream_128(const polar_span *span, att_state *state) { att_stream(128, 3, 4, span, state); }

void polar_attention_int8_avx512(const polar_span *span) {
  att_state state;
  att_begin(span, &state);
  if (span->rows == 1 && span->head_dim == 64) {
    att_stream_64(span, &state);
  } else if (span->rows == 1 && span->head_dim == 128) {
    att_stream_128(span, &state);
  } else {
    att_steps(span, &state);
  }
  for (int r = 0; r < span->rows; r++) span->l[r] = FN(sum)(state.sums[r]);
}
#pragma clang attribute pop
#endif
