// Internal: the table of kernels that each instruction set fills, and what they are given.
#ifndef POLAR_KERNELS_H
#define POLAR_KERNELS_H

#include <string.h>
#include "polar_cpu.h"

enum {
  POLAR_PANEL = 32,        // outputs of one weight panel
  POLAR_PAGE = 16,         // tokens of one KV page
  POLAR_ROW_BLOCK = 96,    // rows of a linear layer that stay in cache while panels pass by
  POLAR_CHUNK_PAGES = 32,  // pages of one attention partial
  POLAR_TILE_PAGES = 4,    // pages of one softmax step
  POLAR_NEXT_PAGES = 10,   // pages behind a span that may be fetched while it is worked on
  POLAR_TILE_TOKENS = POLAR_TILE_PAGES * POLAR_PAGE,
  POLAR_SPAN_ROWS = 64,    // most query rows of one span
  POLAR_SPAN_ELEMENTS = 64 * 256,  // most rows * head_dim of one span
  POLAR_TILE_ELEMENTS = 2 * POLAR_TILE_TOKENS * 512,  // K and V of one softmax step
  POLAR_GROUP = 32,        // inputs that share a scale in weights of 8 and 4 bits
  POLAR_SUPERBLOCK = 4,    // groups of their activations that share a scale, but for powers of two
  POLAR_LINEAR_SCRATCH = 1088 * 1024,  // bytes of prepared activations per thread
};

#define POLAR_ALWAYS_INLINE static inline __attribute__((always_inline))

// The queries of some rows, for `attention`.
typedef struct {
  const float *const *source;  // [rows] of head_dim
  int32_t type;                // of K and V
  int32_t head_dim, rows;
  float scale;                 // of scores, times log2(e)
  float *q;                    // out, by instruction set: [POLAR_SPAN_ELEMENTS]
  uint16_t *scratch;           // out, by instruction set: [POLAR_SPAN_ELEMENTS]
} polar_queries;

// What is read and written next, rows of memory of which some lines are fetched in every softmax step.
typedef struct {
  const char *source, *target;            // the next lines
  int64_t source_stride, target_stride;   // bytes from the end of a row to the next one
  int32_t rows, lines;                    // what is left; lines per row
  int32_t line;                           // of the row
  int32_t step;                           // lines per softmax step
} polar_fetch;

static inline void polar_fetch_step(polar_fetch *fetch) {
  for (int32_t i = 0; i < fetch->step && fetch->rows > 0; i++) {
    __builtin_prefetch(fetch->source, 0, 2);
    __builtin_prefetch(fetch->target, 1, 2);
    fetch->source += 64;
    fetch->target += 64;
    if (++fetch->line < fetch->lines) continue;
    fetch->line = 0;
    fetch->rows--;
    fetch->source += fetch->source_stride;
    fetch->target += fetch->target_stride;
  }
}

// Attention of some query rows over up to `pages` pages of one KV head.
typedef struct {
  const char *blocks;        // the KV head's first block
  int64_t block_bytes;
  int32_t type;              // of K and V
  const int32_t *table;      // page numbers; page i is table[i < skip_at ? i : i + skip]
  int32_t pages, skip_at, skip;
  int32_t first;             // pages before it are not read: no row sees them
  int32_t head_dim, rows;
  float scale;               // of scores, times log2(e)
  const float *q;            // as `queries` has written them
  const uint16_t *scratch;
  // [rows] the first visible token of the span and the one behind the last; both may lie outside of it
  const int32_t *starts, *limits;
  const char *next[POLAR_NEXT_PAGES];  // blocks read after this span, or NULL: prefetched
  polar_fetch *fetch;        // or NULL
  float *m, *l, *o;          // out: [rows] maximum (base 2), [rows] sum, [rows][head_dim] weighted values
  uint16_t *tile;            // [POLAR_TILE_ELEMENTS]
} polar_span;

// head_dim as an int8 cache has it.
static inline int64_t polar_kv_padded(int64_t head_dim) { return (head_dim + 3) & ~(int64_t)3; }

static inline int64_t polar_kv_block_bytes(int type, int64_t head_dim) {
  return type == POLAR_KV_INT8 ? 2 * POLAR_PAGE * polar_kv_padded(head_dim) + 4 * POLAR_PAGE
                               : 4 * POLAR_PAGE * head_dim;
}

// The number of the span's page `i`.
static inline int64_t polar_span_page(const polar_span *span, int i) {
  return span->table[i < span->skip_at ? i : i + span->skip];
}

// A running partial of a row: its maximum (base 2), its sum, its weighted values [head_dim].
typedef struct {
  float *m, *l, *o;
} polar_partial;

typedef void (*polar_row_kernel)(const polar_row_args *args, int64_t low, int64_t high);

// A tile of a linear layer on weights of 8 or 4 bits: R rows x 32 outputs over some groups of inputs, whole super-blocks but for
// the last one of a row. Chains start at zero or go on in `c`.
typedef struct {
  const uint8_t *blocks;  // the panel's groups, one after the other
  const uint8_t *x;       // the rows' super-blocks, one after the other: see polar_rows_bytes
  const float *bias;      // [32] where the chains end, else NULL
  float *c;               // rows c_stride apart
  int64_t c_stride, groups;
  int first;              // 1 where the chains start
  const char *prefetch;   // as many bytes as a group has are fetched from here on in every group; `lines` cache lines where
  int64_t lines;          // several tiles share the weights
} polar_int_operands;

