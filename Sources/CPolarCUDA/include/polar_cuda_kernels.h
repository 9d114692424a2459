// What the host and the CUDA kernels agree on: one argument struct per kernel, tile sizes, launch shapes, layouts.
//
// Plain C without a library's headers: kernels (NVRTC), the emulator (C++) and Swift all read this file. It includes two more,
// whose kernels are of attention and of training.
//
// Conventions
// - An address is 64 bits; 0 means "not given". Strides are in elements. Counts are 32-bit ints.
// - Activations are f32 (the contract of PolarCore.Backend). Linear and attention kernels round them to the element type as
//   they build tensor-core operands; sums are f32. "Element" is bf16, or f16 when a module is compiled with
//   POLAR_ELEMENT_F16=1. Weights, K and V are elements; norm weights, biases and everything else are f32.
// - A linear weight [outputs, inputs] is row-major with a row pitch of POLAR_WEIGHT_PITCH(inputs) elements, the padding zero,
//   its base 16-byte aligned. Neuron-major MLP weights have any even pitch and any 4-byte aligned base.
// - K and V: [page][K, V][kv head][16 tokens][head dim] elements, base 16-byte aligned.
// - Every tensor may have any row stride; what is aligned to 16 bytes (base and stride) is read in 16-byte pieces.
// - Lengths, lists, masks and counts are read from device memory by the kernels, so that a captured graph stays valid. A row
//   of a batch with position -1 is padding: attention leaves zeros there, and nothing of its sequence is read.
// - No kernel allocates, none uses floating-point atomics, and every sum has a fixed order: results repeat bit for bit. A row
//   of a result does not depend on other rows, except where a list of neurons is chosen for the whole batch.
//
// Compile options of a module: POLAR_ELEMENT_F16 (0 or 1) for all, POLAR_HEAD_DIM for attention.cu.
#ifndef POLAR_CUDA_KERNELS_H
#define POLAR_CUDA_KERNELS_H

typedef unsigned long long PolarAddress;

#ifdef __cplusplus
#define POLAR_CHECK_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), "layout of " #type)
#else
#define POLAR_CHECK_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "layout of " #type)
#endif

// ---- Limits and tiles ---------------------------------------------------------------------------------------------------

enum {
  /// Tokens of a page (PolarCore.KVPage.tokens).
  POLAR_PAGE_TOKENS = 16,
  /// The most query heads of a KV head: the rows of one tensor-core tile.
  POLAR_MAX_GROUP = 16,
  /// Pages of one attention chunk. Boundaries are absolute in the list of pages that a (row, KV head) reads, so that a row's
  /// result does not depend on the batch.
  POLAR_CHUNK_PAGES = 16,
  /// Threads of polar_attention_plan (one block).
  POLAR_PLAN_THREADS = 1024,
  /// Threads of polar_attention_combine.
  POLAR_COMBINE_THREADS = 128,
  /// Packed rows (token, head of the group) of a prefill tile, and its threads.
  POLAR_PREFILL_ROWS = 64,
  POLAR_PREFILL_THREADS = 128,
  /// Threads of norms and row-wise reductions.
  POLAR_ROW_THREADS = 256,
  /// Threads of element-wise kernels.
  POLAR_FLAT_THREADS = 256,
  /// Threads of selections over a long row (neuron lists, argmax, sampling): one block a row.
  POLAR_SELECT_THREADS = 1024,
  /// Threads of polar_select_top_k, polar_select_above: one warp a row.
  POLAR_MASK_THREADS = 32,
  /// Threads of all matrix kernels.
  POLAR_GEMM_THREADS = 128,
  /// Linear and selective up: outputs (neurons) and inputs of a tile.
  POLAR_UP_OUTPUTS = 64,
  POLAR_UP_INPUTS = 64,
  /// Selective down: outputs and neurons of a tile.
  POLAR_DOWN_OUTPUTS = 128,
  POLAR_DOWN_NEURONS = 32,
  /// The most pieces that a selective product's sum is split into; grid.z of selective kernels.
  POLAR_MAX_SPLITS = 8,
  /// Tiles that a selective product is split towards: two blocks on each of 132 multiprocessors.
  POLAR_TARGET_TILES = 264,
};

/// Row pitch of a linear weight in elements.
#define POLAR_WEIGHT_PITCH(inputs) (((inputs) + 7) / 8 * 8)
#define POLAR_CEIL_DIV(a, b) (((a) + (b)-1) / (b))

