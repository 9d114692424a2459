// Linear layers: how they are spread over threads, the passes over weights of 8 and 4 bits, and gated layers.
#include <stdatomic.h>
#include "context.h"
#include "quant.h"

typedef struct {
  const polar_kernels *kernels;
  const polar_linear_args *args;
  polar_scratch *scratch;
  int64_t row_block, row_blocks, panels;
  int64_t piece;     // units that a thread takes at a time
  int64_t together;  // panels of a gate that are taken before those of the other half
  int shared;        // 1 when threads prepare row blocks together, block b in the scratch of thread b
} linear_job;

// An odd number of cache lines, so that the rows of a tile do not compete for the same sets of a cache.
static int64_t odd_lines(int64_t bytes) { return ((bytes + 63) / 64 | 1) * 64; }

static int64_t scratch_row_bytes(const polar_kernels *kernels, const polar_linear_args *args) {
  const int64_t inputs = args->weight.inputs;
  if (args->weight.format == POLAR_WEIGHT_BF16) return kernels->prepare ? odd_lines(2 * inputs) : 0;
  return polar_rows_bytes(1, polar_groups(inputs));
}

// Rows that share tiles: the `index`th of `sets` sets of about the same size begins here.
static int64_t set_begin(int64_t rows, int64_t sets, int64_t index) { return rows * index / sets; }

static int64_t sets_of(const polar_int_kernels *kernels, int64_t rows) {
  return rows <= kernels->most ? 1 : (rows + kernels->rows - 1) / kernels->rows;
}

// Rows x panels on weights of 8 or 4 bits; the rows are prepared in scratch. `next` is what will be read afterwards.
static void linear_int(
  const polar_int_kernels *kernels, const polar_linear_args *args, int64_t row_low, int64_t row_high,
  int64_t panel_low, int64_t panel_high, const uint8_t *scratch, const char *next
) {
  const int format = args->weight.format;
  const int64_t rows = row_high - row_low, bytes = polar_group_bytes(format), groups = polar_groups(args->weight.inputs);
  const int64_t sets = sets_of(kernels, rows);
  const polar_tile *tiles = kernels->tiles[format - POLAR_WEIGHT_INT8][sets > 1];
  // One set of rows passes over the whole panel, fetching some 4 KiB ahead; several share blocks of it that stay in L1, each
  // fetching a part of the next.
  const int64_t super = POLAR_SUPERBLOCK, superblocks = (groups + super - 1) / super, most = 36864 / bytes / super;
  const int64_t lead = (4096 / bytes + super - 1) / super * super;
  const int whole = sets == 1 && kernels->whole;
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
    // Weights that follow this panel. Where they lie elsewhere, a whole pass ends with a short block that fetches them.
    const char *end = (const char *)w + groups * bytes, *behind = panel + 1 < panel_high ? end : next;
    const int64_t split = behind != end && groups > lead ? (groups - lead) / super * super : 0;
    const int64_t blocks = !whole ? (superblocks + most - 1) / most : split > 0 ? 2 : 1;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t group = whole ? b * split : superblocks * b / blocks * super;
      const int64_t until = whole ? split : superblocks * (b + 1) / blocks * super;
      const int64_t count = (b + 1 < blocks ? until : groups) - group;
      const int64_t lines = ((bytes + 63) / 64 + sets - 1) / sets;
      const uint8_t *block = w + group * bytes;
      const char *prefetch = (const char *)(block + (!whole ? count : split > 0 ? groups - split : lead) * bytes);
      if (b + 1 == blocks && behind != end) prefetch = behind;
      for (int64_t set = 0; set < sets; set++) {
        const int64_t row = set_begin(rows, sets, set), size = set_begin(rows, sets, set + 1) - row;
        const polar_int_operands t = {
          .blocks = block,
          .x = scratch + polar_rows_bytes(row, groups) + polar_row_superblocks_bytes(size, group),
          .bias = b + 1 == blocks ? bias : NULL,
          .c = c + row * cs,
          .c_stride = cs,
          .groups = count,
          .first = b == 0,
          .prefetch = prefetch,
          .lines = lines,
        };
        tiles[size - 1](&t);
        prefetch += lines * 64 * count;
      }
    }
    if (valid < POLAR_PANEL)
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < valid; j++) out[r * args->out_stride + j] = edge[r * POLAR_PANEL + j];
  }
}

// How a row block's activations are cut into parts that are prepared one by one: sets of rows, times ranges of inputs.
typedef struct {
  int64_t sets, ranges;
  int64_t width;  // inputs of a range; the last one may be shorter
} activation_parts;

static activation_parts parts_of(const linear_job *job, int64_t rows) {
  // Whole steps of every quantiser, and about a microsecond's work.
  const int64_t step = 16 * POLAR_GROUP, worthwhile = 8192;
  const int quantised = job->args->weight.format != POLAR_WEIGHT_BF16;
  if (!quantised && !job->kernels->prepare) return (activation_parts){0};
  activation_parts parts = {.sets = quantised ? sets_of(job->kernels->ints, rows) : rows};
  parts.width = (worthwhile * parts.sets / rows + step - 1) / step * step;
  parts.ranges = (job->args->weight.inputs + parts.width - 1) / parts.width;
  return parts;
}

