// Internal: threads and scratch of a context.
#ifndef POLAR_CONTEXT_H
#define POLAR_CONTEXT_H

#include <pthread.h>
#include <stdatomic.h>
#include "kernels.h"

typedef struct polar_pool polar_pool;
// Part `part` of `parts`. Parts have numbers like threads, so that what a part works in can belong to its number.
typedef void (*polar_pool_function)(void *context, int part, int parts);

// A pool of `threads` threads of which the caller is number 0; NULL on failure.
polar_pool *polar_pool_create(int threads);
void polar_pool_destroy(polar_pool *pool);
// Calls `function` once for every part 0 ..< threads, on whichever thread is free first, and returns when all are done. One
// caller at a time. Does not allocate.
void polar_pool_run(polar_pool *pool, polar_pool_function function, void *context);
// Waits until `count` is zero; what was written before it became so is seen afterwards. Meant for what threads in the middle
// of a part bring about: it spins, then yields.
void polar_pool_await(atomic_int *count);
// Processor time that the pool's threads have used, the caller excluded.
double polar_pool_worker_seconds(polar_pool *pool);

// What one thread works in.
typedef struct {
  float q[POLAR_SPAN_ELEMENTS], o[POLAR_SPAN_ELEMENTS], total[POLAR_SPAN_ELEMENTS];
  uint16_t bf16[POLAR_SPAN_ELEMENTS], tile[POLAR_TILE_ELEMENTS];
  float m[POLAR_SPAN_ROWS], l[POLAR_SPAN_ROWS], total_m[POLAR_SPAN_ROWS], total_l[POLAR_SPAN_ROWS];
  int32_t starts[POLAR_SPAN_ROWS], limits[POLAR_SPAN_ROWS];
  int32_t span_starts[POLAR_SPAN_ROWS], span_limits[POLAR_SPAN_ROWS];
  const float *source[POLAR_SPAN_ROWS];
  float *target[POLAR_SPAN_ROWS];
  _Atomic uint64_t units __attribute__((aligned(64)));  // what is left of the thread's part of a linear layer
  // Of the row block that lies in `linear`, where threads prepare it together: the first part that nobody has begun, and
  // how many are not done.
  atomic_int next_part __attribute__((aligned(64))), unprepared;
  uint8_t linear[POLAR_LINEAR_SCRATCH] __attribute__((aligned(64)));
} __attribute__((aligned(64))) polar_scratch;

typedef struct polar_plan polar_plan;

struct polar_context {
  polar_pool *pool;
  const polar_kernels *kernels;
  int threads;
  pthread_mutex_t lock;
  polar_scratch *scratch;  // [threads]
  polar_plan *plan;
};

// Allocation of what attention plans in; NULL on failure.
polar_plan *polar_plan_create(int threads);
void polar_plan_destroy(polar_plan *plan, int threads);

// Runs with the context's threads held by this caller alone.
void polar_context_run(polar_context *context, polar_pool_function function, void *argument);
// Whether an op on rows is worth all threads; `work` is about one unit per element.
int polar_shared(const polar_context *context, int64_t rows, int64_t work);
// Runs a row kernel, on all threads when that is worth it.
void polar_run_rows(polar_context *context, polar_row_kernel kernel, const polar_row_args *args, int64_t work);

#endif
