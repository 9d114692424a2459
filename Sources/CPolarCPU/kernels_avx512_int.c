// Linear layers on weights of 8 and 4 bits for AVX-512 with VNNI.
#if defined(__x86_64__)
#include <immintrin.h>
#include "quant.h"

#define FN(name) name##_avx512
#define VW 16
#define INT_ROWS 8

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#include "vec.h"

// acc + the products of four unsigned bytes of w and signed bytes of x in each lane.
POLAR_ALWAYS_INLINE vi FN(dot4)(vi acc, vu w, vu x) {
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
}
#include "linear_int_impl.h"
#pragma clang attribute pop
#endif
