// Weights: packing, unpacking, embedding.
//
// bf16: [panel][pair of inputs][32 outputs][2]. Codes of 8 and 4 bits: [panel][group of 32 inputs] of
//   f16 scales [32], then f16 minimums [32] where there are such, then
//   codes [8][32 outputs][4 inputs] of one byte, 128 too large, or
//   codes [4][32 outputs][4] of two inputs each: input 4 s + i in the low, 16 + 4 s + i in the high bits of byte i.
// That is the order of ggml's blocks of 32, cut into words of four bytes which take turns over the outputs.
#include <math.h>
#include "context.h"
#include "quant.h"

enum {
  words_int8 = POLAR_GROUP / 4,
  words_int4 = POLAR_GROUP / 8,
};

int64_t polar_packed_bytes(int64_t outputs, int64_t inputs, int format) {
  if (format == POLAR_WEIGHT_BF16) return polar_panels(outputs) * POLAR_PANEL * inputs * (int64_t)sizeof(uint16_t);
  return polar_panels(outputs) * polar_groups(inputs) * polar_group_bytes(format);
}

// The group `group` of row `row`, and the row's place in its panel.
static uint8_t *group_of(const polar_weight *weight, int64_t row, int64_t group) {
  const int64_t index = row / POLAR_PANEL * polar_groups(weight->inputs) + group;
  return (uint8_t *)weight->data + index * polar_group_bytes(weight->format);
}

// One group of one output as ggml keeps it.
typedef struct {
  uint16_t scale, minimum;
  uint8_t codes[POLAR_GROUP];  // int8 (two's complement), or 16 bytes of low and high halves
} group_block;

static void write_group(const polar_weight *weight, int64_t row, int64_t group, const group_block *block) {
  uint8_t *out = group_of(weight, row, group);
  const int64_t place = row % POLAR_PANEL;
  memcpy(out + 2 * place, &block->scale, 2);
  if (weight->format == POLAR_WEIGHT_INT4_AFFINE) memcpy(out + 2 * POLAR_PANEL + 2 * place, &block->minimum, 2);
  out += polar_group_head(weight->format) + 4 * place;
  const int wide = weight->format == POLAR_WEIGHT_INT8;
  for (int s = 0; s < (wide ? words_int8 : words_int4); s++, out += 4 * POLAR_PANEL) {
    uint32_t word;
    memcpy(&word, block->codes + 4 * s, 4);
    if (wide) word ^= 0x80808080u;
    memcpy(out, &word, 4);
  }
}

static void read_group(const polar_weight *weight, int64_t row, int64_t group, float *values) {
  const uint8_t *in = group_of(weight, row, group);
  const int64_t place = row % POLAR_PANEL;
  uint16_t bits;
  memcpy(&bits, in + 2 * place, 2);
  const float scale = polar_half(bits);
  float minimum = 0;
  if (weight->format == POLAR_WEIGHT_INT4_AFFINE) {
    memcpy(&bits, in + 2 * POLAR_PANEL + 2 * place, 2);
    minimum = polar_half(bits);
  }
  in += polar_group_head(weight->format) + 4 * place;
  if (weight->format == POLAR_WEIGHT_INT8) {
    for (int k = 0; k < POLAR_GROUP; k++)
      values[k] = scale * (float)((int)in[k / 4 * 4 * POLAR_PANEL + k % 4] - 128);
    return;
  }
  const int zero = weight->format == POLAR_WEIGHT_INT4 ? 8 : 0;
  for (int k = 0; k < POLAR_GROUP / 2; k++) {
    const int pair = in[k / 4 * 4 * POLAR_PANEL + k % 4];
    const float low = scale * (float)((pair & 15) - zero), high = scale * (float)((pair >> 4) - zero);
    values[k] = low + minimum;
    values[k + POLAR_GROUP / 2] = high + minimum;
  }
}

// MARK: Quantising

// The nearest integer, ties to even, of a number well below 2^22.
static int nearest(float value) {
  const float shifted = value + 12582912.0f;
  return (int)(shifted - 12582912.0f);
}

