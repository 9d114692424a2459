// Attention for AVX-512 with BF16. Queries and softmax weights are rounded to bf16; a row's sum is that of its rounded
// weights. A score is one chain over pairs of dimensions and an output element one chain over pairs of tokens, so a
// row's result does not depend on its company.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16

#pragma clang attribute push( \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma"))), apply_to = function)
#include "vec.h"
#include "bf16_dot.h"

typedef struct {
  int pages;
  const uint16_t *block[POLAR_TILE_PAGES];
  const uint16_t *next[POLAR_TILE_PAGES];
} att_tile;

// Scores of R rows against P pages.
POLAR_ALWAYS_INLINE void att_scores(
  const int R, const int P, const uint16_t *const *k, const uint16_t *const *next, const uint16_t *q,
  int64_t head_dim, float *scores
) {
  vf acc[4 * POLAR_TILE_PAGES];
#pragma clang loop unroll(full)
  for (int i = 0; i < R * P; i++) acc[i] = (vf){0};
  for (int64_t d = 0; d < head_dim; d += 2) {
#pragma clang loop unroll(full)
    for (int p = 0; p < P; p++) {
      if (next) __builtin_prefetch(next[p] + d * POLAR_PAGE, 0, 3);
      const vu keys = FN(load_pairs)(k[p] + d * POLAR_PAGE);
#pragma clang loop unroll(full)
      for (int r = 0; r < R; r++)
        acc[r * P + p] = FN(pair_dot)(acc[r * P + p], keys, FN(splat_pair)(q + r * head_dim + d));
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int p = 0; p < P; p++) FN(store)(scores + r * POLAR_TILE_TOKENS + p * VW, acc[r * P + p]);
}

// o = o * alpha + P V for R rows and NV vectors of dimensions from d0 on, over the first `tokens` tokens.
POLAR_ALWAYS_INLINE void att_values(
  const int R, const int NV, const att_tile *tile, int prefetch, int64_t d0, int64_t head_dim, int tokens,
  const uint16_t *p, const float *alpha, float *o
) {
  vf acc[16];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) acc[r * NV + j] = FN(load)(o + r * head_dim + d0 + j * VW) * alpha[r];
  for (int t = 0; t < tokens; t += 2) {
    const int page = t / POLAR_PAGE;
    const int64_t offset = POLAR_PAGE * head_dim + t % POLAR_PAGE * head_dim;
    if (prefetch)
      for (int64_t line = 0; line < 2 * head_dim; line += 32)
        __builtin_prefetch(tile->next[page] + offset + line, 0, 3);
    // The second token of the last pair may be one that is not visible; its value must not count.
    const uint32_t keep = t + 1 < tokens ? 0xffffffffu : 0x0000ffffu;
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) {
      const vu values = FN(load_pairs)(tile->block[page] + offset + d0 * 2 + j * 2 * VW) & keep;
#pragma clang loop unroll(full)
      for (int r = 0; r < R; r++)
        acc[r * NV + j] = FN(pair_dot)(acc[r * NV + j], values, FN(splat_pair)(p + r * POLAR_TILE_TOKENS + t));
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) FN(store)(o + r * head_dim + d0 + j * VW, acc[r * NV + j]);
}

// The dimensions that fill no vector.
static void att_values_rest(
  int R, const att_tile *tile, int64_t d0, int64_t head_dim, int tokens, const uint16_t *p, const float *alpha,
  float *o
) {
  for (int r = 0; r < R; r++) {
    for (int64_t d = d0; d < head_dim; d++) {
      float acc = o[r * head_dim + d] * alpha[r];
      for (int t = 0; t < tokens; t++) {
        const uint16_t *v = tile->block[t / POLAR_PAGE] + POLAR_PAGE * head_dim + d * 2;
        const int u = t % POLAR_PAGE;
        acc = acc + polar_f32(v[u / 2 * 2 * head_dim + u % 2]) * polar_f32(p[r * POLAR_TILE_TOKENS + t]);
      }
      o[r * head_dim + d] = acc;
    }
  }
}

