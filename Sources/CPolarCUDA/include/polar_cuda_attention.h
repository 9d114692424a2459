// Attention kernels: their argument structs, tile sizes and launch shapes. Included by polar_cuda_kernels.h, which has the
// conventions.
#ifndef POLAR_CUDA_ATTENTION_H
#define POLAR_CUDA_ATTENTION_H

/// What an unselected head contributes: PolarCore.HeadFallback.
enum {
  POLAR_FALLBACK_ZERO = 0,
  POLAR_FALLBACK_CONSTANT = 1,
  POLAR_FALLBACK_COMPUTED = 2,
  POLAR_FALLBACK_LOCAL = 3,
};

// ---- Attention (attention.cu; one module per head dim) ------------------------------------------------------------------
// Head dims: any even number up to 256; of multiples of 8 in 16-byte copies. Tiles are padded to a multiple of 16.

#define POLAR_TILE_DIM(head_dim) (((head_dim) + 15) / 16 * 16)
/// Bytes from row to row of a tile in shared memory: swizzled where rows are whole 128-byte lines, else padded.
#define POLAR_TILE_PITCH(head_dim) \
  (POLAR_TILE_DIM(head_dim) % 64 == 0 ? POLAR_TILE_DIM(head_dim) * 2 : POLAR_TILE_DIM(head_dim) * 2 + 16)
/// polar_attention_decode: warps of a block (each owns a ring of pages) and stages of a ring.
#define POLAR_DECODE_WARPS(head_dim) ((head_dim) > 128 ? 2 : 4)
#define POLAR_DECODE_STAGES(head_dim) ((head_dim) > 128 ? 2 : 3)
#define POLAR_DECODE_THREADS(head_dim) (POLAR_DECODE_WARPS(head_dim) * 32)
/// Dynamic shared memory of polar_attention_decode: the rings, and the query tile where it does not fit in registers.
#define POLAR_DECODE_SHARED(head_dim)                                                                                 \
  (((head_dim) > 128 ? 16 * POLAR_TILE_PITCH(head_dim) : 0) +                                                         \
   POLAR_DECODE_WARPS(head_dim) * POLAR_DECODE_STAGES(head_dim) * 2 * POLAR_PAGE_TOKENS * POLAR_TILE_PITCH(head_dim))
/// polar_attention_prefill: tokens of a K/V tile, and dynamic shared memory: the query tile, then two stages of K and V.
#define POLAR_PREFILL_KEYS(head_dim) ((head_dim) > 128 ? 16 : 64)
#define POLAR_PREFILL_SHARED(head_dim) \
  ((POLAR_PREFILL_ROWS + 4 * POLAR_PREFILL_KEYS(head_dim)) * POLAR_TILE_PITCH(head_dim))

/// polar_attention_plan: cuts a decode step's attention into chunks and shares them out over `blocks` blocks, equal in pages to
/// within a chunk. Once per layer with a mask, once per step without. An entry is a (row, KV head) with the heads of its group
/// that read all pages, or with POLAR_FALLBACK_LOCAL and a mask two entries: those heads, then the heads that read local pages.
/// Chunks are numbered through in order of entries; there are at most `POLAR_MAX_CHUNKS`.
/// grid 1, block POLAR_PLAN_THREADS, shared 0.
typedef struct {
  PolarAddress positions;   ///< i32 [rows]; -1 is padding
  PolarAddress mask;        ///< u8 [rows, heads]: 1 is selected; 0: dense
  PolarAddress first_chunk; ///< out: i32 [entries + 1], chunks of all earlier entries
  PolarAddress chunks;      ///< out: PolarAttentionChunk [chunks]
  PolarAddress ranges;      ///< out: i32 [blocks + 1]: the chunk where each block begins
  PolarAddress tally;       ///< u64 [2]: receives the selected heads and the rows, padding left out, on top; or 0
  int rows, heads, kv_heads;
  int mask_stride;
  int window;               ///< keys at positions > own - window are seen; 0: all
  int fallback;             ///< POLAR_FALLBACK_*; ignored without a mask
  int sink_pages, recent_pages; ///< of POLAR_FALLBACK_LOCAL
  int blocks;               ///< grid of polar_attention_decode
  int reserved;
} PolarAttentionPlanArgs;
POLAR_CHECK_SIZE(PolarAttentionPlanArgs, 88);

/// One piece of work of polar_attention_decode.
typedef struct {
  int row;
  int kv_head;              ///< plus POLAR_LOCAL_ENTRY when it is of the heads that read local pages
  int chunk;                ///< number of the chunk in its entry
  int chunks;               ///< of the entry
} PolarAttentionChunk;
POLAR_CHECK_SIZE(PolarAttentionChunk, 16);
enum { POLAR_LOCAL_ENTRY = 1 << 16 };

/// The most chunks of a step: of `local_pages`, those of the local fallback, 0 without.
#define POLAR_MAX_CHUNKS(rows, kv_heads, maximum_pages, local_pages) \
  ((rows) * (kv_heads) *                                             \
   (POLAR_CEIL_DIV(maximum_pages, POLAR_CHUNK_PAGES) + POLAR_CEIL_DIV(local_pages, POLAR_CHUNK_PAGES)))

