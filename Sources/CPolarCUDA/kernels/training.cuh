// What the kernels of training read and how they round: the small functions that all of them share.
#ifndef POLAR_TRAINING_CUH
#define POLAR_TRAINING_CUH

#include "polar_cuda_kernels.h"
#include "prims.cuh"

DEVI float* float_row(PolarAddress address, u64 row, int stride) { return (float*)address + row * stride; }

/// Entry `i` of a list of rows; row `i` itself without a list.
DEVI int listed_row(PolarAddress rows, int i) { return rows ? ((const int*)rows)[i] : i; }

DEVI float bf16_value(u16 bits) { return bits_float((u32)bits << 16); }

/// The nearest bf16, ties to even; NaN stays NaN. Samples are bf16 whatever elements are.
DEVI u16 bf16_bits(float x) {
  const u32 bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
  return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// Bit `column` of a row of packed labels.
DEVI bool has_label(PolarAddress labels, int row, int stride, int column) {
  return ((const u8*)labels)[(u64)row * stride + (column >> 3)] >> (column & 7) & 1;
}

/// The derivative of the weighted cross-entropy by a score of this probability.
DEVI float weighted_slope(float probability, bool label, float negative_weight) {
  return label ? probability - 1.f : probability * negative_weight;
}

/// Columns of a step of the factorisation: the last one may have fewer.
DEVI int ridge_width(const PolarRidgeArgs& args) {
  return args.n - args.first < POLAR_RIDGE_BLOCK ? args.n - args.first : POLAR_RIDGE_BLOCK;
}

#endif
