// Internal, included once per instruction set after vec.h: attention of 1...4 query rows at once over one KV head.
// The including file defines how many pages of scores (PAGES_1 ... PAGES_4) and how many vectors of value dimensions
// (VALUES_1 ... VALUES_4) run side by side for 1...4 rows. These shape the schedule only: a score is one chain over
// the dimensions and an output element one chain over the tokens, so a row's result does not depend on its company.

enum { FN(page_vectors) = POLAR_PAGE / VW };

// One tile: up to four pages, and what to fetch for the next one.
typedef struct {
  int pages;
  const uint16_t *block[POLAR_TILE_PAGES];
  const uint16_t *next[POLAR_TILE_PAGES];
  // What an int8 cache's codes are to be multiplied with, by token; NULL for bf16.
  const float *key_scales, *value_scales;
} FN(att_tile);

// The codes of an int8 block as a block of bf16, and its scales.
static void FN(att_expand)(
  const void *block, int64_t head_dim, uint16_t *out, float *key_scales, float *value_scales
) {
  const int64_t padded = polar_kv_padded(head_dim);
  const int8_t *k = block, *v = k + POLAR_PAGE * padded;
  const uint16_t *scales = (const void *)(v + POLAR_PAGE * padded);
  for (int t = 0; t < POLAR_PAGE; t++) {
    key_scales[t] = polar_f32(scales[t]);
    value_scales[t] = polar_f32(scales[POLAR_PAGE + t]);
  }
  // A code is exact in bf16.
  for (int64_t d = 0; d < head_dim; d += 2)
    for (int t = 0; t < POLAR_PAGE; t++)
      for (int i = 0; i < 2; i++)
        out[d * POLAR_PAGE + t * 2 + i] = polar_bf16(k[d / 4 * 4 * POLAR_PAGE + t * 4 + d % 4 + i]);
  out += POLAR_PAGE * head_dim;
  for (int t = 0; t < POLAR_PAGE; t++)
    for (int64_t d = 0; d < head_dim; d++)
      out[t / 2 * 2 * head_dim + d * 2 + t % 2] = polar_bf16(v[t / 4 * 4 * padded + d * 4 + t % 4]);
}

// Scores of R rows against P pages.
POLAR_ALWAYS_INLINE void FN(att_scores)(
  const int R, const int P, const uint16_t *const *k, const uint16_t *const *next, const float *q, int64_t head_dim,
  float *scores
) {
  const int V = FN(page_vectors);
  vf acc[4 * POLAR_TILE_PAGES * POLAR_PAGE / VW];
#pragma clang loop unroll(full)
  for (int i = 0; i < R * P * V; i++) acc[i] = (vf){0};
  for (int64_t d = 0; d < head_dim; d += 2) {
#pragma clang loop unroll(full)
    for (int p = 0; p < P; p++) {
      if (next) __builtin_prefetch(next[p] + d * POLAR_PAGE, 0, 3);
#pragma clang loop unroll(full)
      for (int v = 0; v < V; v++) {
        vu pair = FN(load_pairs)(k[p] + d * POLAR_PAGE + v * 2 * VW);
        vf even = FN(even)(pair), odd = FN(odd)(pair);
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          const int i = (r * P + p) * V + v;
          acc[i] = acc[i] + even * q[r * head_dim + d];
          acc[i] = acc[i] + odd * q[r * head_dim + d + 1];
        }
      }
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int i = 0; i < P * V; i++)
      FN(store)(scores + r * POLAR_TILE_TOKENS + i * VW, acc[r * P * V + i]);
}

