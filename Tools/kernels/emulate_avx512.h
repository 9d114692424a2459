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
#define _mm256_loadu_si256(from) (*(const emulated_bh256 *)(const void *)(from))
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

// What attention needs besides.
typedef uint16_t __mmask16;
typedef uint32_t __mmask32;
typedef uint64_t __mmask64;
typedef float emulated_ps128 __attribute__((vector_size(16)));
#define __m128 emulated_ps128
#define _MM_FROUND_TO_NEG_INF 1
#define _MM_FROUND_NO_EXC 8
enum { _CMP_UNORD_Q = 3, _CMP_LE_OQ = 18, _CMP_GT_OQ = 30 };

#define EMULATED(type, name, arguments, expression) \
  static inline type emulated_##name arguments {    \
    type out = {0};                                 \
    for (int i = 0; i < 16; i++) out[i] = expression; \
    return out;                                     \
  }
EMULATED(emulated_ps512, set1_ps, (float x), x)
EMULATED(emulated_si512, set1_epi32, (int32_t x), x)
EMULATED(emulated_ps512, reduce_ps, (emulated_ps512 x), isinf(x[i]) ? 0 : x[i] - floorf(x[i]))
EMULATED(emulated_ps512, max_ps, (emulated_ps512 a, emulated_ps512 b), a[i] > b[i] ? a[i] : b[i])
EMULATED(emulated_ps512, abs_ps, (emulated_ps512 x), fabsf(x[i]))
EMULATED(emulated_ps512, scalef_ps, (emulated_ps512 x, emulated_ps512 y),
  y[i] < -200 ? 0 : ldexpf(x[i], (int)floorf(y[i] > 200 ? 200 : y[i])))
EMULATED(emulated_ps512, mask_mov_ps, (emulated_ps512 from, __mmask16 k, emulated_ps512 x), k >> i & 1 ? x[i] : from[i])
EMULATED(emulated_ps512, maskz_loadu_ps, (__mmask16 k, const void *p), k >> i & 1 ? ((const float *)p)[i] : 0)
static inline int32_t emulated_word(const char *p) {
  int32_t word;
  memcpy(&word, p, sizeof word);
  return word;
}
EMULATED(emulated_si512, maskz_loadu_epi32, (__mmask16 k, const char *p), k >> i & 1 ? emulated_word(p + 4 * i) : 0)
EMULATED(emulated_si512, cvtps_epi32, (emulated_ps512 x), (int32_t)rintf(x[i]))
EMULATED(emulated_ps512, cvtepi32_ps, (emulated_si512 x), (float)x[i])
EMULATED(emulated_si512, slli_epi32, (emulated_si512 x, int n), (int32_t)((uint32_t)x[i] << n))
EMULATED(emulated_si512, cvtepu16_epi32, (emulated_bh256 x), x[i])
#define _mm512_set1_ps emulated_set1_ps
#define _mm512_setzero_ps() emulated_set1_ps(0)
#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_setzero_si512() emulated_set1_epi32(0)
#define _mm512_reduce_ps(x, mode) emulated_reduce_ps(x)
#define _mm512_max_ps emulated_max_ps
#define _mm512_abs_ps emulated_abs_ps
#define _mm512_mul_ps(a, b) ((a) * (b))
#define _mm512_scalef_ps emulated_scalef_ps
#define _mm512_mask_mov_ps emulated_mask_mov_ps
#define _mm512_maskz_mov_ps(k, x) emulated_mask_mov_ps(emulated_set1_ps(0), k, x)
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_maskz_loadu_epi32(k, p) emulated_maskz_loadu_epi32(k, (const char *)(p))
#define _mm512_loadu_si512(p) emulated_maskz_loadu_epi32(0xffff, (const char *)(p))
#define _mm512_load_ps(p) emulated_maskz_loadu_ps(0xffff, p)
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_slli_epi32 emulated_slli_epi32
#define _mm512_srai_epi32(x, n) ((x) >> (n))
#define _mm512_add_epi32(a, b) ((a) + (b))
#define _mm512_sub_epi32(a, b) ((a) - (b))
#define _mm512_xor_si512(a, b) ((a) ^ (b))
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_cvtss_f32(x) ((x)[0])
#define _mm_set_ss(x) ((emulated_ps128){x})
#define _mm_getexp_ss(a, b) ((emulated_ps128){logbf((b)[0])})
#define _mm_cvtss_f32(x) ((x)[0])