/// polar_attention_decode: attention of one row per sequence over the chunks of the plan; row i belongs to sequence i. An entry
/// of one chunk is written to `out` (selected heads, and local ones), others to partial results.
/// grid `blocks` (2 a multiprocessor), block POLAR_DECODE_THREADS, shared POLAR_DECODE_SHARED.
typedef struct {
  PolarAddress query;       ///< f32 [rows, heads * head_dim]
  PolarAddress kv;          ///< elements [pages][2][kv_heads][16][head_dim]
  PolarAddress tables;      ///< i32 [rows, table_stride]: pages of each sequence
  PolarAddress positions;   ///< as in the plan
  PolarAddress mask;        ///< as in the plan
  PolarAddress chunks;      ///< of the plan
  PolarAddress ranges;      ///< of the plan
  PolarAddress out;         ///< f32 [rows, heads * head_dim]
  PolarAddress partial_out; ///< out: f32 [chunks, heads / kv_heads, head_dim], not normalised
  PolarAddress partial_sums;///< out: f32 [chunks, heads / kv_heads, 2]: largest score in units of log 2, sum of weights
  int rows, heads, kv_heads;
  int query_stride, out_stride, table_stride, mask_stride;
  int window, fallback, sink_pages, recent_pages;
  float scale;              ///< of scores, in natural units
} PolarAttentionDecodeArgs;
POLAR_CHECK_SIZE(PolarAttentionDecodeArgs, 128);

/// polar_attention_combine: merges the partial results of each entry in chunk order; writes fallbacks of unselected heads, and
/// zeros in padding rows. After it every element of `out` is written.
/// grid (kv_heads, rows), block POLAR_COMBINE_THREADS, shared 0.
typedef struct {
  PolarAddress positions, mask, first_chunk; ///< as in the plan
  PolarAddress out, partial_out, partial_sums; ///< of polar_attention_decode
  PolarAddress values;      ///< CONSTANT: f32 [heads, head_dim]; COMPUTED: f32 [rows, heads * head_dim]; else 0
  int heads, kv_heads;
  int out_stride, mask_stride;
  int values_stride;        ///< COMPUTED: from row to row; CONSTANT: from head to head
  int fallback;
} PolarAttentionCombineArgs;
POLAR_CHECK_SIZE(PolarAttentionCombineArgs, 80);

/// polar_attention_prefill: causal attention of every row over its sequence's cache. Rows of a sequence are consecutive.
/// A tile is POLAR_PREFILL_ROWS / (heads / kv_heads) tokens with all heads of a group.
/// grid (ceil(rows / tokens of a tile), kv_heads), block POLAR_PREFILL_THREADS, shared POLAR_PREFILL_SHARED.
typedef struct {
  PolarAddress query;       ///< f32 [rows, heads * head_dim]
  PolarAddress kv;
  PolarAddress tables;      ///< i32 [sequences, table_stride]
  PolarAddress positions;   ///< i32 [rows]; -1 is padding
  PolarAddress sequences;   ///< i32 [rows]: the sequence of each row
  PolarAddress out;         ///< f32 [rows, heads * head_dim]
  int rows, heads, kv_heads;
  int query_stride, out_stride, table_stride;
  int window;
  int local;                ///< 1: keys in the first sink_pages and the last recent_pages pages, as seen by each row; 0: all
  int sink_pages, recent_pages;
  float scale;
  int reserved;
} PolarAttentionPrefillArgs;
POLAR_CHECK_SIZE(PolarAttentionPrefillArgs, 96);

/// polar_store_kv (attention.cu): writes K and V of each row to its slot (page * 16 + offset); rows with slot < 0 are left out.
/// grid (rows, kv_heads), block 64, shared 0.
typedef struct {
  PolarAddress kv;
  PolarAddress key, value;  ///< f32 [rows, kv_heads * head_dim]
  PolarAddress slots;       ///< i32 [rows]
  int kv_heads;
  int key_stride, value_stride;
  int reserved;
} PolarStoreKVArgs;
POLAR_CHECK_SIZE(PolarStoreKVArgs, 48);

/// polar_rotary_store_kv (attention.cu): rotates the queries of each row in place and writes its rotated K, and V, to its slot; rows
/// with slot < 0 are left as they are. grid (rows, kv_heads), block 64, shared 0.
typedef struct {
  PolarAddress kv;
  PolarAddress x;           ///< f32 [rows, (heads + 2 * kv_heads) * head_dim]: queries, keys, values; keys are only read
  PolarAddress positions;   ///< i32 [rows]
  PolarAddress inverse_frequencies; ///< f32 [head_dim / 2]
  PolarAddress slots;       ///< i32 [rows]
  int heads, kv_heads;
  int x_stride;
  int reserved;
} PolarRotaryStoreKVArgs;
POLAR_CHECK_SIZE(PolarRotaryStoreKVArgs, 56);

#endif
