// Kernels for AVX-512 with BF16.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx512
#define VW 16
#define PAGES_1 4
#define PAGES_2 2
#define PAGES_3 2
#define PAGES_4 1
#define VALUES_1 4
#define VALUES_2 4
#define VALUES_3 4
#define VALUES_4 2

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma"))), apply_to = function)
#include "vec.h"
#include "linear_impl.h"
#include "attention_impl.h"
#include "ops_impl.h"
#pragma clang attribute pop

const polar_kernels polar_kernels_avx512 = {
  .linear = linear_avx512,
  .attention = attention_avx512,
  .rms_norm = rms_norm_avx512,
  .add_rms_norm = add_rms_norm_avx512,
  .layer_norm = layer_norm_avx512,
  .silu_mul = silu_mul_avx512,
  .relu = relu_avx512,
  .add = add_avx512,
  .rotary = rotary_avx512,
  .head_norms = head_norms_avx512,
  .head_deviations = head_deviations_avx512,
  .read = read_avx512,
  .fma = fma_avx512,
};
#endif
