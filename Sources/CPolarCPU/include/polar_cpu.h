// CPU kernels of Polar: weights of 16, 8 and 4 bits, bf16 KV cache, f32 activations, instruction set chosen at run time.
//
// All matrices are row-major with a row stride in elements. Weights are packed in panels of 32 outputs (see weights.c),
// which a thread reads as one sequential stream.
// Determinism: one result element is computed by the same chain of operations whatever the number of rows, of
// threads, or of selected heads; results are bit-identical across all of them for a given instruction set.
// One call at a time uses the threads of a context; concurrent callers wait for each other.
#ifndef POLAR_CPU_H
#define POLAR_CPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// MARK: Instruction sets

enum {
  POLAR_ISA_GENERIC = 0,  // plain C with 128-bit vectors: x86-64 baseline, arm64
  POLAR_ISA_AVX2 = 1,     // AVX2 + FMA + F16C
  POLAR_ISA_AVXVNNI = 2,  // AVX2 + FMA + F16C, and AVX-VNNI for weights of 8 and 4 bits
  POLAR_ISA_AVX512 = 3,   // AVX-512 F, BW, DQ, VL, BF16, VNNI and VBMI
  POLAR_ISA_NEON = 4,     // NEON with I8MM
  POLAR_ISA_LAST = POLAR_ISA_NEON,
};

// The table of kernels of one instruction set (opaque).
typedef struct polar_kernels polar_kernels;

// 1 when this machine runs `isa`.
int polar_isa_supported(int isa);
// The fastest instruction set that this machine runs.
int polar_isa_best(void);
// A short name: "generic", "avx2", "avxvnni", "avx512", "neon".
const char *polar_cpu_isa_name(int isa);
// The kernels of `isa`, or NULL when they are not in this build (x86 sets on arm64).
const polar_kernels *polar_cpu_table(int isa);

// MARK: Memory

// Zeroed memory aligned to 64 bytes (2 MiB and backed by huge pages when large), or NULL.
void *polar_memory_allocate(size_t bytes);
// Gives back what polar_memory_allocate returned for the same size.
void polar_memory_free(void *memory, size_t bytes);

// MARK: Context

// Threads, scratch memory and kernels. All scratch is allocated at creation; no later call allocates.
typedef struct polar_context polar_context;

// A context with `threads` threads, the caller included (0: as many as the process may run on). NULL on failure.
polar_context *polar_context_create(int threads, int isa);
void polar_context_destroy(polar_context *context);
int polar_context_threads(const polar_context *context);
// Processor time in seconds that the context's threads have used, the callers' excluded. It stands still while they park.
double polar_context_worker_seconds(polar_context *context);

// Threads that this process can run at once: its affinity, or less where a control group (version 1 or 2) limits its
// processor time. At least 1.
int polar_online_processors(void);
// The processors, rounded up, that control groups leave to the process whose /proc/PID/cgroup is the file `membership`,
// with the hierarchies mounted at `mount`; 0 when they set no limit.
int polar_cgroup_processors(const char *membership, const char *mount);

// MARK: Weights

// How a weight is stored. All but bf16 are in groups of 32 inputs, quantised as ggml's block formats of the same
// content are, and are multiplied with activations that are quantised to 8 bits: see WeightFormat in PolarCore.
enum {
  POLAR_WEIGHT_BF16 = 0,
  POLAR_WEIGHT_INT8 = 1,         // Q8_0: f16 scale, codes -128...127
  POLAR_WEIGHT_INT4 = 2,         // Q4_0: f16 scale, codes 0...15 that stand for -8...7
  POLAR_WEIGHT_INT4_AFFINE = 3,  // Q4_1: f16 scale, f16 minimum, codes 0...15
};

// A packed weight `[outputs, inputs]`; inputs are even.
typedef struct {
  void *data;
  int64_t outputs, inputs;
  int32_t format;
} polar_weight;

