// Checks the CPU kernels of every instruction set that this build and machine run against double precision, and
// their promise of results that do not depend on batch, threads or selection, bit for bit.
//
//   check [isa]    isa: 0 generic, 1 AVX2, 2 AVX-VNNI, 3 AVX-512, 4 NEON; all that are supported by default
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "polar_cpu.h"

static uint64_t state = 1;
static float uniform(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (float)((double)(state >> 40) / (1 << 24) * 2 - 1);
}
static int below(int n) { return (int)((uniform() * 0.5f + 0.5f) * (float)n) % n; }
static float bf16(float value) {
  union { float f; uint32_t u; } b = {value};
  b.u = (b.u + 0x7fff + ((b.u >> 16) & 1)) & 0xffff0000u;
  return b.f;
}
static float *floats(size_t n) { return polar_memory_allocate(n * sizeof(float)); }

static int failures = 0;
static void expect(int good, const char *what, double error) {
  if (!good) {
    failures++;
    printf("  FAILED %s (%.3g)\n", what, error);
  }
}

// Activations as weights of 8 and 4 bits see them: 127 steps of the largest in each 128, halved as often as 32 of them allow.
static void quantize(float *x, int n) {
  for (int begin = 0; begin < n; begin += 128) {
    float top = 0x1p-57f;
    for (int i = begin; i < begin + 128 && i < n; i++) top = fmaxf(top, fabsf(x[i]));
    for (int k = begin; k < begin + 128 && k < n; k += 32) {
      const int end = k + 32 < n ? k + 32 : n;
      float largest = 0, power = 1;
      for (int i = k; i < end; i++) largest = fmaxf(largest, fabsf(x[i]));
      while (power > 0x1p-24f && largest <= top * (power / 2)) power /= 2;
      for (int i = k; i < end; i++) x[i] = rintf(x[i] * (127 / top / power)) * (top / 127 * power);
    }
  }
}

// How far weights may be off after packing, relative to the largest of their group.
static double rounding(int format) {
  static const double steps[] = {0, 0.5 / 127 + 1e-3, 1.0 / 8 + 1e-3, 1.0 / 15 + 1e-3};
  return steps[format];
}

static void check_packing(polar_context *context, const polar_weight *weight, const float *w, float *back) {
  polar_unpack_rows(context, weight, 0, weight->outputs, back);
  double error = 0;
  for (int64_t row = 0; row < weight->outputs; row++)
    for (int64_t k = 0; k < weight->inputs; k += 32) {
      const float *a = w + row * weight->inputs + k, *b = back + row * weight->inputs + k;
      double top = 1e-6;
      const int64_t count = weight->inputs - k < 32 ? weight->inputs - k : 32;
      for (int64_t i = 0; i < count; i++) top = fmax(top, fabs(a[i]));
      for (int64_t i = 0; i < count; i++) error = fmax(error, fabs(a[i] - b[i]) / top - rounding(weight->format));
    }
  expect(error <= 0, "pack", error);
}

static void check_linear(polar_context *one, polar_context *two, int format, double tolerance) {
  static const int shapes[][2] = {{32, 2}, {1, 6}, {33, 64}, {100, 576}, {576, 1100}, {70, 1536}, {40, 30}};
  static const int rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 31, 64, 97, 200};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    const int n = shapes[s][0], k = shapes[s][1], most = 200;
    float *w = floats((size_t)n * k), *x = floats((size_t)most * k), *bias = floats(n);
    float *all = floats((size_t)most * n), *y = floats((size_t)most * n + 64);
    for (int i = 0; i < n * k; i++) w[i] = bf16(uniform());
    // Inputs of very different size.
    for (int i = 0; i < most * k; i++) x[i] = ldexpf(uniform(), i % k / 32 % 7 * (i / k % 3) * -5);
    for (int i = 0; i < n; i++) bias[i] = uniform();
    void *packed = polar_memory_allocate(polar_packed_bytes(n, k, format));
    const polar_weight weight = {packed, n, k, format};
    polar_pack_rows(&weight, 0, n / 2, w);
    polar_pack_rows(&weight, n / 2, n - n / 2, w + n / 2 * k);
    float *back = floats((size_t)n * k);
    check_packing(one, &weight, w, back);
    int32_t token = n - 1;
    polar_embed(one, y, k, &token, 1, &weight);
    expect(memcmp(y, back + (size_t)(n - 1) * k, sizeof(float) * k) == 0, "embed", 0);
    polar_linear_args args = {weight, bias, x, all, k, n, most, POLAR_LINEAR_PLAIN, 0};
    polar_linear(one, &args);
    if (format != POLAR_WEIGHT_BF16)
      for (int i = 0; i < most; i++) quantize(x + i * k, k);
    double error = 0;
    for (int i = 0; i < most; i++)
      for (int j = 0; j < n; j++) {
        double sum = bias[j], size = 1;
        for (int c = 0; c < k; c++) {
          sum += (double)x[i * k + c] * back[j * k + c];
          size += fabs((double)x[i * k + c] * back[j * k + c]);
        }
        error = fmax(error, fabs(sum - all[i * n + j]) / size);
      }
    expect(error < tolerance, "linear", error);
    if (format != POLAR_WEIGHT_BF16) polar_linear(one, &args);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
      const int first = below(most - rows[r] + 1);
      args.x = x + first * k;
      args.out = y;
      args.rows = rows[r];
      y[rows[r] * n] = 7;
      polar_linear(r % 2 ? one : two, &args);
      expect(memcmp(y, all + first * n, sizeof(float) * rows[r] * n) == 0, "linear batch invariance", rows[r]);
      expect(y[rows[r] * n] == 7, "linear writes past its output", rows[r]);
    }
  }
}

