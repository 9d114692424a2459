// A pool of fixed threads that spin for a short while between runs, then park.
//
// A run consists of parts, one for each thread. Every thread begins with the part of its own number, whose memory it
// is likely to have in its cache, and then takes what others have not begun. So the caller never waits for a thread that
// sleeps or has no processor, only for one that is in the middle of a part. What a part computes depends on its number
// alone, never on the thread that runs it.
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include "context.h"

// How long a thread spins before it parks (workers) or yields (the caller).
static const int64_t spin_nanoseconds = 50000;

struct polar_pool {
  int threads;
  int started;
  pthread_t *handles;
  struct polar_worker *workers;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  // Of the current run. A thread reads them only while it holds a part of it.
  polar_pool_function function;
  void *context;
  // The number of the current run.
  _Alignas(64) atomic_uint run;
  // Parts of the current run that are not done.
  _Alignas(64) atomic_int remaining;
  _Alignas(64) atomic_int parked;
  atomic_int stopping;
};

// Each on a cache line of its own.
struct polar_worker {
  polar_pool *pool;
  int index;
  // The last run in which the part of this number was taken.
  atomic_uint taken;
} __attribute__((aligned(64)));

static int64_t nanoseconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits for a run after `seen`.
static void wait_for_run(polar_pool *pool, unsigned seen) {
  int64_t end = 0;
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (atomic_load_explicit(&pool->run, memory_order_acquire) != seen) return;
      relax();
    }
    int64_t now = nanoseconds(CLOCK_MONOTONIC);
    if (end == 0) end = now + spin_nanoseconds;
    if (now >= end) break;
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->parked, 1);
  while (atomic_load(&pool->run) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
  atomic_fetch_sub(&pool->parked, 1);
  pthread_mutex_unlock(&pool->mutex);
}

// Runs the parts of run `run` that nobody has taken, from `first` on.
//
// A run ends when all of its parts are done, and so a part of it can be taken only while it lasts: a thread that comes too
// late finds that every part was taken in this run or a later one.
static void take_parts(polar_pool *pool, unsigned run, int first) {
  for (int i = 0; i < pool->threads; i++) {
    const int part = (first + i) % pool->threads;
    unsigned before = run - 1;
    if (!atomic_compare_exchange_strong(&pool->workers[part].taken, &before, run)) continue;
    pool->function(pool->context, part, pool->threads);
    atomic_fetch_sub_explicit(&pool->remaining, 1, memory_order_release);
  }
}

static void *work(void *argument) {
  struct polar_worker *worker = argument;
  polar_pool *pool = worker->pool;
  unsigned seen = 0;
  for (;;) {
    wait_for_run(pool, seen);
    if (atomic_load_explicit(&pool->stopping, memory_order_acquire)) return NULL;
    seen = atomic_load_explicit(&pool->run, memory_order_acquire);
    take_parts(pool, seen, worker->index);
  }
}

static void publish(polar_pool *pool) {
  atomic_fetch_add(&pool->run, 1);
  if (atomic_load(&pool->parked) > 0) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
  }
}

void polar_pool_await(atomic_int *count) {
  int64_t end = 0;
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (atomic_load_explicit(count, memory_order_acquire) == 0) return;
      relax();
    }
    int64_t now = nanoseconds(CLOCK_MONOTONIC);
    if (end == 0) end = now + spin_nanoseconds;
    if (now >= end) sched_yield();
  }
}

void polar_pool_run(polar_pool *pool, polar_pool_function function, void *context) {
  if (pool->threads == 1) {
    function(context, 0, 1);
    return;
  }
  pool->function = function;
  pool->context = context;
  atomic_store_explicit(&pool->remaining, pool->threads, memory_order_relaxed);
  publish(pool);
  take_parts(pool, atomic_load_explicit(&pool->run, memory_order_relaxed), 0);
  polar_pool_await(&pool->remaining);
}

double polar_pool_worker_seconds(polar_pool *pool) {
  double total = 0;
  for (int i = 1; i <= pool->started; i++) {
    clockid_t clock;
    if (pthread_getcpuclockid(pool->handles[i], &clock) == 0) total += (double)nanoseconds(clock) * 1e-9;
  }
  return total;
}

polar_pool *polar_pool_create(int threads) {
  polar_pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
  if (!pool) return NULL;
  *pool = (polar_pool){.threads = threads};
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pool->handles = calloc((size_t)threads, sizeof *pool->handles);
  pool->workers = aligned_alloc(64, (size_t)threads * sizeof *pool->workers);
  if (!pool->handles || !pool->workers) {
    polar_pool_destroy(pool);
    return NULL;
  }
  for (int i = 0; i < threads; i++) pool->workers[i] = (struct polar_worker){.pool = pool, .index = i};
  for (int i = 1; i < threads; i++) {
    if (pthread_create(&pool->handles[i], NULL, work, &pool->workers[i]) != 0) {
      polar_pool_destroy(pool);
      return NULL;
    }
    pool->started = i;
#if defined(__linux__)
    pthread_setname_np(pool->handles[i], "polar-cpu");
#endif
  }
  return pool;
}

void polar_pool_destroy(polar_pool *pool) {
  if (!pool) return;
  atomic_store_explicit(&pool->stopping, 1, memory_order_release);
  publish(pool);
  for (int i = 1; i <= pool->started; i++) pthread_join(pool->handles[i], NULL);
  pthread_mutex_destroy(&pool->mutex);
  pthread_cond_destroy(&pool->wake);
  free(pool->handles);
  free(pool->workers);
  free(pool);
}
