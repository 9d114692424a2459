// Linear layers on weights of 8 and 4 bits in plain C on 128-bit vectors.
#include "quant.h"

#define FN(name) name##_generic
#define VW 4
#define INT_ROWS 2

#include "vec.h"

// acc + the products of four unsigned bytes of w and signed bytes of x in each lane.
POLAR_ALWAYS_INLINE vi FN(dot4)(vi acc, vu w, vu x) {
  acc += (vi)(w & 255) * ((vi)(x << 24) >> 24);
  acc += (vi)(w >> 8 & 255) * ((vi)(x << 16) >> 24);
  acc += (vi)(w >> 16 & 255) * ((vi)(x << 8) >> 24);
  return acc + (vi)(w >> 24) * ((vi)x >> 24);
}
#include "linear_int_impl.h"
