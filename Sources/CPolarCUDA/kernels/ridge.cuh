// Cholesky factorisation in double precision, in columns of POLAR_RIDGE_BLOCK, and the substitution that ends a regression.
#ifndef POLAR_RIDGE_CUH
#define POLAR_RIDGE_CUH

#include "training.cuh"

/// Elements from row to row of a block in shared memory: odd, so that a column lies in different banks.
#define POLAR_RIDGE_PITCH (POLAR_RIDGE_BLOCK + 1)

DEVI double* ridge_row(const PolarRidgeArgs& args, int row) { return (double*)args.matrix + (u64)row * args.n; }

/// Copies the step's block on the diagonal to shared memory; what is beyond the matrix stays as it is.
DEVI void load_diagonal(double* block, const PolarRidgeArgs& args, int width, int threads) {
  for (int i = threadIdx.x; i < width * width; i += threads) {
    block[i / width * POLAR_RIDGE_PITCH + i % width] = ridge_row(args, args.first + i / width)[args.first + i % width];
  }
}

DEVI void ridge_factor(const PolarRidgeArgs& args) {
  SHARED_ARRAY(double, block, POLAR_RIDGE_BLOCK * POLAR_RIDGE_PITCH);
  const int width = ridge_width(args);
  load_diagonal(block, args, width, POLAR_RIDGE_THREADS);
  block_sync();
  for (int j = 0; j < width; j++) {
    const double* row = block + j * POLAR_RIDGE_PITCH;
    // Rounding may push a pivot of nearly nothing below zero.
    const double root = sqrt(fmax(row[j], 1e-12));
    block_sync();
    for (int i = j + threadIdx.x; i < width; i += POLAR_RIDGE_THREADS) {
      double* element = block + i * POLAR_RIDGE_PITCH + j;
      *element = i == j ? root : *element / root;
    }
    block_sync();
    const int rest = width - j - 1;
    for (int k = threadIdx.x; k < rest * rest; k += POLAR_RIDGE_THREADS) {
      const int i = j + 1 + k / rest, c = j + 1 + k % rest;
      if (c <= i) block[i * POLAR_RIDGE_PITCH + c] -= block[i * POLAR_RIDGE_PITCH + j] * block[c * POLAR_RIDGE_PITCH + j];
    }
    block_sync();
  }
  for (int i = threadIdx.x; i < width * width; i += POLAR_RIDGE_THREADS) {
    if (i % width <= i / width) {
      ridge_row(args, args.first + i / width)[args.first + i % width] = block[i / width * POLAR_RIDGE_PITCH + i % width];
    }
  }
}

DEVI void ridge_panel(const PolarRidgeArgs& args) {
  SHARED_ARRAY(double, block, POLAR_RIDGE_BLOCK * POLAR_RIDGE_PITCH);
  SHARED_ARRAY(double, solved, POLAR_RIDGE_ROWS * POLAR_RIDGE_PITCH);
  const int width = ridge_width(args), end = args.n + args.units;
  const int first_row = args.first + width + blockIdx.x * POLAR_RIDGE_ROWS;
  const int rows = end - first_row < POLAR_RIDGE_ROWS ? end - first_row : POLAR_RIDGE_ROWS;
  if (rows <= 0) return;
  load_diagonal(block, args, width, POLAR_RIDGE_ROWS);
  for (int i = threadIdx.x; i < rows * width; i += POLAR_RIDGE_ROWS) {
    solved[i / width * POLAR_RIDGE_PITCH + i % width] = ridge_row(args, first_row + i / width)[args.first + i % width];
  }
  block_sync();
  if (threadIdx.x < rows) {
    double* x = solved + threadIdx.x * POLAR_RIDGE_PITCH;
    for (int j = 0; j < width; j++) {
      double value = x[j];
      for (int p = 0; p < j; p++) value -= x[p] * block[j * POLAR_RIDGE_PITCH + p];
      x[j] = value / block[j * POLAR_RIDGE_PITCH + j];
    }
  }
  block_sync();
  for (int i = threadIdx.x; i < rows * width; i += POLAR_RIDGE_ROWS) {
    ridge_row(args, first_row + i / width)[args.first + i % width] = solved[i / width * POLAR_RIDGE_PITCH + i % width];
  }
}

/// Copies the step's columns of POLAR_RIDGE_TILE rows to shared memory, one column after the other; zeros beyond.
DEVI void load_panel(double* tile, const PolarRidgeArgs& args, int first_row, int end, int width) {
  for (int i = threadIdx.x; i < POLAR_RIDGE_TILE * POLAR_RIDGE_BLOCK; i += POLAR_RIDGE_THREADS) {
    const int row = i / POLAR_RIDGE_BLOCK, column = i % POLAR_RIDGE_BLOCK;
    const bool inside = first_row + row < end && column < width;
    tile[column * (POLAR_RIDGE_TILE + 1) + row] = inside ? ridge_row(args, first_row + row)[args.first + column] : 0.0;
  }
}

DEVI void ridge_update(const PolarRidgeArgs& args) {
  SHARED_ARRAY(double, left, POLAR_RIDGE_BLOCK * (POLAR_RIDGE_TILE + 1));
  SHARED_ARRAY(double, right, POLAR_RIDGE_BLOCK * (POLAR_RIDGE_TILE + 1));
  const int width = ridge_width(args), start = args.first + width, end = args.n + args.units;
  const int first_row = start + blockIdx.y * POLAR_RIDGE_TILE, first_column = start + blockIdx.x * POLAR_RIDGE_TILE;
  // Above the diagonal, or outside.
  if (blockIdx.x > blockIdx.y || first_row >= end || first_column >= args.n) return;
  load_panel(left, args, first_row, end, width);
  load_panel(right, args, first_column, args.n, width);
  block_sync();
  // A thread has 4 x 4 elements, 16 apart.
  const int i0 = threadIdx.x / 16, j0 = threadIdx.x % 16;
  double sum[4][4] = {};
  for (int p = 0; p < width; p++) {
    double a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      a[i] = left[p * (POLAR_RIDGE_TILE + 1) + i0 + 16 * i];
      b[i] = right[p * (POLAR_RIDGE_TILE + 1) + j0 + 16 * i];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) sum[i][j] += a[i] * b[j];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int row = first_row + i0 + 16 * i, column = first_column + j0 + 16 * j;
      if (row < end && column < args.n && column <= row) ridge_row(args, row)[column] -= sum[i][j];
    }
  }
}

/// Back substitution of one right-hand side: its row of the matrix holds the solution of the first half.
DEVI void ridge_finish(const PolarRidgeArgs& args) {
  double* y = ridge_row(args, args.n + blockIdx.x);
  for (int i = args.n - 1; i >= 0; i--) {
    const double* row = ridge_row(args, i);
    const double x = y[i] / row[i];
    if (threadIdx.x == 0) ((float*)args.out)[(u64)i * args.out_stride + blockIdx.x] = (float)x;
    for (int j = threadIdx.x; j < i; j += POLAR_RIDGE_THREADS) y[j] -= row[j] * x;
    block_sync();
  }
}

#endif