// Prepares a part of `rows` rows from `row` on; scratch is where their block begins.
static void prepare(
  const linear_job *job, int64_t row, int64_t rows, const activation_parts *parts, int64_t part, uint8_t *scratch
) {
  const polar_linear_args *args = job->args;
  const int64_t set = part / parts->ranges, low = part % parts->ranges * parts->width;
  const int64_t first = set_begin(rows, parts->sets, set), size = set_begin(rows, parts->sets, set + 1) - first;
  const int64_t left = args->weight.inputs - low, count = left < parts->width ? left : parts->width;
  const float *x = args->x + (row + first) * args->x_stride + low;
  scratch += first * scratch_row_bytes(job->kernels, args);
  if (args->weight.format == POLAR_WEIGHT_BF16) {
    job->kernels->prepare((uint16_t *)scratch + low, x, count);
    return;
  }
  for (int64_t r = 0; r < size; r++)
    job->kernels->ints->quantize(
      x + r * args->x_stride - low, low, low + count, args->weight.inputs, args->weight.format, scratch, size, r);
}

// The prepared activations of a row block. `own` is the block that the thread has prepared for itself.
static const uint8_t *prepared(const linear_job *job, int64_t block, int64_t row, int64_t rows, int thread, int64_t *own) {
  polar_scratch *scratch = job->scratch + (job->shared ? block : thread);
  if (job->shared ? atomic_load_explicit(&scratch->unprepared, memory_order_acquire) == 0 : block == *own)
    return scratch->linear;
  const activation_parts parts = parts_of(job, rows);
  const int64_t count = parts.sets * parts.ranges;
  if (job->shared) {
    for (;;) {
      const int64_t part = atomic_fetch_add(&scratch->next_part, 1);
      if (part >= count) break;
      prepare(job, row, rows, &parts, part, scratch->linear);
      atomic_fetch_sub_explicit(&scratch->unprepared, 1, memory_order_release);
    }
    polar_pool_await(&scratch->unprepared);
  } else {
    for (int64_t part = 0; part < count; part++) prepare(job, row, rows, &parts, part, scratch->linear);
    *own = block;
  }
  return scratch->linear;
}

// Rows x panels of a layer without an activation.
static void run_panels(
  const linear_job *job, const polar_linear_args *args, int64_t row, int64_t row_end, int64_t panel, int64_t end,
  const uint8_t *scratch, const char *next
) {
  if (args->weight.format == POLAR_WEIGHT_BF16) {
    job->kernels->linear(
      args, row, row_end, panel, end, (const uint16_t *)scratch, scratch_row_bytes(job->kernels, args) / 2, next);
  } else {
    linear_int(job->kernels->ints, args, row, row_end, panel, end, scratch, next);
  }
}

// Rows x panels of a gated layer: some panels of the gate, those of the other half, and the activation while both are in L1.
static void run_gated(
  const linear_job *job, int64_t row, int64_t row_end, int64_t panel, int64_t end, const uint8_t *scratch
) {
  const polar_linear_args *args = job->args;
  const int64_t bytes = polar_packed_bytes(POLAR_PANEL, args->weight.inputs, args->weight.format);
  const polar_row_kernel activate =
    args->activation == POLAR_LINEAR_SILU ? job->kernels->silu_mul : job->kernels->relu_mul;
  const int64_t rows = row_end - row;
  float halves[POLAR_ROW_BLOCK * (2 * POLAR_PANEL + 16)] __attribute__((aligned(64)));
  for (int64_t some; panel < end; panel += some) {
    some = end - panel < job->together ? end - panel : job->together;
    // An odd number of cache lines, as above.
    const int64_t width = some * POLAR_PANEL, stride = 2 * width + 16;
    for (int half = 0; half < 2; half++) {
      const int64_t first = panel + half * job->panels, following = half ? panel + some : panel + job->panels;
      char *data = (char *)args->weight.data;
      polar_linear_args part = *args;
      part.weight.data = data + first * bytes;
      part.weight.outputs = width;
      part.bias = args->bias ? args->bias + first * POLAR_PANEL : NULL;
      part.x = args->x + row * args->x_stride;
      part.out = halves + half * width;
      part.out_stride = stride;
      run_panels(job, &part, 0, rows, 0, some, scratch, data + following * bytes);
    }
    const polar_row_args activated = {
      .out = args->out + row * args->out_stride + panel * POLAR_PANEL,
      .a = halves,
      .out_stride = args->out_stride,
      .a_stride = stride,
      .rows = rows,
      .columns = width,
      .threshold = args->threshold,
    };
    activate(&activated, 0, rows);
  }
}