#include "polar_cuda_attention.h"
#include "polar_cuda_training.h"

// ---- Dense ops (dense.cu) -----------------------------------------------------------------------------------------------

/// polar_embed: out[i, :] = table[tokens[i], :]; a negative token (a padding row) gives NaN, so that
/// nothing of it counts in a union of neurons, and a leak into another row would show.
/// grid rows, block POLAR_ROW_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< f32 [rows, columns]
  PolarAddress tokens;      ///< i32 [rows]
  PolarAddress table;       ///< elements [tokens, table_stride]
  int columns, out_stride, table_stride, reserved;
} PolarEmbedArgs;
POLAR_CHECK_SIZE(PolarEmbedArgs, 40);

/// polar_gather_rows: out[i, :] = x[indices[i], :]; a negative index gives zeros.
/// grid rows, block POLAR_ROW_THREADS, shared 0.
typedef struct {
  PolarAddress out, x;      ///< f32
  PolarAddress indices;     ///< i32 [rows]
  int columns, out_stride, x_stride, reserved;
} PolarGatherRowsArgs;
POLAR_CHECK_SIZE(PolarGatherRowsArgs, 40);

/// polar_rms_norm: of each of the first `grid.y` vectors of `columns` in each row (rmsNorm: one vector; headRMSNorm: heads).
/// With `delta`, x += delta first, in place (addRMSNorm). out may be x.
/// grid (rows, vectors), block POLAR_ROW_THREADS, shared 0.
typedef struct {
  PolarAddress out, x, delta; ///< f32
  PolarAddress weight;      ///< f32 [columns]
  int columns, out_stride, x_stride, delta_stride;
  float epsilon;
  int reserved;
} PolarRMSNormArgs;
POLAR_CHECK_SIZE(PolarRMSNormArgs, 56);

/// polar_layer_norm. out may be x. grid rows, block POLAR_ROW_THREADS, shared 0.
typedef struct {
  PolarAddress out, x, weight, bias; ///< f32
  int columns, out_stride, x_stride;
  float epsilon;
} PolarLayerNormArgs;
POLAR_CHECK_SIZE(PolarLayerNormArgs, 48);

/// Element-wise kernels over [rows, columns]:
/// polar_add: out += x. polar_relu, polar_gelu: of out, in place; x unused. polar_silu_mul, polar_relu_mul: of
/// x [rows, 2 * columns], gate then up, as Backend.siluMul and Backend.reluMul.
/// polar_convert: f32 x to elements out (the input of a library GEMM).
/// grid (ceil(columns / POLAR_FLAT_THREADS), rows), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress out, x;
  int columns, out_stride, x_stride;
  float threshold;          ///< of polar_relu_mul
} PolarElementwiseArgs;
POLAR_CHECK_SIZE(PolarElementwiseArgs, 32);

// ---- Linear layers (linear.cu) ------------------------------------------------------------------------------------------
// Tokens are the n side of the tensor-core tile, 8, 16, 32 or 64 in a block: polar_linear_8, _16, _32, _64. An output is one
// chain over the inputs of its split, the same in all of them.

/// Stages of the copy pipeline of the matrix kernels: fewer where a stage is large, to stay below 99 KiB.
#define POLAR_GEMM_STAGES(tokens) ((tokens) >= 64 ? 2 : (tokens) >= 32 ? 3 : 4)
/// Dynamic shared memory of polar_linear_<tokens> and polar_selective_up_<tokens>; twice the weight part when gated.
#define POLAR_UP_SHARED(tokens, gated)                                                                                \
  (POLAR_GEMM_STAGES(tokens) *                                                                                                \
      (((gated) ? 2 : 1) * POLAR_UP_OUTPUTS * POLAR_UP_INPUTS * 2 + (tokens) * (POLAR_UP_INPUTS + 8) * 4))

/// polar_linear_<tokens>. With splits > 1 it writes partial sums, and polar_reduce completes them.
/// grid (ceil(outputs / POLAR_UP_OUTPUTS), ceil(rows / tokens), splits), block POLAR_GEMM_THREADS,
/// shared POLAR_UP_SHARED(tokens, 0).
typedef struct {
  PolarAddress out;         ///< f32 [rows, outputs]
  PolarAddress x;           ///< f32 [rows, inputs]
  PolarAddress weight;      ///< elements [outputs, weight_stride]
  PolarAddress bias;        ///< f32 [outputs], or 0
  PolarAddress partial;     ///< f32 [splits, rows, outputs]; 0 with splits == 1
  int rows, inputs, outputs;
  int out_stride, x_stride, weight_stride;
  int splits;               ///< see polar_linear_splits; a row's bits depend on it
  int reserved;
} PolarLinearArgs;
POLAR_CHECK_SIZE(PolarLinearArgs, 72);

