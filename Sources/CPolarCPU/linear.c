// Linear layers: how they are spread over threads, and the passes over weights of 8 and 4 bits.
#include <stdatomic.h>
#include "context.h"
#include "quant.h"

typedef struct {
  const polar_kernels *kernels;
  const polar_linear_args *args;
  polar_scratch *scratch;
  int64_t row_block, row_blocks, panels;
  int64_t share;          // units that every thread computes; the rest are taken by whoever is free
  _Atomic int64_t next;   // the first unit that nobody has taken
} linear_job;

// Where a thread keeps its row block's activations, ready for the kernel.
typedef struct {
  int8_t *codes;                   // [rows][code_stride]
  polar_activation_group *groups;  // [rows][scale_stride]
  int64_t code_stride, scale_stride;
} quantized_rows;

// An odd number of cache lines, so that the rows of a tile do not compete for the same sets of a cache.
static int64_t odd_lines(int64_t bytes) { return ((bytes + 63) / 64 | 1) * 64; }

static quantized_rows quantized(void *scratch, int64_t rows, int64_t inputs) {
  const int64_t groups = polar_groups(inputs);
  quantized_rows q = {.code_stride = odd_lines(groups * POLAR_GROUP), .scale_stride = groups | 1};
  q.codes = scratch;
  q.groups = (polar_activation_group *)(q.codes + rows * q.code_stride);
  return q;
}

static int64_t scratch_row_bytes(const polar_kernels *kernels, const polar_linear_args *args) {
  const int64_t inputs = args->weight.inputs;
  if (args->weight.format == POLAR_WEIGHT_BF16) return kernels->prepare ? odd_lines(2 * inputs) : 0;
  const int64_t groups = polar_groups(inputs);
  return odd_lines(groups * POLAR_GROUP) + (groups | 1) * (int64_t)sizeof(polar_activation_group);
}

// Rows x panels on weights of 8 or 4 bits; activations are in scratch.
static void linear_int(
  const linear_job *job, int64_t row_low, int64_t row_high, int64_t panel_low, int64_t panel_high, void *scratch
) {
  const polar_int_kernels *kernels = job->kernels->ints;
  const polar_linear_args *args = job->args;
  const int format = args->weight.format;
  const polar_tile *tiles = kernels->tiles[format - POLAR_WEIGHT_INT8];
  const int64_t rows = row_high - row_low, bytes = polar_group_bytes(format), groups = polar_groups(args->weight.inputs);
  const quantized_rows q = quantized(scratch, job->row_block, args->weight.inputs);
  const int64_t sets = (rows + kernels->rows - 1) / kernels->rows, small = rows / sets, larger = rows % sets;
  // One set of rows passes over the whole panel; several share blocks of it that stay in L1, each fetching a part of
  // the next.
  const int64_t most = 36864 / bytes, blocks = sets == 1 && kernels->whole ? 1 : (groups + most - 1) / most;
  float edge[POLAR_ROW_BLOCK * POLAR_PANEL];
  for (int64_t panel = panel_low; panel < panel_high; panel++) {
    const uint8_t *w = (const uint8_t *)args->weight.data + panel * groups * bytes;
    const int64_t first = panel * POLAR_PANEL, outputs = args->weight.outputs;
    const int64_t valid = outputs - first < POLAR_PANEL ? outputs - first : POLAR_PANEL;
    float *out = args->out + row_low * args->out_stride + first;
    // The last panel may be wider than the output: it is computed aside.
    float *c = valid < POLAR_PANEL ? edge : out;
    const int64_t cs = valid < POLAR_PANEL ? POLAR_PANEL : args->out_stride;
    float bias[POLAR_PANEL] = {0};
    if (args->bias)
      for (int64_t j = 0; j < valid; j++) bias[j] = args->bias[first + j];
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t group = groups * b / blocks, count = groups * (b + 1) / blocks - group;
      const int64_t lines = ((bytes + 63) / 64 + sets - 1) / sets;
      const uint8_t *block = w + group * bytes;
      const char *prefetch = (const char *)block + (blocks == 1 ? 4096 : count * bytes);
      int64_t row = 0;
      for (int64_t set = 0; set < sets; set++) {
        const int64_t size = small + (set < larger);
        const polar_int_operands t = {
          .blocks = block,
          .codes = q.codes + row * q.code_stride + group * POLAR_GROUP,
          .scales = q.groups + row * q.scale_stride + group,
          .start = b == 0 ? bias : c + row * cs,
          .c = c + row * cs,
          .start_stride = b == 0 ? 0 : cs,
          .c_stride = cs,
          .code_stride = q.code_stride,
          .scale_stride = q.scale_stride,
          .groups = count,
          .prefetch = prefetch,
          .lines = lines,
        };
        tiles[size - 1](&t);
        prefetch += lines * 64 * count;
        row += size;
      }
    }
    if (valid < POLAR_PANEL)
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < valid; j++) out[r * args->out_stride + j] = edge[r * POLAR_PANEL + j];
  }
}

