// Times the CPU kernels against what the machine can do: reads from memory and multiply-adds.
//
//   bench [isa] [threads] [linear|attention|plan]    best with real-time priority: chrt -r 1
//
// Cases are interleaved; figures are medians. Weights and caches rotate over more memory than the caches hold.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "polar_cpu.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}
static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, compare);
  return values[count / 2];
}

enum { most_rounds = 41, most_cases = 8 };
static double bandwidth, peak;

// The limits drift on a shared machine: they are taken anew before each case.
static void measure(polar_context *context) {
  bandwidth = polar_measure_read_bandwidth(context, (size_t)1 << 29, 5);
  peak = polar_measure_fma_peak(context);
  printf("limits: read %.1f GB/s, multiply-add %.1f GFLOP/s\n", bandwidth, peak);
}

static void linear(polar_context *context) {
  static const int shapes[][2] = {{576, 576}, {3072, 576}, {576, 1536}, {49152, 576}, {4096, 4096}};
  static const int rows[] = {1, 4, 8, 16, 32, 64, 512};
  enum { row_count = sizeof rows / sizeof *rows };
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    const int n = shapes[s][0], k = shapes[s][1];
    measure(context);
    const size_t bytes = (size_t)polar_packed_bytes(n, k, POLAR_WEIGHT_BF16);
    int copies = (int)(300e6 / (double)bytes);
    copies = copies < 1 ? 1 : copies;
    uint16_t *w = polar_memory_allocate(bytes * (size_t)copies);
    for (size_t i = 0; i < bytes / 2 * (size_t)copies; i++) w[i] = (uint16_t)(0x3c00 + i % 128);
    float *x = polar_memory_allocate(sizeof(float) * 512 * (size_t)k);
    float *y = polar_memory_allocate(sizeof(float) * 512 * (size_t)n);
    for (int i = 0; i < 512 * k; i++) x[i] = 0.01f;
    double times[row_count][most_rounds];
    int copy = 0;
    const int rounds = 15;
    for (int round = 0; round < rounds; round++)
      for (int r = 0; r < row_count; r++) {
        // Several calls in one timing where a call is short.
        const double work = 2.0 * rows[r] * n * k;
        int calls = (int)(4e7 / work);
        calls = calls < 1 ? 1 : calls > 64 ? 64 : calls;
        const double start = now();
        for (int c = 0; c < calls; c++) {
          polar_linear_args args = {
            {(char *)w + bytes * (size_t)(copy++ % copies), n, k, POLAR_WEIGHT_BF16}, NULL, x, y, k, n, rows[r]};
          polar_linear(context, &args);
        }
        times[r][round] = (now() - start) / calls;
      }
    for (int r = 0; r < row_count; r++) {
      const double t = median(times[r], rounds), flops = 2.0 * rows[r] * n * k / t / 1e9;
      const double rate = (double)bytes / t / 1e9;
      printf(
        "linear %5d x %4d rows %3d: %8.1f us  %6.1f GFLOP/s (%3.0f %% of peak)  %5.1f GB/s (%3.0f %% of read)\n", n, k,
        rows[r], t * 1e6, flops, 100 * flops / peak, rate, 100 * rate / bandwidth);
    }
    polar_memory_free(w, bytes * (size_t)copies);
    polar_memory_free(x, sizeof(float) * 512 * (size_t)k);
    polar_memory_free(y, sizeof(float) * 512 * (size_t)n);
  }
}

// Dense, and with half of the groups selected (rotating over rows), with zeros or one sink and four recent pages.
static void attention(polar_context *context, int heads, int groups, int d, int tokens, int batch) {
  measure(context);
  const int table = (tokens + 15) / 16, pages = table * batch;
  const size_t layer = (size_t)groups * (size_t)pages * 32 * (size_t)d * 2;
  int layers = (int)(600e6 / (double)layer);
  layers = layers < 1 ? 1 : layers > 30 ? 30 : layers;
  uint16_t *blocks = polar_memory_allocate(layer * (size_t)layers);
  for (size_t i = 0; i < layer / 2 * (size_t)layers; i++) blocks[i] = (uint16_t)(0x3c00 + i % 128);
  int32_t *tables = malloc(sizeof(int32_t) * (size_t)pages), *positions = malloc(sizeof(int32_t) * (size_t)batch);
  int32_t *own = malloc(sizeof(int32_t) * (size_t)batch);
  uint8_t *mask = malloc((size_t)batch * (size_t)heads);
  for (int i = 0; i < pages; i++) tables[i] = i;
  for (int b = 0; b < batch; b++) positions[b] = tokens - 1, own[b] = b;
  for (int b = 0; b < batch; b++)
    for (int h = 0; h < heads; h++) mask[b * heads + h] = (h / (heads / groups) + b) % 2;
  float *q = polar_memory_allocate(sizeof(float) * (size_t)(batch * heads * d));
  float *out = polar_memory_allocate(sizeof(float) * (size_t)(batch * heads * d));
  for (int i = 0; i < batch * heads * d; i++) q[i] = 0.01f * (float)(i % 17);
  polar_attention_args args = {
    .kv = {blocks, pages, groups, d}, .query = q, .out = out, .query_stride = heads * d, .out_stride = heads * d,
    .positions = positions, .sequences = own, .tables = tables, .table_stride = table, .rows = batch,
    .heads = heads, .scale = 1 / sqrtf((float)d), .mask_stride = heads, .sink_pages = 1, .recent_pages = 4};
  enum { modes = 3 };
  double times[modes][most_rounds];
  const int rounds = 21;
  for (int round = 0; round < rounds; round++)
    for (int mode = 0; mode < modes; mode++) {
      args.mask = mode == 0 ? NULL : mask;
      args.fallback = mode == 2 ? POLAR_FALLBACK_LOCAL : POLAR_FALLBACK_ZERO;
      const double start = now();
      for (int l = 0; l < layers; l++) {
        args.kv.blocks = blocks + layer / 2 * (size_t)l;
        polar_decode_attention(context, &args);
      }
      times[mode][round] = (now() - start) / layers;
    }
  const double dense = median(times[0], rounds), zero = median(times[1], rounds), local = median(times[2], rounds);
  const double rate = (double)layer / dense / 1e9, flops = 4.0 * batch * heads * d * tokens / dense / 1e9;
  printf(
    "attention %2d heads / %2d groups x %3d, context %d, batch %2d: %8.1f us  %5.1f GB/s (%3.0f %% of read)  "
    "%5.1f GFLOP/s (%3.0f %% of peak)  half zero %.2f  half local %.2f\n",
    heads, groups, d, tokens, batch, dense * 1e6, rate, 100 * rate / bandwidth, flops, 100 * flops / peak,
    zero / dense, local / dense);
  polar_memory_free(blocks, layer * (size_t)layers);
}