// A gated layer does what a layer and an activation after it do, bit for bit.
static void check_gated(polar_context *one, polar_context *two, int format) {
  static const int shapes[][2] = {{64, 2}, {128, 70}, {320, 576}, {192, 1536}};
  static const int rows[] = {1, 2, 7, 8, 9, 31, 64, 97, 200};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    const int n = shapes[s][0], k = shapes[s][1], most = 200;
    float *w = floats((size_t)n * k), *x = floats((size_t)most * k), *bias = floats(n);
    float *both = floats((size_t)most * n), *want = floats((size_t)most * n), *got = floats((size_t)most * n);
    for (int i = 0; i < n * k; i++) w[i] = uniform();
    for (int i = 0; i < most * k; i++) x[i] = uniform();
    for (int i = 0; i < n; i++) bias[i] = uniform();
    void *packed = polar_memory_allocate(polar_packed_bytes(n, k, format));
    const polar_weight weight = {packed, n, k, format};
    polar_pack_rows(&weight, 0, n, w);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
      for (int activation = POLAR_LINEAR_SILU; activation <= POLAR_LINEAR_RELU; activation++) {
        const int stride = n / 2 + 3;
        polar_linear_args args = {weight, r % 2 ? bias : NULL, x, both, k, n, rows[r], POLAR_LINEAR_PLAIN, 0.25f};
        polar_linear(one, &args);
        polar_row_args row = {.out = want, .a = both, .out_stride = stride, .a_stride = n, .rows = rows[r], .columns = n / 2,
                              .threshold = args.threshold};
        (activation == POLAR_LINEAR_SILU ? polar_silu_mul : polar_relu_mul)(one, &row);
        args.activation = activation;
        args.out = got;
        args.out_stride = stride;
        memset(got, 0, sizeof(float) * (size_t)(stride * rows[r]));
        polar_linear(r % 3 ? one : two, &args);
        expect(memcmp(got, want, sizeof(float) * (size_t)(stride * rows[r])) == 0, "gated linear", rows[r]);
      }
  }
}

typedef struct {
  polar_attention_args args;
  int sequences, heads, kv_heads, head_dim, context[8];
  float *q, *out, *k[8], *v[8];
  int32_t *positions, *rows, *tables;
} attention_case;

// The attention of one head of one row in double precision; local < 0 is full.
static void exact(const attention_case *c, int s, int tokens, const float *q, int h, int sink, int recent, double *out) {
  const int d = c->head_dim, g = h / (c->heads / c->kv_heads), width = c->kv_heads * d;
  const int pages = (tokens + 15) / 16;
  double *w = malloc(sizeof(double) * tokens), top = -1e300, sum = 0;
  for (int t = 0; t < tokens; t++) {
    w[t] = -1e300;
    if (sink >= 0 && t / 16 >= sink && t / 16 < pages - recent) continue;
    double dot = 0;
    for (int i = 0; i < d; i++) dot += (double)q[i] * c->k[s][t * width + g * d + i];
    w[t] = dot * c->args.scale;
    top = fmax(top, w[t]);
  }
  for (int t = 0; t < tokens; t++) sum += w[t] = w[t] < -1e299 ? 0 : exp(w[t] - top);
  for (int i = 0; i < d; i++) {
    out[i] = 0;
    for (int t = 0; t < tokens; t++) out[i] += w[t] / sum * c->v[s][t * width + g * d + i];
  }
  free(w);
}

