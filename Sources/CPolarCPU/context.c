// Life of a context, and how work is spread over its threads.
#include <stdlib.h>
#include "context.h"

polar_context *polar_context_create(int threads, int isa) {
  const polar_kernels *kernels = polar_cpu_table(isa);
  if (!kernels || !polar_isa_supported(isa)) return NULL;
  if (threads <= 0) threads = polar_online_processors();
  polar_context *context = calloc(1, sizeof *context);
  if (!context) return NULL;
  context->kernels = kernels;
  context->threads = threads;
  pthread_mutex_init(&context->lock, NULL);
  context->scratch = polar_memory_allocate(sizeof(polar_scratch) * (size_t)threads);
  context->plan = polar_plan_create(threads);
  context->pool = polar_pool_create(threads);
  if (!context->scratch || !context->plan || !context->pool) {
    polar_context_destroy(context);
    return NULL;
  }
  return context;
}

void polar_context_destroy(polar_context *context) {
  if (!context) return;
  polar_pool_destroy(context->pool);
  polar_plan_destroy(context->plan, context->threads);
  polar_memory_free(context->scratch, sizeof(polar_scratch) * (size_t)context->threads);
  pthread_mutex_destroy(&context->lock);
  free(context);
}

int polar_context_threads(const polar_context *context) { return context->threads; }

double polar_context_worker_seconds(polar_context *context) { return polar_pool_worker_seconds(context->pool); }

void polar_context_run(polar_context *context, polar_pool_function function, void *argument) {
  pthread_mutex_lock(&context->lock);
  polar_pool_run(context->pool, function, argument);
  pthread_mutex_unlock(&context->lock);
}

typedef struct {
  polar_row_kernel kernel;
  const polar_row_args *args;
} row_job;

static void run_rows(void *argument, int thread, int threads) {
  const row_job *job = argument;
  const int64_t rows = job->args->rows;
  job->kernel(job->args, rows * thread / threads, rows * (thread + 1) / threads);
}

int polar_shared(const polar_context *context, int64_t rows, int64_t work) {
  // Waking the threads costs a few microseconds, about what this many elements take.
  const int64_t worthwhile = 32768;
  return rows > 1 && work >= worthwhile && context->threads > 1;
}

void polar_run_rows(polar_context *context, polar_row_kernel kernel, const polar_row_args *args, int64_t work) {
  if (!polar_shared(context, args->rows, work)) {
    kernel(args, 0, args->rows);
    return;
  }
  row_job job = {kernel, args};
  polar_context_run(context, run_rows, &job);
}