static void prefill(polar_context *context, int heads, int groups, int d, int tokens) {
  const int pages = (tokens + 15) / 16;
  const size_t layer = (size_t)groups * (size_t)pages * 32 * (size_t)d * 2;
  uint16_t *blocks = polar_memory_allocate(layer);
  int32_t *tables = malloc(sizeof(int32_t) * (size_t)pages), *positions = malloc(sizeof(int32_t) * (size_t)tokens);
  int32_t *own = calloc((size_t)tokens, sizeof(int32_t));
  for (int i = 0; i < pages; i++) tables[i] = i;
  for (int i = 0; i < tokens; i++) positions[i] = i;
  float *q = polar_memory_allocate(sizeof(float) * (size_t)(tokens * heads * d));
  float *out = polar_memory_allocate(sizeof(float) * (size_t)(tokens * heads * d));
  polar_attention_args args = {
    .kv = {blocks, pages, groups, d}, .query = q, .out = out, .query_stride = heads * d, .out_stride = heads * d,
    .positions = positions, .sequences = own, .tables = tables, .table_stride = pages, .rows = tokens,
    .heads = heads, .scale = 1 / sqrtf((float)d)};
  double times[most_rounds];
  const int rounds = 11;
  for (int round = 0; round < rounds; round++) {
    const double start = now();
    polar_prefill_attention(context, &args);
    times[round] = now() - start;
  }
  const double t = median(times, rounds), flops = 2.0 * heads * d * (double)tokens * tokens / t / 1e9;
  printf(
    "prefill attention %2d heads / %2d groups x %3d, %d tokens: %8.1f us  %5.1f GFLOP/s (%3.0f %% of peak)\n", heads,
    groups, d, tokens, t * 1e6, flops, 100 * flops / peak);
}

static void plan(polar_context *context) {
  // Contexts of one token: what remains is the plan, the threads and the calls.
  const int batch = 64, heads = 32, d = 2;
  uint16_t *blocks = polar_memory_allocate((size_t)(heads * batch * 32 * d) * 2);
  int32_t tables[64], positions[64] = {0}, own[64];
  float *q = polar_memory_allocate(sizeof(float) * (size_t)(batch * heads * d));
  for (int i = 0; i < batch; i++) tables[i] = own[i] = i;
  polar_attention_args args = {
    .kv = {blocks, batch, heads, d}, .query = q, .out = q, .query_stride = heads * d, .out_stride = heads * d,
    .positions = positions, .sequences = own, .tables = tables, .table_stride = 1, .rows = batch, .heads = heads,
    .scale = 1};
  double times[most_rounds], small[most_rounds];
  for (int round = 0; round < most_rounds; round++) {
    double start = now();
    polar_decode_attention(context, &args);
    times[round] = now() - start;
    args.rows = 1;
    start = now();
    polar_decode_attention(context, &args);
    small[round] = now() - start;
    args.rows = batch;
  }
  printf("plan: batch 64 x 32 heads of one token %.1f us, batch 1 %.1f us\n", 1e6 * median(times, most_rounds),
    1e6 * median(small, most_rounds));
}

int main(int count, char **values) {
  const int isa = count > 1 ? atoi(values[1]) : polar_isa_best();
  const char *only = count > 3 ? values[3] : "";
  polar_context *context = polar_context_create(count > 2 ? atoi(values[2]) : 0, isa);
  if (!context) return 1;
  printf("%s, %d threads\n", polar_cpu_isa_name(isa), polar_context_threads(context));
  if (!*only || !strcmp(only, "plan")) plan(context);
  if (!*only || !strcmp(only, "linear")) linear(context);
  if (!*only || !strcmp(only, "attention")) {
    attention(context, 32, 32, 64, 4096, 8);
    attention(context, 9, 3, 64, 1024, 8);
    attention(context, 9, 3, 64, 1024, 32);
    attention(context, 8, 8, 32, 900, 64);
    attention(context, 32, 8, 128, 2048, 8);
    prefill(context, 9, 3, 64, 1024);
    prefill(context, 32, 32, 64, 512);
  }
  polar_context_destroy(context);
  return 0;
}
