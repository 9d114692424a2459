// Recording for calibration, and the training of routers.
#include "reduce.cuh"
#include "ridge.cuh"
#include "training.cuh"

// ---- Recording ----------------------------------------------------------------------------------------------------------

KERNEL(POLAR_ROW_THREADS) polar_turns(ARGS(PolarTurnsArgs) args) {
  const float* x = float_row(args.x, blockIdx.x, args.x_stride);
  const float* delta = float_row(args.delta, blockIdx.x, args.delta_stride);
  float xx = 0, xy = 0, yy = 0;
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) {
    const float a = x[j], b = x[j] + delta[j];
    xx += a * a;
    xy += a * b;
    yy += b * b;
  }
  xx = block_sum(xx);
  xy = block_sum(xy);
  yy = block_sum(yy);
  if (threadIdx.x == 0) ((float*)args.out)[blockIdx.x] = xx > 0 && yy > 0 ? 1.f - xy / (sqrtf(xx) * sqrtf(yy)) : 0.f;
}

KERNEL(POLAR_FLAT_THREADS) polar_sum_rows(ARGS(PolarSumRowsArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= args.columns) return;
  float sum = 0;
  for (int i = 0; i < args.count; i++) {
    sum += float_row(args.x, listed_row(args.rows, i), args.x_stride)[column];
  }
  ((float*)args.out)[column] = sum;
}

KERNEL(POLAR_ROW_THREADS) polar_store_rows(ARGS(PolarStoreRowsArgs) args) {
  const float* x = float_row(args.x, listed_row(args.rows, blockIdx.x), args.x_stride);
  u16* out = (u16*)args.out + (u64)blockIdx.x * args.out_stride;
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) out[j] = bf16_bits(x[j]);
}

