// Linear layers on weights of 8 and 4 bits for AVX-VNNI: processors that multiply bytes in 256 bits, but lack AVX-512.
#if defined(__x86_64__)
#include <immintrin.h>
#include "quant.h"

#define FN(name) name##_avxvnni
#define VW 8
#define INT_ROWS 2

#pragma clang attribute push(__attribute__((target("avxvnni,avx2,fma,f16c"))), apply_to = function)
#include "vec.h"

// acc + the products of four unsigned bytes of w and signed bytes of x in each lane.
POLAR_ALWAYS_INLINE vi FN(dot4)(vi acc, vu w, vu x) {
  return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, (__m256i)x);
}
#include "linear_int_impl.h"
#pragma clang attribute pop
#endif