/// polar_reduce: out = bias + sum of partial sums in split order. For polar_linear with `count` 0 and splits given; for
/// polar_selective_down with the list's count, from which it derives the splits as that kernel does.
/// grid (ceil(columns / POLAR_FLAT_THREADS), rows), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< f32 [rows, columns]
  PolarAddress partial;     ///< f32 [splits, rows, columns]
  PolarAddress bias;        ///< f32 [columns], or 0
  PolarAddress count;       ///< i32 [1], or 0
  int rows, columns, out_stride;
  int splits;               ///< without count
  int capacity;             ///< of the list, with count or for "every neuron" (splits 0)
  int reserved;
} PolarReduceArgs;
POLAR_CHECK_SIZE(PolarReduceArgs, 56);

// ---- Selective MLP (selective.cu) ---------------------------------------------------------------------------------------
// Weights are [neurons, stride] elements, one row per neuron. indices 0: every neuron in order, count = capacity = neurons.

/// Floats of partial sums of selective up. They exist while splits * tiles <= POLAR_TARGET_TILES, whatever the count is.
#define POLAR_UP_PARTIALS(rows, gated) ((rows) * POLAR_TARGET_TILES * POLAR_UP_OUTPUTS * ((gated) ? 2 : 1))

/// polar_selective_up_<tokens> (8, 16, 32, 64), polar_selective_up_gated_<tokens>: Backend.selectiveUp. When the list is short,
/// its inputs are split, and polar_selective_finish completes the sums; launch both always, each reads the count.
/// grid (ceil(capacity / POLAR_UP_OUTPUTS), ceil(rows / tokens), POLAR_MAX_SPLITS), block POLAR_GEMM_THREADS,
/// shared POLAR_UP_SHARED(tokens, gated).
typedef struct {
  PolarAddress out;         ///< f32 [rows, capacity]
  PolarAddress x;           ///< f32 [rows, hidden]
  PolarAddress weight;      ///< elements [neurons, weight_stride]; gated: gate row, then up row, in one
  PolarAddress bias;        ///< f32 [neurons]; gated [2, neurons] with bias_stride; 0: none
  PolarAddress indices;     ///< i32 [capacity], or 0
  PolarAddress count;       ///< i32 [1], or 0
  PolarAddress partial;     ///< f32 [POLAR_UP_PARTIALS(rows, gated)]
  PolarAddress tally;       ///< u64 [2]: receives the length of the list and 1 on top (polar_selective_finish); or 0
  int rows, hidden, capacity, gated;
  int out_stride, x_stride, weight_stride, bias_stride;
  float threshold;
  int reserved;
} PolarSelectiveUpArgs;
POLAR_CHECK_SIZE(PolarSelectiveUpArgs, 104);
// polar_selective_finish takes the same struct.
// grid (ceil(capacity / POLAR_FLAT_THREADS), rows), block POLAR_FLAT_THREADS, shared 0.

/// Dynamic shared memory of polar_selective_down_<tokens>.
#define POLAR_DOWN_SHARED(tokens)                                                                                     \
  (POLAR_GEMM_STAGES(tokens) * (POLAR_DOWN_OUTPUTS * POLAR_DOWN_NEURONS * 2 + (tokens) * (POLAR_DOWN_NEURONS + 8) * 4))

/// polar_selective_down_<tokens> (8, 16, 32, 64): partial sums of Backend.selectiveDown, split over the list; polar_reduce
/// (count, capacity, splits 0) completes them.
/// grid (ceil(hidden / POLAR_DOWN_OUTPUTS), ceil(rows / tokens), POLAR_MAX_SPLITS), block POLAR_GEMM_THREADS,
/// shared POLAR_DOWN_SHARED(tokens).
typedef struct {
  PolarAddress h;           ///< f32 [rows, >= capacity], compact
  PolarAddress weight;      ///< elements [neurons, weight_stride]
  PolarAddress indices;     ///< i32 [capacity], or 0
  PolarAddress count;       ///< i32 [1], or 0
  PolarAddress partial;     ///< out: f32 [POLAR_MAX_SPLITS, rows, hidden]
  int rows, hidden, capacity;
  int h_stride, weight_stride, reserved;
} PolarSelectiveDownArgs;
POLAR_CHECK_SIZE(PolarSelectiveDownArgs, 64);