static void check_attention(
  polar_context *one, polar_context *two, int heads, int kv_heads, int d, int sequences, const int *context,
  double tolerance
) {
  attention_case c = {.sequences = sequences, .heads = heads, .kv_heads = kv_heads, .head_dim = d};
  int most = 0, total = 0;
  for (int s = 0; s < sequences; s++) most = context[s] > most ? context[s] : most, total += context[s];
  const int table = (most + 15) / 16 + 1, pages = sequences * table + 3, width = kv_heads * d;
  c.tables = calloc(sequences * table, 4);
  int32_t *order = malloc(4 * pages);
  for (int i = 0; i < pages; i++) order[i] = i;
  for (int i = pages - 1; i > 0; i--) {
    int j = below(i + 1), t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
  for (int i = 0; i < sequences * table; i++) c.tables[i] = order[i];
  const size_t elements = (size_t)kv_heads * pages * 32 * d;
  uint16_t *blocks = polar_memory_allocate(elements * 2);
  // What no token was written to must not matter.
  for (size_t i = 0; i < elements; i++) blocks[i] = 0x7fc0;
  polar_kv kv = {blocks, pages, kv_heads, d};
  float *query = floats((size_t)total * heads * d), *prefill = floats((size_t)total * heads * d);
  float *local = floats((size_t)total * heads * d);
  int32_t *positions = malloc(4 * total), *row_sequences = malloc(4 * total);
  for (int i = 0; i < total * heads * d; i++) query[i] = 2 * uniform();
  int row = 0;
  for (int s = 0; s < sequences; s++) {
    c.k[s] = floats((size_t)context[s] * width);
    c.v[s] = floats((size_t)context[s] * width);
    int32_t *slots = malloc(4 * context[s]);
    for (int i = 0; i < context[s] * width; i++) c.k[s][i] = bf16(uniform()), c.v[s][i] = bf16(uniform());
    for (int t = 0; t < context[s]; t++) {
      slots[t] = c.tables[s * table + t / 16] * 16 + t % 16;
      positions[row] = t;
      row_sequences[row++] = s;
    }
    polar_store_kv(one, &kv, c.k[s], width, c.v[s], width, slots, context[s]);
    free(slots);
  }
  c.args = (polar_attention_args){
    .kv = kv, .query = query, .out = prefill, .query_stride = heads * d, .out_stride = heads * d,
    .positions = positions, .sequences = row_sequences, .tables = c.tables, .table_stride = table, .rows = total,
    .heads = heads, .scale = 1 / sqrtf((float)d)};
  polar_prefill_attention(two, &c.args);
  c.args.out = local;
  c.args.fallback = POLAR_FALLBACK_LOCAL;
  c.args.sink_pages = 1;
  c.args.recent_pages = 2;
  polar_prefill_attention(one, &c.args);
  c.args.fallback = 0;
  double *expected = malloc(sizeof(double) * d), error = 0;
  row = 0;
  for (int s = 0; s < sequences; s++)
    for (int t = 0; t < context[s]; t++, row++) {
      if (t > 40 && t < context[s] - 20 && t % 37) continue;
      for (int h = 0; h < heads; h++) {
        exact(&c, s, t + 1, query + (row * heads + h) * d, h, -1, 0, expected);
        for (int i = 0; i < d; i++) error = fmax(error, fabs(expected[i] - prefill[(row * heads + h) * d + i]));
        exact(&c, s, t + 1, query + (row * heads + h) * d, h, 1, 2, expected);
        for (int i = 0; i < d; i++) error = fmax(error, fabs(expected[i] - local[(row * heads + h) * d + i]));
      }
    }
  expect(error < tolerance, "attention", error);

  // Decode of the rows at some common distance from the end, in every mode, against the prefill of the same rows.
  float *q = floats(sequences * heads * d), *out = floats(sequences * heads * d), *constant = floats(heads * d);
  int32_t *at = malloc(4 * sequences), *own = malloc(4 * sequences), *from = malloc(4 * sequences);
  uint8_t *mask = malloc(sequences * heads);
  for (int i = 0; i < heads * d; i++) constant[i] = uniform();
  for (int round = 0; round < 24; round++) {
    int base = 0;
    for (int s = 0; s < sequences; s++) {
      at[s] = context[s] - 1 - (round < 2 ? 0 : below(context[s]));
      own[s] = s;
      from[s] = base + at[s];
      memcpy(q + s * heads * d, query + (size_t)from[s] * heads * d, sizeof(float) * heads * d);
      base += context[s];
    }
    const int mode = round % 6, all = mode == 1;
    for (int i = 0; i < sequences * heads; i++) mask[i] = all || below(2);
    polar_attention_args a = c.args;
    a.query = q, a.out = out, a.positions = at, a.sequences = own, a.rows = sequences;
    a.mask = mode == 0 ? NULL : mask;
    a.mask_stride = heads;
    a.fallback = mode == 2 ? POLAR_FALLBACK_ZERO : mode == 3 ? POLAR_FALLBACK_CONSTANT : POLAR_FALLBACK_LOCAL;
    a.constant = constant, a.constant_stride = d;
    if (mode == 5) a.sink_pages = 3, a.recent_pages = 1000;
    polar_decode_attention(round % 4 < 2 ? two : one, &a);
    for (int s = 0; s < sequences; s++)
      for (int h = 0; h < heads; h++) {
        const size_t i = ((size_t)from[s] * heads + h) * d;
        float zero[512] = {0};
        const float *want = mode == 0 || mode == 5 || mask[s * heads + h] ? prefill + i
          : mode == 2 ? zero : mode == 3 ? constant + h * d : local + i;
        expect(memcmp(out + (s * heads + h) * d, want, sizeof(float) * d) == 0, "decode equals prefill", mode);
      }
  }
  for (int s = 0; s < sequences; s++) {
    polar_memory_free(c.k[s], sizeof(float) * context[s] * width);
    polar_memory_free(c.v[s], sizeof(float) * context[s] * width);
  }
  polar_memory_free(blocks, elements * 2);
}

static void check_ops(polar_context *one, polar_context *two) {
  static const int widths[] = {1, 7, 16, 50, 576};
  for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
    const int n = widths[w], rows = 100;
    float *x = floats(rows * 2 * n), *y = floats(rows * 2 * n), *weight = floats(n), *bias = floats(n);
    float *out = floats(rows * n), *single = floats(n);
    for (int i = 0; i < rows * 2 * n; i++) x[i] = 3 * uniform(), y[i] = uniform();
    for (int i = 0; i < n; i++) weight[i] = uniform(), bias[i] = uniform();
    polar_row_args a = {.out = out, .a = x, .b = y, .weight = weight, .bias = bias, .out_stride = n,
      .a_stride = 2 * n, .b_stride = 2 * n, .rows = rows, .columns = n, .epsilon = 1e-5f};
    double error = 0;
    polar_silu_mul(two, &a);
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < n; j++) {
        const double g = x[i * 2 * n + j], e = g / (1 + exp(-g)) * x[i * 2 * n + n + j];
        error = fmax(error, fabs(e - out[i * n + j]));
      }
    expect(error < 2e-6, "silu", error);
    error = 0;
    polar_rms_norm(two, &a);
    for (int i = 0; i < rows; i++) {
      double sum = 0;
      for (int j = 0; j < n; j++) sum += (double)x[i * 2 * n + j] * x[i * 2 * n + j];
      for (int j = 0; j < n; j++)
        error = fmax(error, fabs(x[i * 2 * n + j] / sqrt(sum / n + 1e-5) * weight[j] - out[i * n + j]));
    }
    expect(error < 2e-6, "rms norm", error);
    polar_row_args b = a;
    b.a = x + 5 * 2 * n, b.out = single, b.rows = 1;
    polar_rms_norm(one, &b);
    expect(memcmp(single, out + 5 * n, sizeof(float) * n) == 0, "rms norm batch invariance", n);
    error = 0;
    polar_layer_norm(two, &a);
    for (int i = 0; i < rows; i++) {
      double mean = 0, sum = 0;
      for (int j = 0; j < n; j++) mean += x[i * 2 * n + j] / (double)n;
      for (int j = 0; j < n; j++) sum += pow(x[i * 2 * n + j] - mean, 2);
      for (int j = 0; j < n; j++)
        error = fmax(
          error, fabs((x[i * 2 * n + j] - mean) / sqrt(sum / n + 1e-5) * weight[j] + bias[j] - out[i * n + j]));
    }
    expect(error < 5e-6, "layer norm", error);
    float *sum = floats(rows * 2 * n);
    for (int i = 0; i < rows * 2 * n; i++) sum[i] = x[i] + y[i];
    a.a = sum;
    float *normed = floats(rows * n);
    a.out = normed;
    polar_rms_norm(one, &a);
    a.a = x, a.out = out;
    polar_add_rms_norm(two, &a);
    expect(memcmp(normed, out, sizeof(float) * rows * n) == 0, "add rms norm", n);
    error = 0;
    memcpy(y, x, sizeof(float) * rows * n);
    a.out = y;
    polar_gelu(two, &a);
    for (int i = 0; i < rows * n; i++)
      error = fmax(error, fabs(0.5 * x[i] * (1 + erf(x[i] * sqrt(0.5))) - y[i]));
    expect(error < 2e-6, "gelu", error);
  }
  const int dims[] = {2, 6, 64, 160};
  for (int i = 0; i < 4; i++) {
    // Two heads of queries, one of keys, one of values.
    const int d = dims[i], heads = 3, all = 4, rows = 40;
    float *x = floats(rows * all * d), *y = floats(rows * all * d), *f = floats(d / 2);
    int32_t positions[40], slots[40];
    for (int j = 0; j < rows; j++) positions[j] = j < 20 ? j : below(200000), slots[j] = (7 * j + 5) % 48;
    for (int j = 0; j < d / 2; j++) f[j] = (float)pow(10000, -2.0 * j / d);
    for (int j = 0; j < rows * all * d; j++) y[j] = x[j] = uniform();
    polar_rotary_args a = {.x = y, .x_stride = all * d, .rows = rows, .heads = 2, .positions = positions, .slots = slots,
      .inverse_frequencies = f,
      .kv = {.blocks = floats(3 * 16 * d), .pages = 3, .kv_heads = 1, .head_dim = d, .type = POLAR_KV_BF16}};
    polar_kv apart = a.kv;
    apart.blocks = floats(3 * 16 * d);
    polar_rotary_store_kv(two, &a);
    polar_store_kv(one, &apart, y + 2 * d, all * d, y + 3 * d, all * d, slots, rows);
    expect(memcmp(a.kv.blocks, apart.blocks, 3 * 4 * 16 * d) == 0, "rotary and store", d);
    double error = 0;
    for (int r = 0; r < rows; r++)
      for (int h = 0; h < heads; h++)
        for (int j = 0; j < d / 2; j++) {
          const double angle = (float)positions[r] * f[j];
          const float *p = x + (r * all + h) * d + j, *q = y + (r * all + h) * d + j;
          error = fmax(error, fabs(p[0] * cos(angle) - p[d / 2] * sin(angle) - q[0]));
          error = fmax(error, fabs(p[d / 2] * cos(angle) + p[0] * sin(angle) - q[d / 2]));
        }
    expect(error < 3e-7, "rotary", error);
  }
}