static inline void emulated_mask_storeu_ps(float *p, __mmask16 k, emulated_ps512 x) {
  for (int i = 0; i < 16; i++)
    if (k >> i & 1) p[i] = x[i];
}
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_store_ps(p, x) emulated_mask_storeu_ps(p, 0xffff, x)
#define _mm512_storeu_ps _mm512_store_ps
static inline void emulated_mask_store_epi8(int8_t *p, __mmask16 k, emulated_si512 x) {
  for (int i = 0; i < 16; i++)
    if (k >> i & 1) p[i] = (int8_t)x[i];
}
#define _mm512_mask_cvtepi32_storeu_epi8 emulated_mask_store_epi8
#define _mm512_store_si512(p, x)          \
  do {                                    \
    emulated_si512 v_ = (emulated_si512)(x); \
    memcpy((p), &v_, sizeof v_);          \
  } while (0)

static inline __mmask16 emulated_compare(__mmask16 lanes, emulated_ps512 a, emulated_ps512 b, int how) {
  int mask = 0;
  for (int i = 0; i < 16; i++)
    mask |= (how == _CMP_GT_OQ ? a[i] > b[i] : how == _CMP_LE_OQ ? a[i] <= b[i] : isunordered(a[i], b[i])) << i;
  return (__mmask16)(mask & lanes);
}
#define _mm512_cmp_ps_mask(a, b, how) emulated_compare(0xffff, a, b, how)
#define _mm512_mask_cmp_ps_mask emulated_compare
static inline float emulated_reduce_max(emulated_ps512 x) {
  float most = x[0];
  for (int i = 1; i < 16; i++) most = x[i] > most ? x[i] : most;
  return most;
}
#define _mm512_reduce_max_ps emulated_reduce_max
static inline int32_t emulated_reduce_add(emulated_si512 x) {
  int32_t sum = 0;
  for (int i = 0; i < 16; i++) sum += x[i];
  return sum;
}
#define _mm512_reduce_add_epi32 emulated_reduce_add
// Vectors of words and of bytes.
typedef uint16_t emulated_words __attribute__((vector_size(64)));
typedef uint8_t emulated_bytes __attribute__((vector_size(64)));
#define EMULATED_WIDE(lanes, name, arguments, expression)                     \
  static inline emulated_si512 emulated_##name arguments {                    \
    lanes out = {0};                                                          \
    for (int i = 0; i < (int)(sizeof out / sizeof out[0]); i++) out[i] = expression; \
    return (emulated_si512)out;                                               \
  }
#define WORDS(x) (((emulated_words)(x))[i])
// The lane of two vectors that are packed lane by lane into one, of `n` elements per 128 bits.
#define PACKED(a, b, n) ((i / (n)) % 2 ? (b) : (a))[i / (2 * (n)) * (n) + i % (n)]
#define SATURATED(x, most) ((x) < 0 ? 0 : (x) > (most) ? (most) : (x))
EMULATED_WIDE(emulated_words, set1_epi16, (int x), (uint16_t)x)
EMULATED_WIDE(emulated_words, srli_epi16, (emulated_si512 x, int n), (uint16_t)(WORDS(x) >> n))
EMULATED_WIDE(emulated_words, add_epi16, (emulated_si512 a, emulated_si512 b), (uint16_t)(WORDS(a) + WORDS(b)))
EMULATED_WIDE(emulated_words, packus_epi32, (emulated_si512 a, emulated_si512 b), (uint16_t)SATURATED(PACKED(a, b, 4), 65535))
EMULATED_WIDE(emulated_bytes, packus_epi16, (emulated_si512 a, emulated_si512 b),
  (uint8_t)SATURATED((int16_t)PACKED((emulated_words)a, (emulated_words)b, 8), 255))
EMULATED_WIDE(emulated_words, permutex2var_epi16, (emulated_si512 a, emulated_si512 at, emulated_si512 b),
  (WORDS(at) & 32 ? (emulated_words)b : (emulated_words)a)[WORDS(at) & 31])