/// polar_union_sums, polar_union_peaks: out[n] over the rows of the batch: the sum of positive scores in row order (NaN counts as
/// zero), or the largest score (NaN counts as minus infinity).
/// grid ceil(neurons / POLAR_FLAT_THREADS), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< f32 [neurons]
  PolarAddress scores;      ///< f32 [rows, neurons]
  int rows, neurons, scores_stride, reserved;
} PolarUnionArgs;
POLAR_CHECK_SIZE(PolarUnionArgs, 32);

/// polar_list_top_k: the k largest of values[0 ..< n] that are above zero, ties to the lower index; polar_list_above: those
/// above `threshold`. The list is ascending.
/// grid 1, block POLAR_SELECT_THREADS, shared 0.
typedef struct {
  PolarAddress indices;     ///< out: i32 [capacity]
  PolarAddress count;       ///< out: i32 [1]
  PolarAddress values;      ///< f32 [n]
  int n, k;
  float threshold;
  int reserved;
} PolarListArgs;
POLAR_CHECK_SIZE(PolarListArgs, 40);

// ---- Routing and sampling (routing.cu) ----------------------------------------------------------------------------------

/// polar_select_top_k: Backend.selectTopK; polar_select_above: Backend.selectAbove.
/// grid rows, block POLAR_MASK_THREADS, shared 0.
typedef struct {
  PolarAddress mask;        ///< out: u8 [rows, units * heads_per_unit]
  PolarAddress scores;      ///< f32 [rows, units]
  int units, k, heads_per_unit;
  int mask_stride, scores_stride;
  float threshold;
} PolarSelectArgs;
POLAR_CHECK_SIZE(PolarSelectArgs, 40);

/// polar_head_norms: Backend.headNorms; polar_head_deviations: Backend.headDeviations.
/// grid (rows, heads), block 128, shared head_dim * 4 bytes.
typedef struct {
  PolarAddress out;         ///< f32 [rows, heads]
  PolarAddress attention;   ///< f32 [rows, heads * head_dim]
  PolarAddress fallback;    ///< f32 [rows, heads * head_dim], or 0
  PolarAddress gram;        ///< f32 [heads * head_dim, head_dim]
  PolarAddress residual;    ///< f32 [rows, hidden]
  int head_dim, hidden;
  int out_stride, attention_stride, fallback_stride, gram_stride, residual_stride, reserved;
} PolarHeadMeasureArgs;
POLAR_CHECK_SIZE(PolarHeadMeasureArgs, 72);

// ---- Routers (router.cu) ------------------------------------------------------------------------------------------------
// A router and its choice in one launch. Blocks that share a result count themselves in; the last one completes it.

/// Rows of a block of polar_route_heads.
enum { POLAR_ROUTE_ROWS = 8 };

/// polar_route_heads: Backend.routeHeads. Sums are those of polar_linear with `splits` pieces.
/// grid (ceil(units / POLAR_UP_OUTPUTS) + ceil(hidden_units / POLAR_UP_OUTPUTS), ceil(rows / POLAR_ROUTE_ROWS), splits), block
/// POLAR_GEMM_THREADS, shared POLAR_UP_SHARED(POLAR_ROUTE_ROWS, 0).
typedef struct {
  PolarAddress mask;        ///< out: u8 [rows, units * heads_per_unit]
  PolarAddress scores;      ///< out: f32 [rows, units]
  PolarAddress x;           ///< f32 [rows, inputs]
  PolarAddress weight;      ///< elements [units, weight_stride]
  PolarAddress bias;        ///< f32 [units]
  PolarAddress hidden_weight; ///< elements [hidden_units, weight_stride], or 0
  PolarAddress hidden_bias; ///< f32 [hidden_units], or 0
  PolarAddress output_weight; ///< elements [units, output_stride], or 0
  PolarAddress partial;     ///< f32 [splits, rows, units + hidden_units]
  PolarAddress hidden;      ///< f32 [rows, hidden_stride]: after ReLU
  PolarAddress counters;    ///< u32 [grid.y], zero before and after
  int rows, inputs, units, hidden_units;
  int mask_stride, scores_stride, x_stride, weight_stride, output_stride, hidden_stride;
  int heads_per_unit;
  int above;                ///< 1: scores greater than threshold; 0: the k largest
  int k;
  float threshold;
} PolarRouteHeadsArgs;
POLAR_CHECK_SIZE(PolarRouteHeadsArgs, 144);

