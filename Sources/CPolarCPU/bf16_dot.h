// Internal, for the AVX-512 files: the two BF16 instructions on the vectors of vec.h (VW is 16).

// acc + first products + second products of the bf16 pairs of a and b.
POLAR_ALWAYS_INLINE vf FN(pair_dot)(vf acc, vu a, vu b) {
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}

// Sixteen floats as bf16, rounded to nearest even.
POLAR_ALWAYS_INLINE void FN(store_bf16)(uint16_t *out, vf x) {
  _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh((__m512)x));
}

// The same pair in every lane.
POLAR_ALWAYS_INLINE vu FN(splat_pair)(const uint16_t *pair) {
  uint32_t bits;
  __builtin_memcpy(&bits, pair, sizeof bits);
  return bits - (vu){0};
}

// `count` floats as bf16.
POLAR_ALWAYS_INLINE void FN(convert)(uint16_t *out, const float *x, int64_t count) {
  int64_t i = 0;
  for (; i + VW <= count; i += VW) FN(store_bf16)(out + i, FN(load)(x + i));
  for (; i < count; i++) out[i] = polar_bf16(x[i]);
}
