// Internal, included once per instruction set: vectors of VW floats. The including file defines VW (the vector
// width) and FN (a name with the instruction set's suffix) and has set the target attributes.
// A product and a sum in one expression become one fused multiply-add where the instruction set has it.
#pragma STDC FP_CONTRACT ON

typedef float FN(vf) __attribute__((vector_size(VW * 4)));
typedef uint32_t FN(vu) __attribute__((vector_size(VW * 4)));
typedef int32_t FN(vi) __attribute__((vector_size(VW * 4)));
typedef float FN(vf_any) __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef uint32_t FN(vu_any) __attribute__((vector_size(VW * 4), aligned(4), may_alias));
#define vf FN(vf)
#define vu FN(vu)
#define vi FN(vi)

POLAR_ALWAYS_INLINE vf FN(load)(const float *p) { return *(const FN(vf_any) *)p; }
POLAR_ALWAYS_INLINE void FN(store)(float *p, vf v) { *(FN(vf_any) *)p = v; }
POLAR_ALWAYS_INLINE vu FN(load_pairs)(const uint16_t *p) { return *(const FN(vu_any) *)p; }
POLAR_ALWAYS_INLINE vf FN(splat)(float x) { return x - (vf){0}; }
// The first and the second member of each bf16 pair, as f32.
POLAR_ALWAYS_INLINE vf FN(even)(vu w) { return (vf)(w << 16); }
POLAR_ALWAYS_INLINE vf FN(odd)(vu w) { return (vf)(w & 0xffff0000u); }
POLAR_ALWAYS_INLINE vf FN(select)(vi mask, vf a, vf b) {
  return (vf)((mask & (vi)a) | (~mask & (vi)b));
}
// The larger; b where a is NaN.
POLAR_ALWAYS_INLINE vf FN(max)(vf a, vf b) { return FN(select)(a > b, a, b); }

POLAR_ALWAYS_INLINE float FN(sum)(vf v) {
  float total = 0;
  for (int half = VW / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) v[i] = v[i] + v[i + half];
  total = v[0];
  return total;
}

POLAR_ALWAYS_INLINE float FN(maximum)(vf v) {
  for (int half = VW / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
  return v[0];
}

// 2^x for x <= 126, relative error about 1e-7; exactly 0 below -125 and 1 at 0; NaN stays.
POLAR_ALWAYS_INLINE vf FN(exp2)(vf x) {
  vi low = x < -125.0f;
  vf c = FN(select)(low, FN(splat)(-125.0f), x);
  vf shifted = c + 12582912.0f;  // 1.5 * 2^23: the integer part lands in the low bits
  vf f = c - (shifted - 12582912.0f);
  // Least-squares fit of (2^f - 1) / f on Chebyshev nodes of [-1/2, 1/2].
  vf p = FN(splat)(1.5370705e-4f);
  p = p * f + 1.3399848e-3f;
  p = p * f + 9.6183736e-3f;
  p = p * f + 5.5503290e-2f;
  p = p * f + 2.4022648e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  vi bits = (vi)p + (vi)((vu)shifted << 23);
  return (vf)(bits & ~low);
}
