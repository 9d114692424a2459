// Included before everything else when the AVX-512 kernels are checked on a processor without AVX-512. The kernels use
// the compiler's vector types, which it splits for a smaller instruction set, and the BF16 and VNNI instructions that follow.
#define __builtin_cpu_supports(feature) 1
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t emulated_bh512 __attribute__((vector_size(64)));
typedef uint16_t emulated_bh256 __attribute__((vector_size(32), aligned(2)));
typedef float emulated_ps512 __attribute__((vector_size(64)));
#define __m512bh emulated_bh512
#define __m512 emulated_ps512
#define _mm256_storeu_si256(to, bits) \
  do {                                \
    emulated_bh256 v_ = (emulated_bh256)(bits); \
    memcpy((to), &v_, sizeof v_);     \
  } while (0)
#define __m256i emulated_bh256 // only as a cast before a store

static inline float emulated_f32(uint16_t x) {
  union { uint32_t u; float f; } b = {(uint32_t)x << 16};
  return b.f;
}

// The instruction adds the second product and then the first, each with one rounding; denormals count as zero.
static inline emulated_ps512 emulated_dpbf16(emulated_ps512 acc, emulated_bh512 a, emulated_bh512 b) {
  for (int i = 0; i < 16; i++) {
    acc[i] = fmaf(emulated_f32(a[2 * i + 1]), emulated_f32(b[2 * i + 1]), acc[i]);
    acc[i] = fmaf(emulated_f32(a[2 * i]), emulated_f32(b[2 * i]), acc[i]);
  }
  return acc;
}
#define _mm512_dpbf16_ps emulated_dpbf16

static inline emulated_bh256 emulated_cvtneps(emulated_ps512 x) {
  emulated_bh256 out;
  for (int i = 0; i < 16; i++) {
    union { float f; uint32_t u; } b = {x[i]};
    out[i] = (b.u & 0x7fffffffu) > 0x7f800000u ? (uint16_t)((b.u >> 16) | 0x40)
                                               : (uint16_t)((b.u + 0x7fffu + ((b.u >> 16) & 1)) >> 16);
  }
  return out;
}
#define _mm512_cvtneps_pbh emulated_cvtneps

typedef int32_t emulated_si512 __attribute__((vector_size(64)));
#define __m512i emulated_si512
static inline emulated_si512 emulated_dpbusd(emulated_si512 acc, emulated_si512 w, emulated_si512 x) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 32; j += 8) acc[i] += (w[i] >> j & 255) * (int8_t)(x[i] >> j & 255);
  return acc;
}
#define _mm512_dpbusd_epi32 emulated_dpbusd