// o = o * alpha + P V for R rows and NV vectors of dimensions from d0 on, over the first `tokens` tokens.
POLAR_ALWAYS_INLINE void FN(att_values)(
  const int R, const int NV, const FN(att_tile) *tile, int prefetch, int64_t d0, int64_t head_dim, int tokens,
  const float *p, const float *alpha, float *o
) {
  vf acc[4 * 8];
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) acc[r * NV + j] = FN(load)(o + r * head_dim + d0 + j * VW) * alpha[r];
  for (int page = 0; page * POLAR_PAGE < tokens; page++) {
    const uint16_t *v = tile->block[page] + POLAR_PAGE * head_dim + d0 * 2;
    const uint16_t *next = tile->next[page] + POLAR_PAGE * head_dim;
    const int count = tokens - page * POLAR_PAGE < POLAR_PAGE ? tokens - page * POLAR_PAGE : POLAR_PAGE;
    const float *weights = p + page * POLAR_PAGE;
    int t = 0;
    for (; t + 2 <= count; t += 2) {
      if (prefetch)
        for (int64_t line = 0; line < 2 * head_dim; line += 32) __builtin_prefetch(next + t * head_dim + line, 0, 3);
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) {
        vu pair = FN(load_pairs)(v + t * head_dim + j * 2 * VW);
        vf even = FN(even)(pair), odd = FN(odd)(pair);
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          acc[r * NV + j] = acc[r * NV + j] + even * weights[r * POLAR_TILE_TOKENS + t];
          acc[r * NV + j] = acc[r * NV + j] + odd * weights[r * POLAR_TILE_TOKENS + t + 1];
        }
      }
    }
    // The second token of the last pair may be one that is not visible; its value is not touched.
    if (t < count) {
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) {
        vf even = FN(even)(FN(load_pairs)(v + t * head_dim + j * 2 * VW));
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++)
          acc[r * NV + j] = acc[r * NV + j] + even * weights[r * POLAR_TILE_TOKENS + t];
      }
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) FN(store)(o + r * head_dim + d0 + j * VW, acc[r * NV + j]);
}

// The dimensions that fill no vector.
static void FN(att_values_rest)(
  int R, const FN(att_tile) *tile, int64_t d0, int64_t head_dim, int tokens, const float *p, const float *alpha,
  float *o
) {
  for (int r = 0; r < R; r++) {
    for (int64_t d = d0; d < head_dim; d++) {
      float acc = o[r * head_dim + d] * alpha[r];
      for (int t = 0; t < tokens; t++) {
        const uint16_t *v = tile->block[t / POLAR_PAGE] + POLAR_PAGE * head_dim + d * 2;
        const int u = t % POLAR_PAGE;
        acc = acc + polar_f32(v[u / 2 * 2 * head_dim + u % 2]) * p[r * POLAR_TILE_TOKENS + t];
      }
      o[r * head_dim + d] = acc;
    }
  }
}

// One softmax step of R rows, the first of which is `row`, over a tile that starts at token `start` of the span.
POLAR_ALWAYS_INLINE void FN(att_step)(
  const int R, const int P, const int NV, const polar_span *span, const FN(att_tile) *tile, int prefetch, int row,
  int start, vf *sums
) {
  const int64_t head_dim = span->head_dim;
  const float scale = span->scale;
  const float *q = span->q + row * head_dim;
  float *o = span->o + row * head_dim;
  float p[4 * POLAR_TILE_TOKENS] __attribute__((aligned(64)));
  float alpha[4];
  int page = 0;
  for (; page + P <= tile->pages; page += P)
    FN(att_scores)(
      R, P, tile->block + page, prefetch ? tile->next + page : NULL, q, head_dim, p + page * POLAR_PAGE);
  for (; page < tile->pages; page++)
    FN(att_scores)(
      R, 1, tile->block + page, prefetch ? tile->next + page : NULL, q, head_dim, p + page * POLAR_PAGE);

  const int tokens = tile->pages * POLAR_PAGE;
  const float *key_scales = tile->key_scales, *value_scales = tile->value_scales;
  int visible = 0;
  for (int r = 0; r < R; r++) {
    float *s = p + r * POLAR_TILE_TOKENS;
    int limit = span->limits[row + r] - start;
    limit = limit < 0 ? 0 : limit > tokens ? tokens : limit;
    visible = limit > visible ? limit : visible;
    if (key_scales)
      for (int t = 0; t < tokens; t += VW) FN(store)(s + t, FN(load)(s + t) * FN(load)(key_scales + t));
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
      vf e = FN(exp2)(FN(load)(s + t) * scale - m);
      FN(store)(s + t, value_scales ? e * FN(load)(value_scales + t) : e);
      sum = sum + e;
    }
    sums[row + r] = sum;
  }

  int64_t d = 0;
  for (; d + NV * VW <= head_dim; d += NV * VW)
    FN(att_values)(R, NV, tile, prefetch && d == 0, d, head_dim, visible, p, alpha, o);
  for (; d + VW <= head_dim; d += VW)
    FN(att_values)(R, 1, tile, prefetch && d == 0, d, head_dim, visible, p, alpha, o);
  if (d < head_dim) FN(att_values_rest)(R, tile, d, head_dim, visible, p, alpha, o);
}

