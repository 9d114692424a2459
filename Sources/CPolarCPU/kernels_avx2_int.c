// Linear layers on weights of 8 and 4 bits for AVX2.
#if defined(__x86_64__)
#include <immintrin.h>
#include "quant.h"

#define FN(name) name##_avx2
#define VW 8
#define INT_ROWS 2

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#include "vec.h"

// acc + the products of four unsigned bytes of w and signed bytes of x in each lane. The even and the odd bytes are
// widened and multiplied by themselves: vpmaddubsw would saturate.
POLAR_ALWAYS_INLINE vi FN(dot4)(vi acc, vu w, vu x) {
  const __m256i even = _mm256_madd_epi16((__m256i)(w & 0x00ff00ff), _mm256_srai_epi16((__m256i)(x << 8), 8));
  const __m256i odd = _mm256_madd_epi16((__m256i)(w >> 8 & 0x00ff00ff), _mm256_srai_epi16((__m256i)x, 8));
  return acc + (vi)even + (vi)odd;
}
#include "linear_int_impl.h"
#pragma clang attribute pop
#endif