/// polar_route_neurons_<tokens> (8, 16, 32, 64): the second product of a router of neurons, and over the rows of the batch what
/// Backend.routeNeurons needs of it, so that scores are never stored. With `sums`: the sum of positive scores, as
/// polar_union_sums. Without: the list of neurons that a row scores above `threshold`, ascending.
/// grid ceil(neurons / POLAR_UP_OUTPUTS), block POLAR_GEMM_THREADS, shared POLAR_UP_SHARED(tokens, 0).
typedef struct {
  PolarAddress sums;        ///< out: f32 [neurons], or 0
  PolarAddress indices;     ///< out: i32 [neurons], without sums
  PolarAddress count;       ///< out: i32 [1], without sums
  PolarAddress bits;        ///< u64 [grid.x], without sums: bit i is set when neuron i of the block is in the union
  PolarAddress counter;     ///< u32 [1], zero before and after
  PolarAddress x;           ///< f32 [rows, rank]
  PolarAddress weight;      ///< elements [neurons, weight_stride]
  int rows, rank, neurons;
  int x_stride, weight_stride;
  float threshold;
} PolarRouteNeuronsArgs;
POLAR_CHECK_SIZE(PolarRouteNeuronsArgs, 80);

/// How the token of one row is drawn (PolarEngine.SamplingParameters; penalties are the caller's).
typedef struct {
  float temperature;        ///< 0: the most likely token
  float top_p;              ///< 1: all
  float min_p;              ///< 0: all
  int top_k;                ///< 0: all
  double uniform;           ///< the random number, in [0, 1)
} PolarSamplingRow;
POLAR_CHECK_SIZE(PolarSamplingRow, 24);

/// polar_argmax: the lowest index of the largest logit; -1 when a logit is NaN or none is finite. polar_sample: one draw by
/// `parameters`; the candidates are walked in order of index. -1 as in polar_argmax.
/// grid rows, block POLAR_SELECT_THREADS, shared 0.
typedef struct {
  PolarAddress tokens;      ///< out: i32 [rows]
  PolarAddress logits;      ///< f32 [rows, vocabulary]
  PolarAddress parameters;  ///< PolarSamplingRow [rows]; polar_argmax: 0
  int vocabulary, logits_stride;
} PolarSampleArgs;
POLAR_CHECK_SIZE(PolarSampleArgs, 32);

// ---- The list of all kernels --------------------------------------------------------------------------------------------
// X(source file without .cu, entry, argument struct). Kernels of `attention` depend on the head dim.

