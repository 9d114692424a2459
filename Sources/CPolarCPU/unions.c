// Lists of neurons from the scores of a batch.
#include <math.h>
#include <string.h>
#include "context.h"

// Neurons that one thread aggregates at a time: their sums stay in L1.
enum { aggregate_block = 1024 };

typedef struct {
  const polar_union_args *args;
  int sums;  // else maxima
} aggregate_job;

static void run_aggregate(void *argument, int thread, int threads) {
  const aggregate_job *job = argument;
  const polar_union_args *args = job->args;
  const int64_t low = args->neurons * thread / threads, high = args->neurons * (thread + 1) / threads;
  for (int64_t block = low; block < high; block += aggregate_block) {
    const int64_t end = block + aggregate_block < high ? block + aggregate_block : high;
    float *out = args->aggregate;
    for (int64_t n = block; n < end; n++) out[n] = job->sums ? 0 : -INFINITY;
    for (int64_t row = 0; row < args->rows; row++) {
      const float *scores = args->scores + row * args->score_stride;
      // A comparison with NaN is false: it adds nothing and is no maximum.
      if (job->sums) {
        for (int64_t n = block; n < end; n++) out[n] += scores[n] > 0 ? scores[n] : 0;
      } else {
        for (int64_t n = block; n < end; n++) out[n] = scores[n] > out[n] ? scores[n] : out[n];
      }
    }
  }
}

static void aggregate(polar_context *context, const polar_union_args *args, int sums) {
  aggregate_job job = {args, sums};
  // Waking the threads costs a few microseconds, about what this many elements take.
  if (args->rows * args->neurons < 32768 || context->threads == 1) {
    run_aggregate(&job, 0, 1);
  } else {
    polar_context_run(context, run_aggregate, &job);
  }
}

// Positive floats order as their bits do.
static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The bits of the k-th largest of the positive values (k >= 1, at most as many as there are), and in `ties` how many
// values of these bits are among the k. Digits of 8 bits from the top: each pass counts the values that share the
// digits found so far.
static uint32_t kth_largest(const float *values, int64_t n, int64_t k, int64_t *ties) {
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int64_t counts[256] = {0};
    const uint32_t mask = shift == 24 ? 0 : ~0u << (shift + 8);
    for (int64_t i = 0; i < n; i++) {
      const uint32_t bits = bits_of(values[i]);
      counts[(bits >> shift) & 255] += values[i] > 0 && (bits & mask) == prefix;
    }
    uint32_t digit = 255;
    while (counts[digit] < k) k -= counts[digit--];
    prefix |= digit << shift;
  }
  *ties = k;
  return prefix;
}

void polar_top_k_union(polar_context *context, const polar_union_args *args) {
  aggregate(context, args, 1);
  const float *sums = args->aggregate;
  int64_t positive = 0;
  for (int64_t n = 0; n < args->neurons; n++) positive += sums[n] > 0;
  int32_t count = 0;
  if (args->k >= positive) {
    for (int64_t n = 0; n < args->neurons; n++)
      if (sums[n] > 0) args->indices[count++] = (int32_t)n;
  } else if (args->k > 0) {
    int64_t ties;
    const uint32_t least = kth_largest(sums, args->neurons, args->k, &ties);
    for (int64_t n = 0; n < args->neurons; n++) {
      const uint32_t bits = bits_of(sums[n]);
      if (!(sums[n] > 0) || bits < least || (bits == least && ties-- <= 0)) continue;
      args->indices[count++] = (int32_t)n;
    }
  }
  *args->count = count;
}

void polar_union_above(polar_context *context, const polar_union_args *args) {
  aggregate(context, args, 0);
  int32_t count = 0;
  for (int64_t n = 0; n < args->neurons; n++) {
    if (args->aggregate[n] > args->threshold) args->indices[count++] = (int32_t)n;
  }
  *args->count = count;
}