// Bytes of a packed weight.
int64_t polar_packed_bytes(int64_t outputs, int64_t inputs, int format);
// Packs `count` rows of f32 `[count, inputs]` from `first_row` on, rounding to nearest even. Calls for different rows
// of one weight may run at the same time. Rows that are never packed are zero if the memory was.
void polar_pack_rows(const polar_weight *weight, int64_t first_row, int64_t count, const float *values);
// Packs rows given as ggml's blocks of the weight's format, one after the other; inputs are a multiple of 32.
void polar_pack_blocks(const polar_weight *weight, int64_t first_row, int64_t count, const void *blocks);
// Reads `count` rows back as f32 `[count, inputs]`.
void polar_unpack_rows(
  polar_context *context, const polar_weight *weight, int64_t first_row, int64_t count, float *values);

// MARK: Dense ops

// What becomes of a linear layer's results. Gated: the weight's first half is the gate g, the second half u, `out` is half as
// wide, and the weight's outputs are a multiple of 64.
enum {
  POLAR_LINEAR_PLAIN = 0,
  POLAR_LINEAR_SILU = 1,  // as polar_silu_mul of (g, u)
  POLAR_LINEAR_RELU = 2,  // as polar_relu_mul of (g, u)
};

// `out[i, n] = bias[n] + sum_k x[i, k] * weight[n, k]`; bias may be NULL. inputs <= 524288.
typedef struct {
  polar_weight weight;
  const float *bias;
  const float *x;
  float *out;
  int64_t x_stride, out_stride;
  int64_t rows;
  int32_t activation;
  float threshold;
} polar_linear_args;
void polar_linear(polar_context *context, const polar_linear_args *args);

// A row-wise op on `rows` rows of `columns` elements; which members it reads is said at each function.
typedef struct {
  float *out;
  const float *a, *b;
  const float *c;
  const float *weight, *bias;
  const int32_t *indices;
  int64_t out_stride, a_stride, b_stride, c_stride, weight_stride;
  int64_t rows, columns;
  int64_t heads, head_dim;
  float epsilon, threshold;
} polar_row_args;

// `out = a / sqrt(mean(a^2) + epsilon) * weight`.
void polar_rms_norm(polar_context *context, const polar_row_args *args);
// `a += b; out = rms_norm(a)`; a is written.
void polar_add_rms_norm(polar_context *context, const polar_row_args *args);
// `out = (a - mean) / sqrt(variance + epsilon) * weight + bias`.
void polar_layer_norm(polar_context *context, const polar_row_args *args);
// `out[j] = silu(a[j]) * a[columns + j]`.
void polar_silu_mul(polar_context *context, const polar_row_args *args);
// `out[j] = a[j] > threshold ? a[j] * a[columns + j] : 0`.
void polar_relu_mul(polar_context *context, const polar_row_args *args);
// `out = max(out, 0)`.
void polar_relu(polar_context *context, const polar_row_args *args);
// `out = gelu(out)` (erf form).
void polar_gelu(polar_context *context, const polar_row_args *args);
// `out += a`.
void polar_add(polar_context *context, const polar_row_args *args);
// `out[i] = a[indices[i]]`.
void polar_gather_rows(polar_context *context, const polar_row_args *args);
// `out[i, h, :] /= sqrt(mean(out[i, h, :]^2) + epsilon)`, times weight `[head_dim]`, for the first `heads` heads of a row.
void polar_head_rms_norm(polar_context *context, const polar_row_args *args);
// `out[i, h] = || a[i, h, :] ||`.
void polar_head_norms(polar_context *context, const polar_row_args *args);
// `out[i, h] = sqrt(d' G_h d) / || b[i, :columns] ||`, d = a[i, h, :] - c[i, h, :] (c may be NULL),
// G = weight `[heads * head_dim, head_dim]`, rows weight_stride apart. head_dim <= 1024.
void polar_head_deviations(polar_context *context, const polar_row_args *args);