#define ATTENTION_STEP(R)                                                                            \
  static void FN(att_step_##R)(                                                                      \
    const polar_span *span, const FN(att_tile) *tile, int prefetch, int row, int start, vf *sums     \
  ) {                                                                                                \
    FN(att_step)(R, PAGES_##R, VALUES_##R, span, tile, prefetch, row, start, sums);                  \
  }
ATTENTION_STEP(1)
ATTENTION_STEP(2)
ATTENTION_STEP(3)
ATTENTION_STEP(4)

static void FN(attention_queries)(const polar_queries *queries) {
  const size_t head_dim = (size_t)queries->head_dim;
  for (int r = 0; r < queries->rows; r++)
    __builtin_memcpy(queries->q + (size_t)r * head_dim, queries->source[r], sizeof(float) * head_dim);
}

static void FN(attention)(const polar_span *span) {
  typedef void (*step)(const polar_span *, const FN(att_tile) *, int, int, int, vf *);
  static const step steps[] = {FN(att_step_1), FN(att_step_2), FN(att_step_3), FN(att_step_4)};
  const int expand = span->type == POLAR_KV_INT8;
  float key_scales[POLAR_TILE_TOKENS], value_scales[POLAR_TILE_TOKENS];
  vf sums[POLAR_SPAN_ROWS];
  for (int r = 0; r < span->rows; r++) {
    sums[r] = (vf){0};
    span->m[r] = -3.0e38f;
  }
  __builtin_memset(span->o, 0, sizeof(float) * (size_t)span->rows * (size_t)span->head_dim);
  // Tiles start at fixed places. Pages before the first one that counts are masked; what is read for them is that one.
  for (int page = span->first / POLAR_TILE_PAGES * POLAR_TILE_PAGES; page < span->pages; page += POLAR_TILE_PAGES) {
    FN(att_tile) tile = {.key_scales = expand ? key_scales : NULL, .value_scales = expand ? value_scales : NULL};
    tile.pages = span->pages - page < POLAR_TILE_PAGES ? span->pages - page : POLAR_TILE_PAGES;
    for (int i = 0; i < tile.pages; i++) {
      const int here = page + i < span->first ? span->first : page + i, ahead = page + i + POLAR_TILE_PAGES;
      const void *block = span->blocks + polar_span_page(span, here) * span->block_bytes;
      if (expand) {
        uint16_t *expanded = span->tile + i * 2 * POLAR_PAGE * (int64_t)span->head_dim;
        FN(att_expand)(block, span->head_dim, expanded, key_scales + i * POLAR_PAGE, value_scales + i * POLAR_PAGE);
        tile.block[i] = expanded;
        continue;
      }
      tile.block[i] = block;
      tile.next[i] = block;
      if (ahead < span->pages) {
        tile.next[i] = (const void *)(span->blocks + polar_span_page(span, ahead) * span->block_bytes);
      } else if (span->next[i]) {
        tile.next[i] = (const void *)span->next[i];
      }
    }
    if (span->fetch) polar_fetch_step(span->fetch);
    for (int row = 0; row < span->rows;) {
      const int left = span->rows - row;
      const int count = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;
      steps[count - 1](span, &tile, row == 0 && !expand, row, page * POLAR_PAGE, sums);
      row += count;
    }
  }
  for (int r = 0; r < span->rows; r++) span->l[r] = FN(sum)(sums[r]);
}
