// Row-wise ops, KV writes and routing.
#include <math.h>
#include <string.h>
#include "context.h"

void polar_rms_norm(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->rms_norm, args, args->rows * args->columns);
}

void polar_add_rms_norm(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->add_rms_norm, args, args->rows * args->columns);
}

void polar_layer_norm(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->layer_norm, args, args->rows * args->columns);
}

void polar_silu_mul(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->silu_mul, args, 4 * args->rows * args->columns);
}

void polar_relu_mul(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->relu_mul, args, 2 * args->rows * args->columns);
}

void polar_relu(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->relu, args, args->rows * args->columns);
}

void polar_add(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->add, args, args->rows * args->columns);
}

void polar_head_rms_norm(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->head_rms_norm, args, args->rows * args->heads * args->head_dim);
}

void polar_head_norms(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, context->kernels->head_norms, args, args->rows * args->heads * args->head_dim);
}

void polar_head_deviations(polar_context *context, const polar_row_args *args) {
  polar_run_rows(
    context, context->kernels->head_deviations, args,
    args->rows * args->heads * args->head_dim * args->head_dim / 8);
}

static void gelu(const polar_row_args *args, int64_t low, int64_t high) {
  for (int64_t row = low; row < high; row++) {
    float *x = args->out + row * args->out_stride;
    for (int64_t i = 0; i < args->columns; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
  }
}

void polar_gelu(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, gelu, args, 16 * args->rows * args->columns);
}

static void gather_rows(const polar_row_args *args, int64_t low, int64_t high) {
  for (int64_t row = low; row < high; row++)
    memcpy(
      args->out + row * args->out_stride, args->a + args->indices[row] * args->a_stride,
      (size_t)args->columns * sizeof(float));
}

void polar_gather_rows(polar_context *context, const polar_row_args *args) {
  polar_run_rows(context, gather_rows, args, args->rows * args->columns);
}

// The scale of a vector; its codes go to `out`, element d to d / 4 * stride + d % 4 * step.
static uint16_t quantize(const float *x, int64_t count, int8_t *out, int64_t stride, int64_t step) {
  float most = 0;
  int finite = 1;
  for (int64_t d = 0; d < count; d++) {
    const float size = fabsf(x[d]);
    most = size > most ? size : most;
    finite &= size <= 3.402823466e38f;
  }
  if (!finite) most = 0;
  union { float f; uint32_t u; } bits = {most / 127};
  const uint16_t scale = (uint16_t)((bits.u + 0xffffu) >> 16);  // rounded up
  const float divisor = scale ? polar_f32(scale) : 1;
  for (int64_t d = 0; d < count; d++) {
    // Adding 1.5 * 2^23 rounds to an integer, ties to even.
    const float code = most > 0 ? x[d] / divisor + 12582912.0f - 12582912.0f : 0;
    out[d / 4 * stride + d % 4 * step] = (int8_t)code;
  }
  return finite ? scale : 0x7fc0;
}

// store_kv for an int8 cache.
static void store_kv_int8(const polar_row_args *args, int64_t low, int64_t high) {
  const int64_t head_dim = args->head_dim, padded = polar_kv_padded(head_dim), pages = args->columns;
  for (int64_t row = low; row < high; row++) {
    const int64_t page = args->indices[row] / POLAR_PAGE, token = args->indices[row] % POLAR_PAGE;
    for (int64_t head = 0; head < args->heads; head++) {
      char *block = (char *)args->out + (head * pages + page) * polar_kv_block_bytes(POLAR_KV_INT8, head_dim);
      int8_t *k = (int8_t *)block, *v = k + POLAR_PAGE * padded;
      uint16_t *scales = (uint16_t *)(void *)(v + POLAR_PAGE * padded);
      scales[token] = quantize(
        args->a + row * args->a_stride + head * head_dim, head_dim, k + token * 4, 4 * POLAR_PAGE, 1);
      scales[POLAR_PAGE + token] = quantize(
        args->b + row * args->b_stride + head * head_dim, head_dim, v + token / 4 * 4 * padded + token % 4, 16, 4);
    }
  }
}

static polar_row_kernel storing(const polar_context *context, const polar_kv *kv) {
  return kv->type == POLAR_KV_INT8 ? store_kv_int8 : context->kernels->store_kv;
}

