// The halves of a ReLU MLP on chosen neurons, neuron-major weights.
#include "context.h"

typedef struct {
  polar_context *context;
  const polar_selective_args *args;
  int64_t count;
} selective_job;

static int64_t count_of(const polar_selective_args *args) { return args->count ? *args->count : args->neurons; }

static int64_t neuron_of(const polar_selective_args *args, int64_t entry) {
  return args->indices ? args->indices[entry] : entry;
}

static float dot(const float *x, const uint16_t *w, int64_t n, float sum) {
  for (int64_t i = 0; i < n; i++) sum += x[i] * polar_f32(w[i]);
  return sum;
}

static void run_up(void *argument, int thread, int threads) {
  const selective_job *job = argument;
  const polar_selective_args *args = job->args;
  for (int64_t j = job->count * thread / threads; j < job->count * (thread + 1) / threads; j++) {
    const int64_t n = neuron_of(args, j);
    const uint16_t *w = args->weight + n * args->weight_stride;
    for (int64_t i = 0; i < args->rows; i++) {
      const float *x = args->x + i * args->x_stride;
      float value = dot(x, w, args->hidden, args->bias ? args->bias[n] : 0);
      value = value > args->threshold ? value : 0;
      if (args->gated) value *= dot(x, w + args->hidden, args->hidden, args->gated_bias ? args->gated_bias[n] : 0);
      args->out[i * args->out_stride + j] = value;
    }
  }
}

void polar_selective_up(polar_context *context, const polar_selective_args *args) {
  selective_job job = {context, args, count_of(args)};
  polar_context_run(context, run_up, &job);
}

static void run_down(void *argument, int thread, int threads) {
  const selective_job *job = argument;
  const polar_selective_args *args = job->args;
  const int64_t low = args->hidden * thread / threads, high = args->hidden * (thread + 1) / threads;
  for (int64_t i = 0; i < args->rows; i++) {
    float *out = args->out + i * args->out_stride;
    for (int64_t d = low; d < high; d++) out[d] = args->bias ? args->bias[d] : 0;
    for (int64_t j = 0; j < job->count; j++) {
      const uint16_t *w = args->weight + neuron_of(args, j) * args->weight_stride;
      const float h = args->x[i * args->x_stride + j];
      for (int64_t d = low; d < high; d++) out[d] += h * polar_f32(w[d]);
    }
  }
}

void polar_selective_down(polar_context *context, const polar_selective_args *args) {
  selective_job job = {context, args, count_of(args)};
  polar_context_run(context, run_down, &job);
}