EMULATED_WIDE(emulated_bytes, permutex2var_epi8, (emulated_si512 a, emulated_si512 at, emulated_si512 b),
  (((emulated_bytes)at)[i] & 64 ? (emulated_bytes)b : (emulated_bytes)a)[((emulated_bytes)at)[i] & 63])
EMULATED_WIDE(emulated_bytes, mask_mov_epi8, (emulated_si512 from, __mmask64 k, emulated_si512 x),
  ((emulated_bytes)(k >> i & 1 ? x : from))[i])
EMULATED_WIDE(emulated_words, maskz_loadu_epi16, (__mmask32 k, const void *p), k >> i & 1 ? ((const uint16_t *)p)[i] : 0)
EMULATED(emulated_si512, max_epu32, (emulated_si512 a, emulated_si512 b), (uint32_t)a[i] > (uint32_t)b[i] ? a[i] : b[i])
EMULATED(emulated_ps512, maskz_mul_ps, (__mmask16 k, emulated_ps512 a, emulated_ps512 b), k >> i & 1 ? a[i] * b[i] : 0)
EMULATED(emulated_si512, shuffle_i32x4, (emulated_si512 a, emulated_si512 b, int how),
  (i < 8 ? a : b)[(how >> i / 4 * 2 & 3) * 4 + i % 4])
EMULATED(emulated_si512, unpacklo_epi32, (emulated_si512 a, emulated_si512 b), (i % 2 ? b : a)[i / 4 * 4 + i % 4 / 2])
EMULATED(emulated_si512, unpackhi_epi32, (emulated_si512 a, emulated_si512 b), (i % 2 ? b : a)[i / 4 * 4 + 2 + i % 4 / 2])
EMULATED(emulated_si512, unpacklo_epi64, (emulated_si512 a, emulated_si512 b), (i % 4 / 2 ? b : a)[i / 4 * 4 + i % 2])
EMULATED(emulated_si512, unpackhi_epi64, (emulated_si512 a, emulated_si512 b), (i % 4 / 2 ? b : a)[i / 4 * 4 + 2 + i % 2])
static inline __mmask64 emulated_movepi8_mask(emulated_si512 x) {
  __mmask64 mask = 0;
  for (int i = 0; i < 64; i++) mask |= (__mmask64)(((emulated_bytes)x)[i] >> 7) << i;
  return mask;
}
static inline __mmask16 emulated_cmpgt_epu32(emulated_si512 a, emulated_si512 b) {
  int mask = 0;
  for (int i = 0; i < 16; i++) mask |= ((uint32_t)a[i] > (uint32_t)b[i]) << i;
  return (__mmask16)mask;
}
#define _mm512_set1_epi16 emulated_set1_epi16
#define _mm512_set_epi16(...) emulated_reversed((const uint16_t[32]){__VA_ARGS__})
EMULATED_WIDE(emulated_words, reversed, (const uint16_t *from), from[31 - i])
#define _mm512_srli_epi16 emulated_srli_epi16
#define _mm512_add_epi16 emulated_add_epi16
#define _mm512_and_si512(a, b) ((a) & (b))
#define _mm512_packus_epi32 emulated_packus_epi32
#define _mm512_packus_epi16 emulated_packus_epi16
#define _mm512_permutex2var_epi16 emulated_permutex2var_epi16
#define _mm512_permutex2var_epi8 emulated_permutex2var_epi8
#define _mm512_mask_mov_epi8 emulated_mask_mov_epi8
#define _mm512_maskz_loadu_epi16 emulated_maskz_loadu_epi16
#define _mm512_max_epu32 emulated_max_epu32
#define _mm512_maskz_mul_ps emulated_maskz_mul_ps
#define _mm512_shuffle_i32x4 emulated_shuffle_i32x4
#define _mm512_unpacklo_epi32 emulated_unpacklo_epi32
#define _mm512_unpackhi_epi32 emulated_unpackhi_epi32
#define _mm512_unpacklo_epi64 emulated_unpacklo_epi64
#define _mm512_unpackhi_epi64 emulated_unpackhi_epi64
#define _mm512_movepi8_mask emulated_movepi8_mask
#define _mm512_cmpgt_epu32_mask emulated_cmpgt_epu32
#define _mm512_load_si512(p) _mm512_loadu_si512(p)
#define _mm512_loadu_ps(p) emulated_maskz_loadu_ps(0xffff, p)