#define POLAR_CUDA_KERNELS(X)                                          \
  X(attention, polar_attention_plan, PolarAttentionPlanArgs)           \
  X(attention, polar_attention_decode, PolarAttentionDecodeArgs)       \
  X(attention, polar_attention_combine, PolarAttentionCombineArgs)     \
  X(attention, polar_attention_prefill, PolarAttentionPrefillArgs)     \
  X(attention, polar_store_kv, PolarStoreKVArgs)                       \
  X(attention, polar_rotary_store_kv, PolarRotaryStoreKVArgs)          \
  X(dense, polar_embed, PolarEmbedArgs)                                \
  X(dense, polar_gather_rows, PolarGatherRowsArgs)                     \
  X(dense, polar_rms_norm, PolarRMSNormArgs)                           \
  X(dense, polar_layer_norm, PolarLayerNormArgs)                       \
  X(dense, polar_add, PolarElementwiseArgs)                            \
  X(dense, polar_relu, PolarElementwiseArgs)                           \
  X(dense, polar_gelu, PolarElementwiseArgs)                           \
  X(dense, polar_silu_mul, PolarElementwiseArgs)                       \
  X(dense, polar_relu_mul, PolarElementwiseArgs)                       \
  X(dense, polar_convert, PolarElementwiseArgs)                        \
  X(linear, polar_linear_8, PolarLinearArgs)                           \
  X(linear, polar_linear_16, PolarLinearArgs)                          \
  X(linear, polar_linear_32, PolarLinearArgs)                          \
  X(linear, polar_linear_64, PolarLinearArgs)                          \
  X(linear, polar_reduce, PolarReduceArgs)                             \
  X(selective, polar_selective_up_8, PolarSelectiveUpArgs)             \
  X(selective, polar_selective_up_16, PolarSelectiveUpArgs)            \
  X(selective, polar_selective_up_32, PolarSelectiveUpArgs)            \
  X(selective, polar_selective_up_64, PolarSelectiveUpArgs)            \
  X(selective, polar_selective_up_gated_8, PolarSelectiveUpArgs)       \
  X(selective, polar_selective_up_gated_16, PolarSelectiveUpArgs)      \
  X(selective, polar_selective_up_gated_32, PolarSelectiveUpArgs)      \
  X(selective, polar_selective_up_gated_64, PolarSelectiveUpArgs)      \
  X(selective, polar_selective_finish, PolarSelectiveUpArgs)           \
  X(selective, polar_selective_down_8, PolarSelectiveDownArgs)         \
  X(selective, polar_selective_down_16, PolarSelectiveDownArgs)        \
  X(selective, polar_selective_down_32, PolarSelectiveDownArgs)        \
  X(selective, polar_selective_down_64, PolarSelectiveDownArgs)        \
  X(routing, polar_union_sums, PolarUnionArgs)                         \
  X(routing, polar_union_peaks, PolarUnionArgs)                        \
  X(routing, polar_list_top_k, PolarListArgs)                          \
  X(routing, polar_list_above, PolarListArgs)                          \
  X(routing, polar_select_top_k, PolarSelectArgs)                      \
  X(routing, polar_select_above, PolarSelectArgs)                      \
  X(routing, polar_head_norms, PolarHeadMeasureArgs)                   \
  X(routing, polar_head_deviations, PolarHeadMeasureArgs)              \
  X(routing, polar_argmax, PolarSampleArgs)                            \
  X(routing, polar_sample, PolarSampleArgs)                            \
  X(router, polar_route_heads, PolarRouteHeadsArgs)                    \
  X(router, polar_route_neurons_8, PolarRouteNeuronsArgs)              \
  X(router, polar_route_neurons_16, PolarRouteNeuronsArgs)             \
  X(router, polar_route_neurons_32, PolarRouteNeuronsArgs)             \
  X(router, polar_route_neurons_64, PolarRouteNeuronsArgs)             \
  POLAR_CUDA_TRAINING_KERNELS(X)

// ---- Choices that host and device share ---------------------------------------------------------------------------------

#if defined(__CUDACC__)
#define POLAR_SHARED_FUNCTION static __device__ __forceinline__
#else
#define POLAR_SHARED_FUNCTION static inline
#endif

/// Pieces that a linear layer's inputs are cut into so that its tiles fill the device: a function of the shape alone.
POLAR_SHARED_FUNCTION int polar_linear_splits(int outputs, int inputs) {
  int tiles = POLAR_CEIL_DIV(outputs, POLAR_UP_OUTPUTS);
  int splits = POLAR_TARGET_TILES / tiles;
  int most = inputs / (8 * POLAR_UP_INPUTS);  // at least 512 inputs each
  if (splits > most) splits = most;
  if (splits > POLAR_MAX_SPLITS) splits = POLAR_MAX_SPLITS;
  return splits < 1 ? 1 : splits;
}

/// The same for selective up, with `count` neurons in the list.
POLAR_SHARED_FUNCTION int polar_up_splits(int count, int hidden) { return polar_linear_splits(count < 1 ? 1 : count, hidden); }

/// Pieces that the list of selective down is cut into.
POLAR_SHARED_FUNCTION int polar_down_splits(int count, int hidden) {
  int splits = POLAR_TARGET_TILES / POLAR_CEIL_DIV(hidden, POLAR_DOWN_OUTPUTS);
  int most = count / (8 * POLAR_DOWN_NEURONS);  // at least 256 neurons each
  if (splits > most) splits = most;
  if (splits > POLAR_MAX_SPLITS) splits = POLAR_MAX_SPLITS;
  return splits < 1 ? 1 : splits;
}

/// Tokens of a block for `rows` rows: the variant of a matrix kernel to launch.
POLAR_SHARED_FUNCTION int polar_token_tile(int rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64; }

#endif