KERNEL(POLAR_FLAT_THREADS) polar_pack_active(ARGS(PolarPackActiveArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  const float* x = float_row(args.x, listed_row(args.rows, blockIdx.y), args.x_stride);
  const u32 word = lanes_where(column < args.columns && x[column] != 0);
  if ((threadIdx.x & 31) == 0 && column / 32 < args.words) {
    ((u32*)args.out)[(u64)blockIdx.y * args.out_stride + column / 32] = word;
  }
}

// ---- Batches of samples -------------------------------------------------------------------------------------------------

KERNEL(POLAR_FLAT_THREADS) polar_moments(ARGS(PolarMomentsArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= args.columns) return;
  float sum = 0, square = 0, taken = 0;
  for (int row = 0; row < args.rows; row += args.step) {
    const float value = bf16_value(((const u16*)args.samples)[(u64)row * args.samples_stride + column]);
    sum += value;
    square += value * value;
    taken += 1;
  }
  const float mean = sum / fmaxf(1.f, taken), variance = square / fmaxf(1.f, taken) - mean * mean;
  ((float*)args.mean)[column] = mean;
  ((float*)args.scale)[column] = variance > 1e-10f ? 1.f / sqrtf(variance) : 1.f;
}

KERNEL(POLAR_ROW_THREADS) polar_gather_scaled(ARGS(PolarGatherScaledArgs) args) {
  const u16* samples = (const u16*)args.samples + (u64)listed_row(args.rows, blockIdx.x) * args.samples_stride;
  float* out = float_row(args.out, blockIdx.x, args.out_stride);
  for (int j = threadIdx.x; j < args.columns; j += blockDim.x) {
    out[j] = (bf16_value(samples[j]) - ((const float*)args.mean)[j]) * ((const float*)args.scale)[j];
  }
}

// ---- Products -----------------------------------------------------------------------------------------------------------

/// Calls store(column, row, value) for the elements of a tile, neighbours in a row of the result by neighbouring threads.
template <class Store>
DEVI void transpose(const PolarTransposeArgs& args, Store store) {
  // An odd pitch: rows and columns both lie in different banks.
  SHARED_ARRAY(float, tile, POLAR_TRANSPOSE_TILE * (POLAR_TRANSPOSE_TILE + 1));
  const int first_column = blockIdx.x * POLAR_TRANSPOSE_TILE, first_row = blockIdx.y * POLAR_TRANSPOSE_TILE;
  for (int i = threadIdx.x; i < POLAR_TRANSPOSE_TILE * POLAR_TRANSPOSE_TILE; i += POLAR_TRANSPOSE_THREADS) {
    const int row = i / POLAR_TRANSPOSE_TILE, column = i % POLAR_TRANSPOSE_TILE;
    if (first_row + row < args.rows && first_column + column < args.columns) {
      tile[row * (POLAR_TRANSPOSE_TILE + 1) + column] =
          float_row(args.x, first_row + row, args.x_stride)[first_column + column];
    }
  }
  block_sync();
  for (int i = threadIdx.x; i < POLAR_TRANSPOSE_TILE * POLAR_TRANSPOSE_TILE; i += POLAR_TRANSPOSE_THREADS) {
    const int column = i / POLAR_TRANSPOSE_TILE, row = i % POLAR_TRANSPOSE_TILE;
    if (first_row + row < args.rows && first_column + column < args.columns) {
      store(first_column + column, first_row + row, tile[row * (POLAR_TRANSPOSE_TILE + 1) + column]);
    }
  }
}

KERNEL(POLAR_TRANSPOSE_THREADS) polar_transpose(ARGS(PolarTransposeArgs) args) {
  transpose(args, [&](int column, int row, float value) { float_row(args.out, column, args.out_stride)[row] = value; });
}

KERNEL(POLAR_TRANSPOSE_THREADS) polar_transpose_elements(ARGS(PolarTransposeArgs) args) {
  transpose(args, [&](int column, int row, float value) {
    ((u16*)args.out)[(u64)column * args.out_stride + row] = (u16)pack_elements(value, 0.f);
  });
}

// ---- Losses and updates -------------------------------------------------------------------------------------------------

KERNEL(POLAR_FLAT_THREADS) polar_cross_entropy_slopes(ARGS(PolarSlopesArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= args.columns) return;
  float* x = float_row(args.x, blockIdx.y, args.x_stride) + column;
  float slope = 0;
  if (column < args.units) {
    const bool label = has_label(args.labels, listed_row(args.rows, blockIdx.y), args.labels_stride, column);
    slope = weighted_slope(1.f / (1.f + expf(-*x)), label, args.negative_weight);
  }
  *x = slope;
}

KERNEL(POLAR_FLAT_THREADS) polar_squared_error_slopes(ARGS(PolarSlopesArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= args.columns) return;
  float* x = float_row(args.x, blockIdx.y, args.x_stride) + column;
  float slope = 0;
  if (column < args.units) {
    slope = *x - float_row(args.targets, listed_row(args.rows, blockIdx.y), args.targets_stride)[column];
  }
  *x = slope;
}

KERNEL(POLAR_FLAT_THREADS) polar_add_bias(ARGS(PolarPairArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= args.columns) return;
  float* x = float_row(args.x, blockIdx.y, args.x_stride) + column;
  const float value = *x + ((const float*)args.other)[column];
  *x = args.rectify ? fmaxf(value, 0.f) : value;
}

KERNEL(POLAR_FLAT_THREADS) polar_mask_inactive(ARGS(PolarPairArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= args.columns) return;
  if (!(float_row(args.other, blockIdx.y, args.other_stride)[column] > 0)) {
    float_row(args.x, blockIdx.y, args.x_stride)[column] = 0;
  }
}

KERNEL(POLAR_FLAT_THREADS) polar_adamw(ARGS(PolarAdamWArgs) args) {
  const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= args.count) return;
  const float gradient = ((const float*)args.gradient)[i] * args.gradient_scale;
  const float mean = args.beta1 * ((float*)args.mean)[i] + (1.f - args.beta1) * gradient;
  const float square = args.beta2 * ((float*)args.square)[i] + (1.f - args.beta2) * gradient * gradient;
  ((float*)args.mean)[i] = mean;
  ((float*)args.square)[i] = square;
  float* parameter = (float*)args.parameters + i;
  *parameter = *parameter * args.decay - args.scale * mean / (sqrtf(square * args.correction) + args.epsilon);
}

// ---- Ridge regression ---------------------------------------------------------------------------------------------------

KERNEL(POLAR_FLAT_THREADS) polar_ridge_begin(ARGS(PolarRidgeArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (column >= args.n) return;
  double value;
  if (row < args.n) {
    value = (double)float_row(args.gram, row, args.gram_stride)[column] + (row == column ? args.penalty : 0.0);
  } else {
    value = (double)float_row(args.cross, column, args.cross_stride)[row - args.n];
  }
  ridge_row(args, row)[column] = value;
}

KERNEL(POLAR_RIDGE_THREADS) polar_ridge_factor(ARGS(PolarRidgeArgs) args) { ridge_factor(args); }
KERNEL(POLAR_RIDGE_ROWS) polar_ridge_panel(ARGS(PolarRidgeArgs) args) { ridge_panel(args); }
KERNEL(POLAR_RIDGE_THREADS) polar_ridge_update(ARGS(PolarRidgeArgs) args) { ridge_update(args); }
KERNEL(POLAR_RIDGE_THREADS) polar_ridge_finish(ARGS(PolarRidgeArgs) args) { ridge_finish(args); }
