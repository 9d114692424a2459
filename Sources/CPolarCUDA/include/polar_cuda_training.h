// Kernels of calibration: recording and the training of routers. Included by polar_cuda_kernels.h, which has the conventions.
//
// Tensors are f32 unless said otherwise; recorded samples are bf16 whatever the element type is. They do what
// PolarCore.TrainingOps says of the op of the same name. Lists of rows are i32, in the order in which rows are taken.
#ifndef POLAR_CUDA_TRAINING_H
#define POLAR_CUDA_TRAINING_H

enum {
  /// Rows and columns of the block that polar_transpose turns, and its threads.
  POLAR_TRANSPOSE_TILE = 32,
  POLAR_TRANSPOSE_THREADS = 256,
  /// Columns that one step of a Cholesky factorisation completes.
  POLAR_RIDGE_BLOCK = 32,
  /// Rows that a block of polar_ridge_panel solves: one a thread.
  POLAR_RIDGE_ROWS = 32,
  /// Rows and columns of a tile of polar_ridge_update.
  POLAR_RIDGE_TILE = 64,
  /// Threads of polar_ridge_factor, polar_ridge_update and polar_ridge_finish.
  POLAR_RIDGE_THREADS = 256,
};

/// polar_turns: out[i] = 1 - cos(x[i, :], x[i, :] + delta[i, :]), 0 where either is zero.
/// grid rows, block POLAR_ROW_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< [rows]
  PolarAddress x, delta;    ///< [rows, columns]
  int columns, x_stride, delta_stride, reserved;
} PolarTurnsArgs;
POLAR_CHECK_SIZE(PolarTurnsArgs, 40);

/// polar_sum_rows: out[j] = sum of x[rows[i], j] for i in order.
/// grid ceil(columns / POLAR_FLAT_THREADS), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< [columns]
  PolarAddress x;           ///< [*, columns]
  PolarAddress rows;        ///< [count]; 0: rows 0 ..< count
  int count, columns, x_stride, reserved;
} PolarSumRowsArgs;
POLAR_CHECK_SIZE(PolarSumRowsArgs, 40);

/// polar_store_rows: out[i, :] = x[rows[i], :] as bf16.
/// grid rows, block POLAR_ROW_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< bf16 [count, columns]
  PolarAddress x;           ///< [*, columns]
  PolarAddress rows;        ///< [count]
  int columns, out_stride, x_stride, reserved;
} PolarStoreRowsArgs;
POLAR_CHECK_SIZE(PolarStoreRowsArgs, 40);

/// polar_pack_active: bit j % 32 of word out[i, j / 32] is x[rows[i], j] != 0; bits past the last column are 0.
/// grid (ceil(words * 32 / POLAR_FLAT_THREADS), count), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< u32 [count, words]
  PolarAddress x;           ///< [*, columns]
  PolarAddress rows;        ///< [count]
  int columns, words;
  int out_stride;           ///< in words
  int x_stride;
} PolarPackActiveArgs;
POLAR_CHECK_SIZE(PolarPackActiveArgs, 40);

/// polar_moments: mean and reciprocal standard deviation of each column over rows 0, step, 2 step, ..., or 1 where the variance
/// is at most 1e-10.
/// grid ceil(columns / POLAR_FLAT_THREADS), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress mean, scale; ///< [columns]
  PolarAddress samples;     ///< bf16 [rows, columns]
  int rows, columns, samples_stride, step;
} PolarMomentsArgs;
POLAR_CHECK_SIZE(PolarMomentsArgs, 40);

/// polar_gather_scaled: out[i, j] = (samples[rows[i], j] - mean[j]) * scale[j].
/// grid count, block POLAR_ROW_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< [count, columns]
  PolarAddress samples;     ///< bf16 [*, columns]
  PolarAddress rows;        ///< [count]
  PolarAddress mean, scale; ///< [columns]
  int columns, out_stride, samples_stride, reserved;
} PolarGatherScaledArgs;
POLAR_CHECK_SIZE(PolarGatherScaledArgs, 56);

/// polar_transpose: out[j, i] = x[i, j]. polar_transpose_elements: the same, out as elements (the weight of a product).
/// grid (ceil(columns / POLAR_TRANSPOSE_TILE), ceil(rows / POLAR_TRANSPOSE_TILE)), block POLAR_TRANSPOSE_THREADS, shared 0.
typedef struct {
  PolarAddress out;         ///< [columns, rows]
  PolarAddress x;           ///< [rows, columns]
  int rows, columns, out_stride, x_stride;
} PolarTransposeArgs;
POLAR_CHECK_SIZE(PolarTransposeArgs, 32);

