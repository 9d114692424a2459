// Kernels for AVX2, FMA and F16C: 256-bit vectors, bf16 pairs split into two f32 vectors by a shift and a mask.
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels.h"

#define FN(name) name##_avx2
#define VW 8
#define PAGES_1 4
#define PAGES_2 2
#define PAGES_3 2
#define PAGES_4 1
#define VALUES_1 8
#define VALUES_2 4
#define VALUES_3 4
#define VALUES_4 2

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#include "vec.h"
#include "linear_impl.h"
#include "selective_impl.h"
#include "attention_impl.h"
#include "ops_impl.h"
#include "matmul_impl.h"
#pragma clang attribute pop

#define TABLE(integers) { \
  .linear = linear_avx2, \
  .ints = &integers, \
  .queries = attention_queries_avx2, \
  .attention = attention_avx2, \
  .fold = fold_avx2, \
  .finish = finish_avx2, \
  .selective_up = selective_up_avx2, \
  .selective_down = selective_down_avx2, \
  .rms_norm = rms_norm_avx2, \
  .add_rms_norm = add_rms_norm_avx2, \
  .head_rms_norm = head_rms_norm_avx2, \
  .layer_norm = layer_norm_avx2, \
  .silu_mul = silu_mul_avx2, \
  .relu_mul = relu_mul_avx2, \
  .relu = relu_avx2, \
  .add = add_avx2, \
  .rotary = rotary_avx2, \
  .store_kv = store_kv_avx2, \
  .argmax = argmax_avx2, \
  .head_norms = head_norms_avx2, \
  .head_deviations = head_deviations_avx2, \
  .matmul = matmul_avx2, \
  .read = read_avx2, \
  .fma = fma_avx2, \
}

// Processors with AVX-VNNI differ in the layers on weights of 8 and 4 bits.
const polar_kernels polar_kernels_avx2 = TABLE(polar_int_kernels_avx2);
const polar_kernels polar_kernels_avxvnni = TABLE(polar_int_kernels_avxvnni);
#endif