// Rows of activations that a tile takes together are quantised side by side. A super-block has a scale s for each row, a group a
// power of two p >= 2^-24: a value is code * p * s. Chains are in units of s, and enter the next super-block with its scale.
//
// A super-block of R rows is f32 [R], the last super-block's s over this one's, and then its groups. Behind the last one follows
// f32 [R], its s. A group is codes int8 [R][32], f32 [R] 1.5 * 2^23 * p, and 4 bytes for each row: the bits of that number plus
// -(zero point of the weights' codes) * sum of the codes as an i32, so that adding products of codes to it gives the bits of
// (1.5 * 2^23 + sum) * p; or p * sum of the codes as an f32 for weights with minimums.
static inline int64_t polar_row_group_bytes(int64_t rows) { return rows * (POLAR_GROUP + 8); }

// Bytes of the first `groups` groups of R rows, a whole number of super-blocks.
static inline int64_t polar_row_superblocks_bytes(int64_t rows, int64_t groups) {
  return groups * polar_row_group_bytes(rows) + groups / POLAR_SUPERBLOCK * 4 * rows;
}

// Bytes of R rows of `groups` groups in all.
static inline int64_t polar_rows_bytes(int64_t rows, int64_t groups) {
  return groups * polar_row_group_bytes(rows) + ((groups + POLAR_SUPERBLOCK - 1) / POLAR_SUPERBLOCK + 1) * 4 * rows;
}

typedef void (*polar_tile)(const polar_int_operands *t);

typedef struct {
  int most;   // most rows of a tile
  int rows;   // rows of a tile where there are more than `most`
  int whole;  // 1 when a tile passes over its weights once
  // Inputs [low, high) of row `row` of the `rows` of a tile that begins at `out`; low is a multiple of 16 groups.
  void (*quantize)(
    const float *x, int64_t low, int64_t high, int64_t inputs, int format, uint8_t *out, int64_t rows, int64_t row);
  // As `fma` below, of the products that tiles add up.
  double (*peak)(int64_t steps, float *sink);
  // By format from POLAR_WEIGHT_INT8 on, whether several share the weights, and rows - 1.
  polar_tile tiles[3][2][8];
} polar_int_kernels;

// Rows [row_low, row_high) of a part of a selective MLP. Up: entries [low, high) of the list, of which there are `entries`.
// Down: columns [low, high), a multiple of POLAR_PANEL from the first to low, over all `entries`.
typedef void (*polar_selective_kernel)(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch);

struct polar_kernels {
  // Rows [row_low, row_high) x panels [panel_low, panel_high) of a linear layer on bf16 weights. `prepared` holds the
  // rows from row_low on as `prepare` writes them, prepared_stride elements apart. `next` is what will be read after these
  // panels. Of args, the activation is none of its business.
  void (*linear)(
    const polar_linear_args *args, int64_t row_low, int64_t row_high, int64_t panel_low, int64_t panel_high,
    const uint16_t *prepared, int64_t prepared_stride, const char *next);
  // One row of activations as bf16; NULL when `linear` reads f32.
  void (*prepare)(uint16_t *out, const float *x, int64_t inputs);
  const polar_int_kernels *ints;
  // Writes the queries of some rows as `attention` wants them, for all spans of these rows.
  void (*queries)(const polar_queries *queries);
  void (*attention)(const polar_span *span);
  // Folds the partial of one chunk (m, l, o) into a running one; `first` starts it.
  void (*fold)(int first, polar_partial *total, float m, float l, const float *o, int32_t head_dim);
  // `out = total / sum`; zeros where there is no visible token.
  void (*finish)(float *out, const float *total, float sum, int32_t head_dim);
  polar_selective_kernel selective_up, selective_down;
  polar_row_kernel rms_norm, add_rms_norm, head_rms_norm, layer_norm, silu_mul, relu_mul, relu, add, rotary, store_kv,
    argmax;
  polar_row_kernel head_norms, head_deviations;
  void (*matmul)(const polar_matmul_args *args);
  // A sum over `bytes` (a multiple of 256) of memory.
  float (*read)(const void *memory, size_t bytes);
  // Runs `steps` steps of independent multiply-adds, stores something to `sink`, returns the flops done.
  double (*fma)(int64_t steps, float *sink);
};

extern const polar_int_kernels polar_int_kernels_generic, polar_int_kernels_avx2, polar_int_kernels_avxvnni,
  polar_int_kernels_avx512;
extern const polar_kernels polar_kernels_generic;
#if defined(__aarch64__)
extern const polar_int_kernels polar_int_kernels_neon;
extern const polar_kernels polar_kernels_neon;
#endif
#if defined(__x86_64__)
extern const polar_kernels polar_kernels_avx2, polar_kernels_avxvnni;
extern const polar_kernels polar_kernels_avx512;
void polar_attention_queries_avx512(const polar_queries *queries);
void polar_attention_avx512(const polar_span *span);
void polar_selective_up_avx512(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch);
void polar_selective_down_avx512(
  const polar_selective_args *args, int64_t entries, int64_t row_low, int64_t row_high, int64_t low, int64_t high,
  uint16_t *scratch);
void polar_attention_int8_queries_avx512(const polar_queries *queries);
void polar_attention_int8_avx512(const polar_span *span);
#endif

// bf16 of a float, rounded to nearest even; NaN stays NaN.
static inline uint16_t polar_bf16(float value) {
  union { float f; uint32_t u; } bits = {value};
  if ((bits.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits.u >> 16) | 0x40);
  return (uint16_t)((bits.u + 0x7fffu + ((bits.u >> 16) & 1)) >> 16);
}

// `count` values of a bias, which is zero where NULL.
static inline void polar_set_bias(float *out, const float *bias, int64_t count) {
  if (bias)
    memcpy(out, bias, (size_t)count * sizeof *out);
  else
    memset(out, 0, (size_t)count * sizeof *out);
}

static inline float polar_f32(uint16_t value) {
  union { uint32_t u; float f; } bits = {(uint32_t)value << 16};
  return bits.f;
}

#endif