/// polar_cross_entropy_slopes, in place: x[i, j] becomes (sigmoid(x) - label) * weight, label being bit j of labels
/// [rows[i]], and weight 1 for label 1, else negative_weight; 0 from column `units` on.
/// polar_squared_error_slopes: x - targets[rows[i], j]; 0 from column `units` on.
/// grid (ceil(columns / POLAR_FLAT_THREADS), count), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress x;           ///< [count, columns]
  PolarAddress labels;      ///< u8 [*, labels_stride]
  PolarAddress targets;     ///< [*, units]
  PolarAddress rows;        ///< [count]
  int columns, units, x_stride;
  int labels_stride, targets_stride;
  float negative_weight;
} PolarSlopesArgs;
POLAR_CHECK_SIZE(PolarSlopesArgs, 56);

/// polar_add_bias: x[i, j] += other[j], then max(0, _) with `rectify`. polar_mask_inactive: x[i, j] = 0 where other[i, j] is not
/// above 0.
/// grid (ceil(columns / POLAR_FLAT_THREADS), rows), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress x;           ///< [rows, columns]
  PolarAddress other;       ///< polar_add_bias: [columns]; polar_mask_inactive: [rows, columns]
  int columns, x_stride, other_stride;
  int rectify;
} PolarPairArgs;
POLAR_CHECK_SIZE(PolarPairArgs, 32);

/// polar_adamw: PolarCore.AdamWUpdate of `count` parameters.
/// grid ceil(count / POLAR_FLAT_THREADS), block POLAR_FLAT_THREADS, shared 0.
typedef struct {
  PolarAddress parameters, gradient, mean, square; ///< [count]
  PolarAddress count;
  float beta1, beta2, epsilon, gradient_scale, scale, correction, decay;
  int reserved;
} PolarAdamWArgs;
POLAR_CHECK_SIZE(PolarAdamWArgs, 72);

/// Ridge regression: the Cholesky factorisation of gram + penalty I in double precision, with the right-hand sides as further
/// rows below it, so that factorising solves half of the equations on the way.
///
/// polar_ridge_begin fills `matrix`: grid (ceil(n / POLAR_FLAT_THREADS), n + units), block POLAR_FLAT_THREADS.
/// Then for first = 0, POLAR_RIDGE_BLOCK, ... below n:
/// polar_ridge_factor completes the block on the diagonal: grid 1, block POLAR_RIDGE_THREADS;
/// polar_ridge_panel the rows below it: grid ceil((n + units - first) / POLAR_RIDGE_ROWS), block POLAR_RIDGE_ROWS;
/// polar_ridge_update takes them off the rest: grid (tiles, tiles + ceil(units / POLAR_RIDGE_TILE)) with
/// tiles = ceil((n - first) / POLAR_RIDGE_TILE), block POLAR_RIDGE_THREADS.
/// polar_ridge_finish substitutes back: grid units, block POLAR_RIDGE_THREADS. Shared 0 in all.
typedef struct {
  PolarAddress matrix;      ///< f64 [n + units, n]: lower triangle, then right-hand sides
  PolarAddress gram;        ///< [n, n]
  PolarAddress cross;       ///< [n, units]
  PolarAddress out;         ///< [n, units]
  double penalty;
  int n, units;
  int gram_stride, cross_stride, out_stride;
  int first;                ///< first column of the step
} PolarRidgeArgs;
POLAR_CHECK_SIZE(PolarRidgeArgs, 64);

#define POLAR_CUDA_TRAINING_KERNELS(X)                                 \
  X(training, polar_turns, PolarTurnsArgs)                             \
  X(training, polar_sum_rows, PolarSumRowsArgs)                        \
  X(training, polar_store_rows, PolarStoreRowsArgs)                    \
  X(training, polar_pack_active, PolarPackActiveArgs)                  \
  X(training, polar_moments, PolarMomentsArgs)                         \
  X(training, polar_gather_scaled, PolarGatherScaledArgs)              \
  X(training, polar_transpose, PolarTransposeArgs)                     \
  X(training, polar_transpose_elements, PolarTransposeArgs)            \
  X(training, polar_cross_entropy_slopes, PolarSlopesArgs)             \
  X(training, polar_squared_error_slopes, PolarSlopesArgs)             \
  X(training, polar_add_bias, PolarPairArgs)                           \
  X(training, polar_mask_inactive, PolarPairArgs)                      \
  X(training, polar_adamw, PolarAdamWArgs)                             \
  X(training, polar_ridge_begin, PolarRidgeArgs)                       \
  X(training, polar_ridge_factor, PolarRidgeArgs)                      \
  X(training, polar_ridge_panel, PolarRidgeArgs)                       \
  X(training, polar_ridge_update, PolarRidgeArgs)                      \
  X(training, polar_ridge_finish, PolarRidgeArgs)

#endif
