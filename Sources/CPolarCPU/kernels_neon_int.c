// Linear layers on weights of 8 and 4 bits for NEON with I8MM.
#if defined(__aarch64__)
#include <arm_neon.h>
#include "quant.h"

#define FN(name) name##_neon
#define VW 4
#define INT_ROWS 8

#pragma clang attribute push(__attribute__((target("i8mm"))), apply_to = function)
#include "vec.h"

// acc + the products of four unsigned bytes of w and signed bytes of x in each lane.
POLAR_ALWAYS_INLINE vi FN(dot4)(vi acc, vu w, vu x) {
  return (vi)vusdotq_s32((int32x4_t)acc, (uint8x16_t)w, (int8x16_t)x);
}
#include "linear_int_impl.h"
#pragma clang attribute pop
#endif