// One softmax step of R rows, the first of which is `row`, over a tile that starts at token `start` of the span.
POLAR_ALWAYS_INLINE void att_step(
  const int R, const int P, const int NV, const polar_span *span, const att_tile *tile, int prefetch, int row,
  int start, vf *sums
) {
  const int64_t head_dim = span->head_dim;
  const float scale = span->scale;
  const uint16_t *q = span->scratch + row * head_dim;
  float *o = span->o + row * head_dim;
  float scores[4 * POLAR_TILE_TOKENS] __attribute__((aligned(64)));
  uint16_t p[4 * POLAR_TILE_TOKENS] __attribute__((aligned(64)));
  float alpha[4];
  int page = 0;
  for (; page + P <= tile->pages; page += P)
    att_scores(
      R, P, tile->block + page, prefetch ? tile->next + page : NULL, q, head_dim, scores + page * POLAR_PAGE);
  for (; page < tile->pages; page++)
    att_scores(
      R, 1, tile->block + page, prefetch ? tile->next + page : NULL, q, head_dim, scores + page * POLAR_PAGE);

  const int tokens = tile->pages * POLAR_PAGE;
  int visible = 0;
  for (int r = 0; r < R; r++) {
    float *s = scores + r * POLAR_TILE_TOKENS;
    int limit = span->limits[row + r] - start;
    limit = limit < 0 ? 0 : limit > tokens ? tokens : limit;
    visible = limit > visible ? limit : visible;
    const int low = span->starts[row + r] - start < limit ? span->starts[row + r] - start : limit;
    for (int t = 0; t < low; t++) s[t] = -__builtin_inff();
    for (int t = limit; t < tokens; t++) s[t] = -__builtin_inff();
    vf top = FN(load)(s);
    for (int t = VW; t < tokens; t += VW) top = FN(max)(FN(load)(s + t), top);
    const float old = span->m[row + r], highest = FN(maximum)(top) * scale;
    const float m = highest > old ? highest : old;
    span->m[row + r] = m;
    const vf rescale = FN(exp2)(FN(splat)(old - m));
    alpha[r] = rescale[0];
    vf sum = sums[row + r] * rescale;
    for (int t = 0; t < tokens; t += VW) {
      uint16_t *rounded = p + r * POLAR_TILE_TOKENS + t;
      FN(store_bf16)(rounded, FN(exp2)(FN(load)(s + t) * scale - m));
      vf weights;
#pragma clang loop unroll(full)
      for (int i = 0; i < VW; i++) weights[i] = polar_f32(rounded[i]);
      sum = sum + weights;
    }
    sums[row + r] = sum;
  }

  int64_t d = 0;
  for (; d + NV * VW <= head_dim; d += NV * VW)
    att_values(R, NV, tile, prefetch && d == 0, d, head_dim, visible, p, alpha, o);
  for (; d + VW <= head_dim; d += VW)
    att_values(R, 1, tile, prefetch && d == 0, d, head_dim, visible, p, alpha, o);
  if (d < head_dim) att_values_rest(R, tile, d, head_dim, visible, p, alpha, o);
}

#define ATTENTION_STEP(R, P, NV)                                                               \
  static void att_step_##R(                                                                    \
    const polar_span *span, const att_tile *tile, int prefetch, int row, int start, vf *sums   \
  ) {                                                                                          \
    att_step(R, P, NV, span, tile, prefetch, row, start, sums);                                \
  }
ATTENTION_STEP(1, 4, 4)
ATTENTION_STEP(2, 4, 4)
ATTENTION_STEP(3, 4, 4)
ATTENTION_STEP(4, 4, 4)

void polar_attention_avx512(const polar_span *span) {
  typedef void (*step)(const polar_span *, const att_tile *, int, int, int, vf *);
  static const step steps[] = {att_step_1, att_step_2, att_step_3, att_step_4};
  const int64_t block_elements = 2 * POLAR_PAGE * (int64_t)span->head_dim;
  vf sums[POLAR_SPAN_ROWS];
  for (int r = 0; r < span->rows; r++) {
    sums[r] = (vf){0};
    span->m[r] = -3.0e38f;
  }
  FN(convert)(span->scratch, span->q, (int64_t)span->rows * span->head_dim);
  __builtin_memset(span->o, 0, sizeof(float) * (size_t)span->rows * (size_t)span->head_dim);
  // Tiles start at fixed places. Pages before the first one that counts are masked; what is read for them is that one.
  for (int page = span->first / POLAR_TILE_PAGES * POLAR_TILE_PAGES; page < span->pages; page += POLAR_TILE_PAGES) {
    att_tile tile;
    tile.pages = span->pages - page < POLAR_TILE_PAGES ? span->pages - page : POLAR_TILE_PAGES;
    for (int i = 0; i < tile.pages; i++) {
      const int here = page + i < span->first ? span->first : page + i, ahead = page + i + POLAR_TILE_PAGES;
      const int32_t number = span->table[here < span->skip_at ? here : here + span->skip];
      tile.block[i] = span->blocks + number * block_elements;
      tile.next[i] = tile.block[i];
      if (ahead < span->pages) {
        const int32_t following = span->table[ahead < span->skip_at ? ahead : ahead + span->skip];
        tile.next[i] = span->blocks + following * block_elements;
      } else if (span->next[i]) {
        tile.next[i] = span->next[i];
      }
    }
    for (int row = 0; row < span->rows;) {
      const int left = span->rows - row;
      const int count = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;
      steps[count - 1](span, &tile, row == 0, row, page * POLAR_PAGE, sums);
      row += count;
    }
  }
  for (int r = 0; r < span->rows; r++) span->l[r] = FN(sum)(sums[r]);
}
#pragma clang attribute pop
#endif