// `out[i, :] = table[tokens[i], :]`.
void polar_embed(
  polar_context *context, float *out, int64_t out_stride, const int32_t *tokens, int64_t rows,
  const polar_weight *table);

// MARK: Attention

enum {
  POLAR_KV_BF16 = 0,
  POLAR_KV_INT8 = 1,
};

// One layer's paged cache: `[kv_heads][pages]` blocks.
// bf16: the K page `[head_dim/2][16][2]`, then the V page `[8][head_dim][2]`.
// int8, with head_dim rounded up to P, a multiple of 4 (at most 512): the K page `[P/4][16][4]`, the V page `[4][P][4]`,
// then bf16 scales: of the 16 tokens of K, of the 16 tokens of V. An element is its code times its token's scale.
typedef struct {
  void *blocks;
  int64_t pages;
  int32_t kv_heads, head_dim;
  int32_t type;
} polar_kv;

// Writes K and V rows, f32 `[rows, kv_heads * head_dim]`, to slots (page * 16 + offset). int8: the scale is the least
// bf16 number >= max |x| / 127 of the head's vector, a code the nearest to x / scale (ties to even); a vector with an
// element that is not finite gets a NaN for its scale.
void polar_store_kv(
  polar_context *context, const polar_kv *kv, const float *key, int64_t key_stride, const float *value,
  int64_t value_stride, const int32_t *slots, int64_t rows);

typedef struct {
  polar_kv kv;
  float *x;                          // [rows, (heads + 2 * kv_heads) * head_dim]: queries, keys, values
  int64_t x_stride, rows;
  int32_t heads;
  const int32_t *positions, *slots;  // [rows]
  const float *inverse_frequencies;  // [head_dim / 2]
} polar_rotary_args;

// Rotates queries and keys in place by angle `positions[i] * inverse_frequencies[j]`, pairs (j, j + d/2), and writes keys
// and values as polar_store_kv does.
void polar_rotary_store_kv(polar_context *context, const polar_rotary_args *args);

enum {
  POLAR_FALLBACK_ZERO = 0,
  POLAR_FALLBACK_CONSTANT = 1,
  POLAR_FALLBACK_LOCAL = 2,
};

typedef struct {
  polar_kv kv;
  const float *query;         // [rows, heads * head_dim]
  float *out;                 // [rows, heads * head_dim]
  int64_t query_stride, out_stride;
  const int32_t *positions;   // [rows]
  const int32_t *sequences;   // [rows]: the row of `tables` of each row
  const int32_t *tables;      // [sequences, table_stride]: pages of each sequence
  int64_t table_stride;
  int64_t rows;
  int32_t heads;
  float scale;
  const uint8_t *mask;        // [rows, heads], 1 = computed in full; NULL = all (decode only)
  int64_t mask_stride;
  int32_t fallback;           // what heads with mask 0 get (decode); POLAR_FALLBACK_LOCAL = local span (prefill)
  const float *constant;      // [heads, head_dim], or [rows, heads, head_dim], for POLAR_FALLBACK_CONSTANT
  int64_t constant_stride;    // elements from one head's constant to the next
  int64_t constant_row_stride; // elements from one row's constants to the next; 0 when all rows share them
  int32_t sink_pages, recent_pages;
  int32_t window;             // tokens that a row attends to, itself included; 0 = all earlier ones
} polar_attention_args;

// Attention of one row per sequence (row i is sequence i).
void polar_decode_attention(polar_context *context, const polar_attention_args *args);
// Causal attention of all rows; rows of a sequence are consecutive and ascend in position.
void polar_prefill_attention(polar_context *context, const polar_attention_args *args);

// MARK: Routing

// `tokens[i]` = the lowest index of the largest of row i's logits; -1 when one is NaN or the largest is not finite.
void polar_argmax(
  polar_context *context, int32_t *tokens, const float *logits, int64_t logits_stride, int64_t rows,
  int64_t vocabulary);