static void prepare(const linear_job *job, int64_t row, int64_t row_end, void *scratch) {
  const polar_linear_args *args = job->args;
  const int64_t inputs = args->weight.inputs;
  if (args->weight.format == POLAR_WEIGHT_BF16) {
    if (!job->kernels->prepare) return;
    const int64_t stride = odd_lines(2 * inputs) / 2;
    for (int64_t r = row; r < row_end; r++)
      job->kernels->prepare((uint16_t *)scratch + (r - row) * stride, args->x + r * args->x_stride, inputs);
    return;
  }
  const quantized_rows q = quantized(scratch, job->row_block, inputs);
  for (int64_t r = row; r < row_end; r++)
    job->kernels->ints->quantize(
      args->x + r * args->x_stride, inputs, args->weight.format, q.codes + (r - row) * q.code_stride,
      q.groups + (r - row) * q.scale_stride);
}

// Units are (row block, panel), row block by row block.
static void run_units(const linear_job *job, int64_t unit, int64_t end, void *scratch, int64_t *prepared) {
  const polar_linear_args *args = job->args;
  while (unit < end) {
    const int64_t block = unit / job->panels, panel = unit % job->panels;
    const int64_t last = panel + (end - unit) < job->panels ? panel + (end - unit) : job->panels;
    const int64_t row = block * job->row_block;
    const int64_t row_end = row + job->row_block < args->rows ? row + job->row_block : args->rows;
    if (*prepared != block) prepare(job, row, row_end, scratch);
    *prepared = block;
    if (args->weight.format == POLAR_WEIGHT_BF16) {
      job->kernels->linear(args, row, row_end, panel, last, scratch, odd_lines(2 * args->weight.inputs) / 2);
    } else {
      linear_int(job, row, row_end, panel, last, scratch);
    }
    unit += last - panel;
  }
}

static void run_linear(void *argument, int thread, int threads) {
  linear_job *job = argument;
  void *scratch = job->scratch[thread].linear;
  const int64_t units = job->row_blocks * job->panels;
  int64_t prepared = -1;
  run_units(job, job->share * thread, job->share * (thread + 1), scratch, &prepared);
  // A thread that another process has slowed down takes fewer of the remaining units.
  const int64_t step = (units - job->share * threads + 8 * threads - 1) / (8 * threads);
  for (;;) {
    const int64_t unit = atomic_fetch_add_explicit(&job->next, step, memory_order_relaxed);
    if (unit >= units) return;
    run_units(job, unit, unit + step < units ? unit + step : units, scratch, &prepared);
  }
}

void polar_linear(polar_context *context, const polar_linear_args *args) {
  if (args->rows == 0 || args->weight.outputs == 0) return;
  const int64_t row_bytes = scratch_row_bytes(context->kernels, args);
  int64_t most = POLAR_ROW_BLOCK;
  if (row_bytes > 0 && POLAR_LINEAR_SCRATCH / row_bytes < most) most = POLAR_LINEAR_SCRATCH / row_bytes;
  // Blocks of about the same size, in whole tiles of 6 or 8 rows where there is room.
  int64_t row_blocks = (args->rows + most - 1) / most;
  const int64_t even = ((args->rows + row_blocks - 1) / row_blocks + 23) / 24 * 24;
  const int64_t row_block = even < most ? even : most;
  row_blocks = (args->rows + row_block - 1) / row_block;
  linear_job job = {
    .kernels = context->kernels,
    .args = args,
    .scratch = context->scratch,
    .row_block = row_block,
    .row_blocks = row_blocks,
    .panels = polar_panels(args->weight.outputs),
  };
  job.share = row_blocks * job.panels * 3 / (4 * context->threads);
  atomic_init(&job.next, job.share * context->threads);
  polar_context_run(context, run_linear, &job);
}