static void check(int isa) {
  polar_context *one = polar_context_create(1, isa), *two = polar_context_create(3, isa);
  if (!one || !two) {
    printf("%s: not supported here, not checked\n", polar_cpu_isa_name(isa));
    return;
  }
  const int before = failures;
  // AVX-512 rounds activations, queries and probabilities to bf16.
  const double rounded = isa == POLAR_ISA_AVX512 ? 1 : 0;
  check_linear(one, two, POLAR_WEIGHT_BF16, rounded ? 4e-3 : 1e-6);
  for (int format = POLAR_WEIGHT_INT8; format <= POLAR_WEIGHT_INT4_AFFINE; format++) check_linear(one, two, format, 1e-6);
  for (int format = POLAR_WEIGHT_BF16; format <= POLAR_WEIGHT_INT4_AFFINE; format++) check_gated(one, two, format);
  static const int shapes[][3] = {
    {4, 4, 64}, {9, 3, 64}, {8, 8, 32}, {4, 2, 128}, {3, 1, 2}, {2, 2, 6}, {5, 1, 16}, {6, 1, 48}, {7, 1, 80},
    {71, 1, 64}, {2, 1, 24}, {4, 1, 256}, {2, 2, 20}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const int context[] = {1100, 1, 16, 517, 33, 64};
    check_attention(
      one, two, shapes[i][0], shapes[i][1], shapes[i][2], i < 3 ? 6 : 4, i < 3 ? context : context + 2,
      rounded ? 3e-2 : 3e-6);
  }
  check_ops(one, two);
  printf("%s: %d failures\n", polar_cpu_isa_name(isa), failures - before);
  polar_context_destroy(one);
  polar_context_destroy(two);
}

int main(int count, char **values) {
  for (int isa = 0; isa <= POLAR_ISA_LAST; isa++)
    if (count < 2 || atoi(values[1]) == isa) check(isa);
  return failures > 0;
}