static int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// `value / scale` kept where `nearest` works.
static float ratio(float value, float scale) {
  const float r = value / scale;
  return r > 1e6f ? 1e6f : r < -1e6f ? -1e6f : r;
}

static void quantize_int8(const float *v, group_block *block) {
  float largest = 0;
  for (int k = 0; k < POLAR_GROUP; k++) largest = fabsf(v[k]) > largest ? fabsf(v[k]) : largest;
  block->scale = polar_to_half(largest / 127);
  // Tiny scales are coarse: none that would cut the largest value off.
  if (largest > 127.5f * polar_half(block->scale) && block->scale < 0x7bff) block->scale++;
  const float scale = polar_half(block->scale);
  for (int k = 0; k < POLAR_GROUP; k++)
    block->codes[k] = (uint8_t)(scale == 0 ? 0 : clamp(nearest(ratio(v[k], scale)), -127, 127));
}

static void set_pair(group_block *block, int k, int low, int high) { block->codes[k] = (uint8_t)(low | high << 4); }

// As ggml's Q4_0: the value of the largest magnitude becomes code 0, which stands for -8.
static void quantize_int4(const float *v, group_block *block) {
  float extreme = 0;
  for (int k = 0; k < POLAR_GROUP; k++) extreme = fabsf(v[k]) > fabsf(extreme) ? v[k] : extreme;
  block->scale = polar_to_half(extreme / -8);
  const float scale = polar_half(block->scale);
  int codes[POLAR_GROUP];
  for (int k = 0; k < POLAR_GROUP; k++)
    codes[k] = (scale == 0 ? 0 : clamp(nearest(ratio(v[k], scale)), -8, 7)) + 8;
  for (int k = 0; k < POLAR_GROUP / 2; k++) set_pair(block, k, codes[k], codes[k + POLAR_GROUP / 2]);
}

// As ggml's Q4_1: codes 0 to 15 span the values.
static void quantize_int4_affine(const float *v, group_block *block) {
  float low = v[0], high = v[0];
  for (int k = 1; k < POLAR_GROUP; k++) {
    low = v[k] < low ? v[k] : low;
    high = v[k] > high ? v[k] : high;
  }
  block->minimum = polar_to_half(low);
  const float minimum = polar_half(block->minimum);
  block->scale = polar_to_half((high - minimum) / 15);
  const float scale = polar_half(block->scale);
  int codes[POLAR_GROUP];
  for (int k = 0; k < POLAR_GROUP; k++)
    codes[k] = scale == 0 ? 0 : clamp(nearest(ratio(v[k] - minimum, scale)), 0, 15);
  for (int k = 0; k < POLAR_GROUP / 2; k++) set_pair(block, k, codes[k], codes[k + POLAR_GROUP / 2]);
}

// MARK: Packing

static void pack_bf16(const polar_weight *weight, int64_t first_row, int64_t count, const float *values) {
  enum { chunk = 64 };  // pairs of inputs whose part of a panel stays in L1
  const int64_t pairs = weight->inputs / 2;
  for (int64_t row = first_row; row < first_row + count;) {
    const int64_t panel = row / POLAR_PANEL, end = (panel + 1) * POLAR_PANEL;
    const int64_t last = end < first_row + count ? end : first_row + count;
    for (int64_t k = 0; k < pairs; k += chunk) {
      const int64_t stop = k + chunk < pairs ? k + chunk : pairs;
      for (int64_t r = row; r < last; r++) {
        const float *in = values + (r - first_row) * weight->inputs;
        uint16_t *out = (uint16_t *)weight->data + panel * pairs * 2 * POLAR_PANEL + r % POLAR_PANEL * 2;
        for (int64_t p = k; p < stop; p++) {
          const uint16_t pair[2] = {polar_bf16(in[2 * p]), polar_bf16(in[2 * p + 1])};
          memcpy(out + p * 2 * POLAR_PANEL, pair, sizeof pair);
        }
      }
    }
    row = last;
  }
}

