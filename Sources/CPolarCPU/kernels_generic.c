// Kernels in plain C on 128-bit vectors, for any processor.
#include "kernels.h"

#define FN(name) name##_generic
#define VW 4
#define PAGES_1 1
#define PAGES_2 1
#define PAGES_3 1
#define PAGES_4 1
#define VALUES_1 8
#define VALUES_2 4
#define VALUES_3 4
#define VALUES_4 2

#include "vec.h"
#include "linear_impl.h"
#include "selective_impl.h"
#include "attention_impl.h"
#include "ops_impl.h"
#include "matmul_impl.h"

const polar_kernels polar_kernels_generic = {
  .linear = linear_generic,
  .ints = &polar_int_kernels_generic,
  .queries = attention_queries_generic,
  .attention = attention_generic,
  .fold = fold_generic,
  .finish = finish_generic,
  .selective_up = selective_up_generic,
  .selective_down = selective_down_generic,
  .rms_norm = rms_norm_generic,
  .add_rms_norm = add_rms_norm_generic,
  .head_rms_norm = head_rms_norm_generic,
  .layer_norm = layer_norm_generic,
  .silu_mul = silu_mul_generic,
  .relu_mul = relu_mul_generic,
  .relu = relu_generic,
  .add = add_generic,
  .rotary = rotary_generic,
  .store_kv = store_kv_generic,
  .argmax = argmax_generic,
  .head_norms = head_norms_generic,
  .head_deviations = head_deviations_generic,
  .matmul = matmul_generic,
  .read = read_generic,
  .fma = fma_generic,
};
