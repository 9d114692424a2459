// Kernels for arm64 processors with the I8MM extension (Armv8.6; optional from Armv8.2 on): the plain C kernels with
// tiles for NEON's 32 registers. Linear layers on weights of 8 and 4 bits are in kernels_neon_int.c.
#if defined(__aarch64__)
#include "kernels.h"

#define FN(name) name##_neon
#define VW 4
#define PAGES_1 4
#define PAGES_2 2
#define PAGES_3 2
#define PAGES_4 1
#define VALUES_1 8
#define VALUES_2 4
#define VALUES_3 4
#define VALUES_4 4

#pragma clang attribute push(__attribute__((target("i8mm"))), apply_to = function)
#include "vec.h"
#include "linear_impl.h"
#include "selective_impl.h"
#include "attention_impl.h"
#include "ops_impl.h"
#include "matmul_impl.h"
#pragma clang attribute pop

const polar_kernels polar_kernels_neon = {
  .linear = linear_neon,
  .ints = &polar_int_kernels_neon,
  .queries = attention_queries_neon,
  .attention = attention_neon,
  .fold = fold_neon,
  .finish = finish_neon,
  .selective_up = selective_up_neon,
  .selective_down = selective_down_neon,
  .rms_norm = rms_norm_neon,
  .add_rms_norm = add_rms_norm_neon,
  .head_rms_norm = head_rms_norm_neon,
  .layer_norm = layer_norm_neon,
  .silu_mul = silu_mul_neon,
  .relu_mul = relu_mul_neon,
  .relu = relu_neon,
  .add = add_neon,
  .rotary = rotary_neon,
  .store_kv = store_kv_neon,
  .argmax = argmax_neon,
  .head_norms = head_norms_neon,
  .head_deviations = head_deviations_neon,
  .matmul = matmul_neon,
  .read = read_neon,
  .fma = fma_neon,
};
#endif
