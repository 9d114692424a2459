// Internal: halves, and where things lie in a packed group of 32 inputs of a panel.
#ifndef POLAR_QUANT_H
#define POLAR_QUANT_H

#include <string.h>
#include "kernels.h"

// The float of a half's bits; infinities and NaNs come out as large numbers.
static inline float polar_half(uint16_t bits) {
  // The exponent is moved by a multiplication with 2^112, which also normalises subnormal halves.
  union { uint32_t u; float f; } value = {(uint32_t)(bits & 0x7fffu) << 13}, shift = {0x77800000u};
  value.f *= shift.f;
  value.u |= (uint32_t)(bits & 0x8000u) << 16;
  return value.f;
}

// The nearest half, ties to even; what is too large becomes the largest finite half.
static inline uint16_t polar_to_half(float value) {
  union { float f; uint32_t u; } bits = {value}, shift = {0};
  const uint16_t sign = (uint16_t)((bits.u >> 16) & 0x8000u);
  bits.u &= 0x7fffffffu;
  if (bits.u >= 0x477ff000u) return (uint16_t)(sign | 0x7bffu);
  if (bits.u < 0x38800000u) {
    // Subnormal: adding 2^-1 leaves the multiple of 2^-24 in the low bits.
    shift.u = 0x3f000000u;
    bits.f += shift.f;
    return (uint16_t)(sign | (uint16_t)(bits.u - shift.u));
  }
  bits.u += 0xc8000fffu + ((bits.u >> 13) & 1u);
  return (uint16_t)(sign | (uint16_t)(bits.u >> 13));
}

// Bytes of scales (and minimums) before the codes of a group.
static inline int64_t polar_group_head(int format) {
  return format == POLAR_WEIGHT_INT4_AFFINE ? 4 * POLAR_PANEL : 2 * POLAR_PANEL;
}

// Bytes of codes of one output in a group.
static inline int64_t polar_code_bytes(int format) {
  return format == POLAR_WEIGHT_INT8 ? POLAR_GROUP : POLAR_GROUP / 2;
}

static inline int64_t polar_group_bytes(int format) {
  return polar_group_head(format) + polar_code_bytes(format) * POLAR_PANEL;
}

static inline int64_t polar_groups(int64_t inputs) { return (inputs + POLAR_GROUP - 1) / POLAR_GROUP; }

static inline int64_t polar_panels(int64_t outputs) { return (outputs + POLAR_PANEL - 1) / POLAR_PANEL; }

#endif