// Units are (row block, panel), row block by row block. A panel of a gated layer is one of the gate with its other half.
static void run_units(const linear_job *job, int64_t unit, int64_t end, int thread, int64_t *own) {
  const polar_linear_args *args = job->args;
  while (unit < end) {
    const int64_t block = unit / job->panels, panel = unit % job->panels;
    const int64_t last = panel + (end - unit) < job->panels ? panel + (end - unit) : job->panels;
    const int64_t row = block * job->row_block;
    const int64_t row_end = row + job->row_block < args->rows ? row + job->row_block : args->rows;
    const uint8_t *scratch = prepared(job, block, row, row_end - row, thread, own);
    if (args->activation == POLAR_LINEAR_PLAIN) {
      const int64_t bytes = polar_packed_bytes(POLAR_PANEL, args->weight.inputs, args->weight.format);
      run_panels(job, args, row, row_end, panel, last, scratch, (const char *)args->weight.data + last * bytes);
    } else {
      run_gated(job, row, row_end, panel, last, scratch);
    }
    unit += last - panel;
  }
}

// A thread's units: from the number in the upper 32 bits to the one in the lower, which is not among them.
static uint64_t units_from(uint64_t low, uint64_t high) { return low << 32 | high; }

// Takes some of the thread's units, the first ones, so that it reads weights in order.
static int take(_Atomic uint64_t *units, uint64_t piece, int64_t *low, int64_t *high) {
  uint64_t seen = atomic_load_explicit(units, memory_order_relaxed);
  for (;;) {
    const uint64_t first = seen >> 32, end = seen & 0xffffffff, last = first + piece < end ? first + piece : end;
    if (first >= end) return 0;
    if (!atomic_compare_exchange_weak(units, &seen, units_from(last, end))) continue;
    *low = (int64_t)first;
    *high = (int64_t)last;
    return 1;
  }
}

// Moves the second half of what another thread has left to `own`, which is empty.
static int steal(_Atomic uint64_t *own, _Atomic uint64_t *other) {
  uint64_t seen = atomic_load_explicit(other, memory_order_relaxed);
  for (;;) {
    const uint64_t first = seen >> 32, end = seen & 0xffffffff, middle = first + (end - first) / 2;
    if (first >= end) return 0;
    if (!atomic_compare_exchange_weak(other, &seen, units_from(first, middle))) continue;
    atomic_store(own, units_from(middle, end));
    return 1;
  }
}

static void run_linear(void *argument, int thread, int threads) {
  linear_job *job = argument;
  polar_scratch *scratch = job->scratch + thread;
  int64_t own = -1, low, high;
  for (;;) {
    while (take(&scratch->units, (uint64_t)job->piece, &low, &high))
      run_units(job, low, high, thread, &own);
    // Cores of a shared machine are not equally fast: who is done helps the others.
    int found = 0;
    for (int i = 1; i < threads && !found; i++)
      found = steal(&scratch->units, &job->scratch[(thread + i) % threads].units);
    if (!found) return;
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
    .panels = polar_panels(args->weight.outputs) / (args->activation == POLAR_LINEAR_PLAIN ? 1 : 2),
  };
  // A unit takes 32 products per activation: a piece should be worth more than the taking of it.
  const int64_t worthwhile = 32768, activations = row_block * args->weight.inputs;
  job.piece = activations < worthwhile ? worthwhile / activations : 1;
  // Few rows leave room for several panels, and long runs of weights are read faster.
  const int64_t rows = row_block < args->rows ? row_block : args->rows;
  const int64_t room = POLAR_ROW_BLOCK / rows, share = job.panels / (4 * context->threads);
  job.together = room < 8 ? room : 8;
  if (job.together > share) job.together = share > 1 ? share : 1;
  if (args->activation != POLAR_LINEAR_PLAIN && job.piece < job.together) job.piece = job.together;
  // Few activations are prepared by each thread sooner than fetched from another.
  const int64_t threads = context->threads, few = 65536;
  job.shared = threads > 1 && row_blocks <= threads && rows * args->weight.inputs > few;
  pthread_mutex_lock(&context->lock);
  for (int64_t block = 0; job.shared && block < row_blocks; block++) {
    const int64_t left = args->rows - block * row_block;
    const activation_parts parts = parts_of(&job, left < row_block ? left : row_block);
    atomic_store_explicit(&context->scratch[block].next_part, 0, memory_order_relaxed);
    atomic_store_explicit(&context->scratch[block].unprepared, (int)(parts.sets * parts.ranges), memory_order_relaxed);
  }
  const uint64_t units = (uint64_t)(row_blocks * job.panels);
  for (uint64_t i = 0; i < (uint64_t)threads; i++)
    atomic_store(
      &context->scratch[i].units, units_from(units * i / (uint64_t)threads, units * (i + 1) / (uint64_t)threads));
  polar_pool_run(context->pool, run_linear, &job);
  pthread_mutex_unlock(&context->lock);
}
