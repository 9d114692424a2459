// A pool of fixed threads that spin for a short while between runs, then park.
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
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
  polar_pool_function function;
  void *context;
  _Alignas(64) atomic_uint generation;
  _Alignas(64) atomic_int remaining;
  _Alignas(64) atomic_int parked;
  atomic_int stopping;
};

struct polar_worker {
  polar_pool *pool;
  int index;
};

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void wait_for_work(polar_pool *pool, unsigned seen) {
  int64_t end = 0;
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (atomic_load_explicit(&pool->generation, memory_order_acquire) != seen) return;
      relax();
    }
    int64_t now = nanoseconds();
    if (end == 0) end = now + spin_nanoseconds;
    if (now >= end) break;
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->parked, 1);
  while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
  atomic_fetch_sub(&pool->parked, 1);
  pthread_mutex_unlock(&pool->mutex);
}

static void *work(void *argument) {
  struct polar_worker *worker = argument;
  polar_pool *pool = worker->pool;
  unsigned seen = 0;
  for (;;) {
    wait_for_work(pool, seen);
    seen++;
    if (atomic_load_explicit(&pool->stopping, memory_order_acquire)) return NULL;
    pool->function(pool->context, worker->index, pool->threads);
    atomic_fetch_sub_explicit(&pool->remaining, 1, memory_order_release);
  }
}

static void publish(polar_pool *pool) {
  atomic_fetch_add(&pool->generation, 1);
  if (atomic_load(&pool->parked) > 0) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
  }
}

void polar_pool_run(polar_pool *pool, polar_pool_function function, void *context) {
  if (pool->threads == 1) {
    function(context, 0, 1);
    return;
  }
  pool->function = function;
  pool->context = context;
  atomic_store_explicit(&pool->remaining, pool->threads - 1, memory_order_relaxed);
  publish(pool);
  function(context, 0, pool->threads);
  int64_t end = 0;
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (atomic_load_explicit(&pool->remaining, memory_order_acquire) == 0) return;
      relax();
    }
    int64_t now = nanoseconds();
    if (end == 0) end = now + spin_nanoseconds;
    if (now >= end) sched_yield();
  }
}

polar_pool *polar_pool_create(int threads) {
  polar_pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
  if (!pool) return NULL;
  *pool = (polar_pool){.threads = threads};
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pool->handles = calloc((size_t)threads, sizeof *pool->handles);
  pool->workers = calloc((size_t)threads, sizeof *pool->workers);
  if (!pool->handles || !pool->workers) {
    polar_pool_destroy(pool);
    return NULL;
  }
  for (int i = 1; i < threads; i++) {
    pool->workers[i] = (struct polar_worker){pool, i};
    if (pthread_create(&pool->handles[i], NULL, work, &pool->workers[i]) != 0) {
      polar_pool_destroy(pool);
      return NULL;
    }
    pool->started = i;
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

int polar_online_threads(void) {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    int count = CPU_COUNT(&set);
    if (count > 0) return count;
  }
#endif
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (int)count : 1;
}
