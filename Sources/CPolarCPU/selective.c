// The halves of a ReLU MLP on chosen neurons: how the work is spread over threads.
#include "context.h"

typedef struct {
  polar_context *context;
  const polar_selective_args *args;
  polar_selective_kernel kernel;
  int64_t entries;           // of the list
  int64_t row_block;         // rows that one call takes
  int64_t range, unit;       // entries (up) or columns (down) to divide, and what they are divided into
} selective_job;

// A thread takes a run of whole units and all rows, so that no weight is read by two threads.
static void run(void *argument, int thread, int threads) {
  const selective_job *job = argument;
  const int64_t units = (job->range + job->unit - 1) / job->unit;
  const int64_t low = units * thread / threads * job->unit;
  int64_t high = units * (thread + 1) / threads * job->unit;
  if (high > job->range) high = job->range;
  if (low >= high) return;
  for (int64_t row = 0; row < job->args->rows; row += job->row_block) {
    const int64_t end = row + job->row_block < job->args->rows ? row + job->row_block : job->args->rows;
    job->kernel(job->args, job->entries, row, end, low, high, (uint16_t *)job->context->scratch[thread].linear);
  }
}

static int64_t entries_of(const polar_selective_args *args) { return args->count ? *args->count : args->neurons; }

void polar_selective_up(polar_context *context, const polar_selective_args *args) {
  // The rows of a block lie in scratch as bf16, whole, with up to 64 elements between them.
  const int64_t fitting = POLAR_LINEAR_SCRATCH / (2 * (args->hidden + 64));
  selective_job job = {
    .context = context,
    .args = args,
    .kernel = context->kernels->selective_up,
    .entries = entries_of(args),
    .row_block = fitting < POLAR_ROW_BLOCK ? fitting : POLAR_ROW_BLOCK,
    .range = entries_of(args),
    .unit = 1,
  };
  if (args->rows > 0 && job.entries > 0) polar_context_run(context, run, &job);
}

void polar_selective_down(polar_context *context, const polar_selective_args *args) {
  selective_job job = {
    .context = context,
    .args = args,
    .kernel = context->kernels->selective_down,
    .entries = entries_of(args),
    .row_block = POLAR_ROW_BLOCK,
    .range = args->hidden,
    .unit = POLAR_PANEL,
  };
  if (args->rows > 0) polar_context_run(context, run, &job);
}
