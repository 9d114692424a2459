// What the machine can do: memory reads and multiply-adds.
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include "context.h"

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef struct {
  polar_context *context;
  char *memory;
  size_t bytes;  // per thread, a multiple of 256
  float sink[64];
} read_job;

static void run_fill(void *argument, int thread, int threads) {
  (void)threads;
  const read_job *job = argument;
  memset(job->memory + job->bytes * (size_t)thread, 1, job->bytes);
}

static void run_read(void *argument, int thread, int threads) {
  (void)threads;
  read_job *job = argument;
  job->sink[thread % 64] = job->context->kernels->read(job->memory + job->bytes * (size_t)thread, job->bytes);
}

double polar_measure_read_bandwidth(polar_context *context, size_t bytes, int repeats) {
  const size_t threads = (size_t)context->threads, share = bytes / threads / 256 * 256;
  if (share == 0) return 0;
  read_job job = {.context = context, .memory = polar_memory_allocate(share * threads), .bytes = share};
  if (!job.memory) return 0;
  polar_context_run(context, run_fill, &job);
  double best = 0;
  for (int i = 0; i < repeats; i++) {
    const double start = seconds();
    polar_context_run(context, run_read, &job);
    const double rate = (double)(share * threads) / (seconds() - start) / 1e9;
    if (rate > best) best = rate;
  }
  polar_memory_free(job.memory, share * threads);
  return best;
}

typedef struct {
  double (*work)(int64_t steps, float *sink);
  int64_t steps;
  double operations;  // of one thread
} peak_job;

static void run_peak(void *argument, int thread, int threads) {
  (void)threads;
  peak_job *job = argument;
  float sink[16] = {0.0f, 0.999f, 0.001f};
  const double operations = job->work(job->steps, sink);
  if (thread == 0) job->operations = operations;
}

static double measure_peak(polar_context *context, double (*work)(int64_t steps, float *sink)) {
  double best = 0;
  for (int i = 0; i < 5; i++) {
    peak_job job = {work, 4000000, 0};
    const double start = seconds();
    polar_context_run(context, run_peak, &job);
    const double rate = job.operations * context->threads / (seconds() - start) / 1e9;
    if (rate > best) best = rate;
  }
  return best;
}

double polar_measure_fma_peak(polar_context *context) { return measure_peak(context, context->kernels->fma); }

double polar_measure_int_peak(polar_context *context) { return measure_peak(context, context->kernels->ints->peak); }