// Key, value and slots travel as a, b and indices; `out` is the start of the cache, `columns` its pages.
static polar_row_args stored_rows(const polar_kv *kv, const int32_t *slots, int64_t rows) {
  return (polar_row_args){
    .out = (float *)(void *)kv->blocks,
    .indices = slots,
    .rows = rows,
    .columns = kv->pages,
    .heads = kv->kv_heads,
    .head_dim = kv->head_dim,
  };
}

void polar_store_kv(
  polar_context *context, const polar_kv *kv, const float *key, int64_t key_stride, const float *value,
  int64_t value_stride, const int32_t *slots, int64_t rows
) {
  polar_row_args args = stored_rows(kv, slots, rows);
  args.a = key;
  args.a_stride = key_stride;
  args.b = value;
  args.b_stride = value_stride;
  polar_run_rows(context, storing(context, kv), &args, 4 * rows * kv->kv_heads * kv->head_dim);
}

typedef struct {
  polar_row_kernel rotate, store;
  polar_row_args rotated, stored;
} rotary_job;

static void rotate_and_store(const rotary_job *job, int64_t low, int64_t high) {
  for (int64_t row = low; row < high; row++) {
    job->rotate(&job->rotated, row, row + 1);
    job->store(&job->stored, row, row + 1);
  }
}

static void run_rotary(void *argument, int thread, int threads) {
  const rotary_job *job = argument;
  const int64_t rows = job->rotated.rows;
  rotate_and_store(job, rows * thread / threads, rows * (thread + 1) / threads);
}

void polar_rotary_store_kv(polar_context *context, const polar_rotary_args *args) {
  const int64_t head_dim = args->kv.head_dim, queries = args->heads * head_dim, keys = args->kv.kv_heads * head_dim;
  rotary_job job = {
    .rotate = context->kernels->rotary,
    .store = storing(context, &args->kv),
    .rotated = {
      .out = args->x,
      .out_stride = args->x_stride,
      .indices = args->positions,
      .weight = args->inverse_frequencies,
      .rows = args->rows,
      .heads = args->heads + args->kv.kv_heads,
      .head_dim = head_dim,
    },
    .stored = stored_rows(&args->kv, args->slots, args->rows),
  };
  job.stored.a = args->x + queries;
  job.stored.b = args->x + queries + keys;
  job.stored.a_stride = job.stored.b_stride = args->x_stride;
  if (polar_shared(context, args->rows, args->rows * (2 * queries + 4 * keys)))
    polar_context_run(context, run_rotary, &job);
  else
    rotate_and_store(&job, 0, args->rows);
}

void polar_argmax(
  polar_context *context, int32_t *tokens, const float *logits, int64_t logits_stride, int64_t rows,
  int64_t vocabulary
) {
  const polar_row_args args = {
    .out = (float *)(void *)tokens,
    .a = logits,
    .a_stride = logits_stride,
    .rows = rows,
    .columns = vocabulary,
  };
  polar_run_rows(context, context->kernels->argmax, &args, rows * vocabulary);
}

// NaN ranks below every number.
static float ranked(float score) { return score == score ? score : -INFINITY; }

void polar_select_top_k(
  uint8_t *mask, int64_t mask_stride, const float *scores, int64_t score_stride, int64_t rows, int64_t units,
  int64_t k, int64_t heads_per_unit
) {
  for (int64_t row = 0; row < rows; row++) {
    const float *s = scores + row * score_stride;
    for (int64_t i = 0; i < units; i++) {
      // A unit is in when fewer than k others come before it.
      const float own = ranked(s[i]);
      int64_t ahead = 0;
      for (int64_t j = 0; j < i; j++) ahead += ranked(s[j]) >= own;
      for (int64_t j = i + 1; j < units; j++) ahead += ranked(s[j]) > own;
      memset(mask + row * mask_stride + i * heads_per_unit, ahead < k, (size_t)heads_per_unit);
    }
  }
}

void polar_select_above(
  uint8_t *mask, int64_t mask_stride, const float *scores, int64_t score_stride, int64_t rows, int64_t units,
  float threshold, int64_t heads_per_unit
) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < units; i++)
      memset(
        mask + row * mask_stride + i * heads_per_unit, scores[row * score_stride + i] > threshold,
        (size_t)heads_per_unit);
}