// Marks the k largest of each row's units; ties go to the lower index. mask u8 `[rows, units * heads_per_unit]`.
void polar_select_top_k(
  uint8_t *mask, int64_t mask_stride, const float *scores, int64_t score_stride, int64_t rows, int64_t units,
  int64_t k, int64_t heads_per_unit);
// Marks the units whose score is greater than `threshold`.
void polar_select_above(
  uint8_t *mask, int64_t mask_stride, const float *scores, int64_t score_stride, int64_t rows, int64_t units,
  float threshold, int64_t heads_per_unit);

// MARK: Selective MLP

// The halves of a ReLU MLP on chosen neurons. Weights are bf16, one row per neuron, rows weight_stride apart.
typedef struct {
  const uint16_t *weight;    // [neurons, hidden]; up, gated: [neurons, 2 * hidden], gate then up
  const float *bias;         // up: [neurons], down: [hidden]; NULL is zero
  const float *gated_bias;   // up, gated: the bias of the second half, [neurons]; NULL is zero
  const float *x;            // up: [rows, hidden]; down: [rows, count]
  float *out;                // up: [rows, count]; down: [rows, hidden]
  const int32_t *indices;    // ascending; NULL = all neurons in order
  const int32_t *count;      // [1]: how many indices count; NULL = all neurons
  int64_t weight_stride, x_stride, out_stride;
  int64_t rows, hidden, neurons;
  float threshold;           // up only
  int gated;                 // up only
} polar_selective_args;

// With n = indices[j] and a = bias[n] + x[i] . weight[n]: `out[i, j] = a > threshold ? a : 0`; gated: a times
// `gated_bias[n] + x[i] . weight[n, hidden:]`.
void polar_selective_up(polar_context *context, const polar_selective_args *args);
// `out[i, d] = bias[d] + sum_j x[i, j] * weight[indices[j], d]`.
void polar_selective_down(polar_context *context, const polar_selective_args *args);

// A list of neurons from the scores of a batch.
typedef struct {
  int32_t *indices;          // out: ascending
  int32_t *count;            // out: [1]
  float *aggregate;          // out: [neurons], the sums or the maxima over the rows
  const float *scores;       // [rows, neurons]
  int64_t score_stride, rows, neurons;
  int64_t k;                 // polar_top_k_union
  float threshold;           // polar_union_above
} polar_union_args;

// The k neurons of largest sum of positive scores, ties to the lower index, none whose sum is zero.
void polar_top_k_union(polar_context *context, const polar_union_args *args);
// The neurons with a score above the threshold in any row.
void polar_union_above(polar_context *context, const polar_union_args *args);

// MARK: Training

// `c[i, j] = sum_p a(i, p) * b[p, j]`, added to c when `accumulate`; a(i, p) lies at `a[i * row_stride + p * inner_stride]`,
// so that either orientation is read in place. All f32; c `[rows, columns]`, b `[inner, columns]`.
typedef struct {
  float *c;
  const float *a, *b;
  int64_t c_stride, row_stride, inner_stride, b_stride;
  int64_t rows, columns, inner;
  int accumulate;
} polar_matmul_args;
// Runs on the calling thread.
void polar_matmul(const polar_kernels *kernels, const polar_matmul_args *args);

// MARK: Measurement

// GB/s (1e9 bytes) that all threads read together from `bytes` of memory, one sequential stream each; best of
// `repeats`. 0 when memory is short.
double polar_measure_read_bandwidth(polar_context *context, size_t bytes, int repeats);
// GFLOP/s of the multiply-add that linear layers use, all threads together, from registers.
double polar_measure_fma_peak(polar_context *context);
// GOP/s (a product and a sum are two) of the products of bytes that linear layers on quantised weights use.
double polar_measure_int_peak(polar_context *context);

#ifdef __cplusplus
}
#endif
#endif
