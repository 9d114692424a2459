// Weights: packing, linear layers, embedding.
#include <string.h>
#include "context.h"

static int64_t panels_of(int64_t outputs) { return (outputs + POLAR_PANEL - 1) / POLAR_PANEL; }

int64_t polar_packed_bytes(int64_t outputs, int64_t inputs) {
  return panels_of(outputs) * POLAR_PANEL * inputs * (int64_t)sizeof(uint16_t);
}

typedef struct {
  polar_context *context;
  const polar_linear_args *args;
  int64_t row_block, row_blocks, panels;
} linear_job;

// Units are (row block, panel), row block by row block; a thread takes a run of them.
static void run_linear(void *argument, int thread, int threads) {
  const linear_job *job = argument;
  const int64_t units = job->row_blocks * job->panels;
  int64_t unit = units * thread / threads;
  const int64_t end = units * (thread + 1) / threads;
  while (unit < end) {
    const int64_t block = unit / job->panels, panel = unit % job->panels;
    const int64_t last = panel + (end - unit) < job->panels ? panel + (end - unit) : job->panels;
    const int64_t row = block * job->row_block;
    const int64_t row_end = row + job->row_block < job->args->rows ? row + job->row_block : job->args->rows;
    job->context->kernels->linear(
      job->args, row, row_end, panel, last, job->context->scratch[thread].linear);
    unit += last - panel;
  }
}

void polar_linear(polar_context *context, const polar_linear_args *args) {
  if (args->rows == 0 || args->outputs == 0) return;
  int64_t row_block = POLAR_ROW_BLOCK;
  if (context->kernels->linear_uses_scratch) {
    const int64_t fitting = POLAR_LINEAR_SCRATCH / args->inputs;
    row_block = fitting < row_block ? (fitting >= 8 ? fitting / 8 * 8 : fitting) : row_block;
  }
  linear_job job = {
    .context = context,
    .args = args,
    .row_block = row_block,
    .row_blocks = (args->rows + row_block - 1) / row_block,
    .panels = panels_of(args->outputs),
  };
  polar_context_run(context, run_linear, &job);
}

typedef struct {
  uint16_t *weight;
  int64_t outputs, inputs, first_row, count;
  const float *values;
} pack_job;

static void run_pack(void *argument, int thread, int threads) {
  const pack_job *job = argument;
  const int64_t end = job->first_row + job->count, pairs = job->inputs / 2;
  const int64_t first_panel = job->first_row / POLAR_PANEL, panels = panels_of(end) - first_panel;
  const int64_t low = first_panel + panels * thread / threads;
  const int64_t high = first_panel + panels * (thread + 1) / threads;
  for (int64_t panel = low; panel < high; panel++) {
    const int64_t base = panel * POLAR_PANEL;
    const int64_t from = base < job->first_row ? job->first_row - base : 0;
    const int64_t to = end - base < POLAR_PANEL ? end - base : POLAR_PANEL;
    // The call that packs the last row also clears the padding.
    const int64_t clear = end == job->outputs ? POLAR_PANEL : to;
    for (int64_t pair = 0; pair < pairs; pair++) {
      uint16_t *out = job->weight + (panel * pairs + pair) * 2 * POLAR_PANEL;
      for (int64_t j = from; j < to; j++) {
        const float *row = job->values + (base + j - job->first_row) * job->inputs + 2 * pair;
        out[2 * j] = polar_bf16(row[0]);
        out[2 * j + 1] = polar_bf16(row[1]);
      }
      for (int64_t j = to; j < clear; j++) out[2 * j] = out[2 * j + 1] = 0;
    }
  }
}

void polar_pack_rows(
  polar_context *context, void *weight, int64_t outputs, int64_t inputs, int64_t first_row, int64_t count,
  const float *values
) {
  if (count == 0) return;
  pack_job job = {weight, outputs, inputs, first_row, count, values};
  if (count * inputs < 16384) {
    run_pack(&job, 0, 1);
  } else {
    polar_context_run(context, run_pack, &job);
  }
}

static void unpack_row(const uint16_t *weight, int64_t inputs, int64_t row, float *out) {
  const uint16_t *in = weight + row / POLAR_PANEL * inputs * POLAR_PANEL + row % POLAR_PANEL * 2;
  for (int64_t pair = 0; pair < inputs / 2; pair++, in += 2 * POLAR_PANEL) {
    out[2 * pair] = polar_f32(in[0]);
    out[2 * pair + 1] = polar_f32(in[1]);
  }
}

typedef struct {
  const uint16_t *weight;
  const int32_t *tokens;  // rows to read, or NULL for first_row, first_row + 1, ...
  int64_t inputs, first_row, count, stride;
  float *out;
} unpack_job;

static void run_unpack(void *argument, int thread, int threads) {
  const unpack_job *job = argument;
  const int64_t high = job->count * (thread + 1) / threads;
  for (int64_t i = job->count * thread / threads; i < high; i++)
    unpack_row(
      job->weight, job->inputs, job->tokens ? job->tokens[i] : job->first_row + i, job->out + i * job->stride);
}

static void unpack(polar_context *context, unpack_job *job) {
  if (job->count * job->inputs < 16384) {
    run_unpack(job, 0, 1);
  } else {
    polar_context_run(context, run_unpack, job);
  }
}

void polar_unpack_rows(
  polar_context *context, const void *weight, int64_t inputs, int64_t first_row, int64_t count, float *values
) {
  unpack_job job = {weight, NULL, inputs, first_row, count, inputs, values};
  unpack(context, &job);
}

void polar_embed(
  polar_context *context, float *out, int64_t out_stride, const int32_t *tokens, int64_t rows, const void *weight,
  int64_t inputs
) {
  unpack_job job = {weight, tokens, inputs, 0, rows, out_stride, out};
  unpack(context, &job);
}
