// Row-wise and element-wise kernels.
#include "reduce.cuh"

DEVI float* row_of(PolarAddress address, u64 row, int stride) { return (float*)address + row * stride; }

KERNEL(POLAR_ROW_THREADS) polar_embed(ARGS(PolarEmbedArgs) args) {
  const int token = ((const int*)args.tokens)[blockIdx.x];
  float* out = row_of(args.out, blockIdx.x, args.out_stride);
  const u16* row = (const u16*)args.table + (u64)(token < 0 ? 0 : token) * args.table_stride;
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) {
    out[j] = token < 0 ? bits_float(0x7fc00000u) : element_value(row[j]);
  }
}

KERNEL(POLAR_ROW_THREADS) polar_gather_rows(ARGS(PolarGatherRowsArgs) args) {
  const int index = ((const int*)args.indices)[blockIdx.x];
  float* out = row_of(args.out, blockIdx.x, args.out_stride);
  const float* row = row_of(args.x, index < 0 ? 0 : index, args.x_stride);
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) out[j] = index < 0 ? 0.f : row[j];
}

KERNEL(POLAR_ROW_THREADS) polar_rms_norm(ARGS(PolarRMSNormArgs) args) {
  const int first = blockIdx.y * args.columns;  // of the vector in its row
  float* x = row_of(args.x, blockIdx.x, args.x_stride) + first;
  float* out = row_of(args.out, blockIdx.x, args.out_stride) + first;
  const float* weight = (const float*)args.weight;
  float sum = 0;
  if (args.delta) {
    const float* delta = row_of(args.delta, blockIdx.x, args.delta_stride) + first;
    for (int j = threadIdx.x; j < args.columns; j += blockDim.x) {
      const float value = x[j] + delta[j];
      x[j] = value;
      sum += value * value;
    }
  } else {
    for (int j = threadIdx.x; j < args.columns; j += blockDim.x) sum += x[j] * x[j];
  }
  const float scale = 1.f / sqrtf(block_sum(sum) / args.columns + args.epsilon);
  // A thread reads what it has written itself.
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) out[j] = x[j] * scale * weight[j];
}

KERNEL(POLAR_ROW_THREADS) polar_layer_norm(ARGS(PolarLayerNormArgs) args) {
  const float* x = row_of(args.x, blockIdx.x, args.x_stride);
  float* out = row_of(args.out, blockIdx.x, args.out_stride);
  float sum = 0;
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) sum += x[j];
  const float mean = block_sum(sum) / args.columns;
  float squares = 0;
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) squares += (x[j] - mean) * (x[j] - mean);
  const float scale = 1.f / sqrtf(block_sum(squares) / args.columns + args.epsilon);
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) {
    out[j] = (x[j] - mean) * scale * ((const float*)args.weight)[j] + ((const float*)args.bias)[j];
  }
}

/// Where an element-wise thread works; `column` may be beyond the row.
struct Place {
  int column;
  float* out;
  const float* x;
};

DEVI Place place_of(const PolarElementwiseArgs& args) {
  return {
      (int)(blockIdx.x * blockDim.x + threadIdx.x), row_of(args.out, blockIdx.y, args.out_stride),
      row_of(args.x, blockIdx.y, args.x_stride)};
}

KERNEL(POLAR_FLAT_THREADS) polar_add(ARGS(PolarElementwiseArgs) args) {
  const Place at = place_of(args);
  if (at.column < args.columns) at.out[at.column] += at.x[at.column];
}

KERNEL(POLAR_FLAT_THREADS) polar_relu(ARGS(PolarElementwiseArgs) args) {
  const Place at = place_of(args);
  if (at.column < args.columns) at.out[at.column] = fmaxf(at.out[at.column], 0.f);
}

KERNEL(POLAR_FLAT_THREADS) polar_gelu(ARGS(PolarElementwiseArgs) args) {
  const Place at = place_of(args);
  if (at.column >= args.columns) return;
  const float x = at.out[at.column];
  at.out[at.column] = 0.5f * x * (1.f + erff(x * 0.70710678f));
}

KERNEL(POLAR_FLAT_THREADS) polar_silu_mul(ARGS(PolarElementwiseArgs) args) {
  const Place at = place_of(args);
  if (at.column >= args.columns) return;
  const float gate = at.x[at.column];
  at.out[at.column] = gate / (1.f + expf(-gate)) * at.x[args.columns + at.column];
}

KERNEL(POLAR_FLAT_THREADS) polar_relu_mul(ARGS(PolarElementwiseArgs) args) {
  const Place at = place_of(args);
  if (at.column >= args.columns) return;
  const float gate = at.x[at.column];
  at.out[at.column] = gate > args.threshold ? gate * at.x[args.columns + at.column] : 0.f;
}

KERNEL(POLAR_FLAT_THREADS) polar_convert(ARGS(PolarElementwiseArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= args.columns) return;
  const float x = row_of(args.x, blockIdx.y, args.x_stride)[column];
  ((u16*)args.out + (u64)blockIdx.y * args.out_stride)[column] = (u16)pack_elements(x, 0.f);
}