void polar_pack_rows(const polar_weight *weight, int64_t first_row, int64_t count, const float *values) {
  if (weight->format == POLAR_WEIGHT_BF16) {
    pack_bf16(weight, first_row, count, values);
    return;
  }
  for (int64_t r = 0; r < count; r++, values += weight->inputs)
    for (int64_t group = 0; group * POLAR_GROUP < weight->inputs; group++) {
      const int64_t k = group * POLAR_GROUP, rest = weight->inputs - k;
      float padded[POLAR_GROUP] = {0};
      memcpy(padded, values + k, (size_t)(rest < POLAR_GROUP ? rest : POLAR_GROUP) * sizeof(float));
      group_block block = {0};
      if (weight->format == POLAR_WEIGHT_INT8) {
        quantize_int8(padded, &block);
      } else if (weight->format == POLAR_WEIGHT_INT4) {
        quantize_int4(padded, &block);
      } else {
        quantize_int4_affine(padded, &block);
      }
      write_group(weight, first_row + r, group, &block);
    }
}

void polar_pack_blocks(const polar_weight *weight, int64_t first_row, int64_t count, const void *blocks) {
  const int affine = weight->format == POLAR_WEIGHT_INT4_AFFINE;
  const int64_t codes = polar_code_bytes(weight->format);
  const uint8_t *in = blocks;
  for (int64_t r = 0; r < count; r++)
    for (int64_t group = 0; group * POLAR_GROUP < weight->inputs; group++) {
      group_block block;
      memcpy(&block.scale, in, 2);
      if (affine) memcpy(&block.minimum, in + 2, 2);
      in += affine ? 4 : 2;
      memcpy(block.codes, in, (size_t)codes);
      in += codes;
      write_group(weight, first_row + r, group, &block);
    }
}

// MARK: Unpacking

static void unpack_row(const polar_weight *weight, int64_t row, float *out) {
  if (weight->format == POLAR_WEIGHT_BF16) {
    const uint16_t *in =
      (const uint16_t *)weight->data + row / POLAR_PANEL * weight->inputs * POLAR_PANEL + row % POLAR_PANEL * 2;
    for (int64_t pair = 0; pair < weight->inputs / 2; pair++, in += 2 * POLAR_PANEL) {
      out[2 * pair] = polar_f32(in[0]);
      out[2 * pair + 1] = polar_f32(in[1]);
    }
    return;
  }
  for (int64_t k = 0; k < weight->inputs; k += POLAR_GROUP) {
    if (weight->inputs - k >= POLAR_GROUP) {
      read_group(weight, row, k / POLAR_GROUP, out + k);
    } else {
      float values[POLAR_GROUP];
      read_group(weight, row, k / POLAR_GROUP, values);
      memcpy(out + k, values, (size_t)(weight->inputs - k) * sizeof(float));
    }
  }
}

typedef struct {
  const polar_weight *weight;
  const int32_t *tokens;  // rows to read, or NULL for first_row, first_row + 1, ...
  int64_t first_row, count, stride;
  float *out;
} unpack_job;

static void run_unpack(void *argument, int thread, int threads) {
  const unpack_job *job = argument;
  const int64_t high = job->count * (thread + 1) / threads;
  for (int64_t i = job->count * thread / threads; i < high; i++)
    unpack_row(job->weight, job->tokens ? job->tokens[i] : job->first_row + i, job->out + i * job->stride);
}

static void unpack(polar_context *context, unpack_job *job) {
  if (job->count * job->weight->inputs < 16384) {
    run_unpack(job, 0, 1);
  } else {
    polar_context_run(context, run_unpack, job);
  }
}

void polar_unpack_rows(
  polar_context *context, const polar_weight *weight, int64_t first_row, int64_t count, float *values
) {
  unpack_job job = {weight, NULL, first_row, count, weight->inputs, values};
  unpack(context, &job);
}

void polar_embed(
  polar_context *context, float *out, int64_t out_stride, const int32_t *tokens, int64_t rows,
  const polar_weight *table
) {
  unpack_job job = {table, tokens, 0, rows, out_stride, out};
  unpack(context, &job);
}
