// Internal, included once per instruction set after vec.h: linear layers on weights of 8 and 4 bits.
// The including file defines INT_ROWS, the most rows of a tile, and FN(dot4). Activations are quantised to 8 bits in
// groups of 32 inputs. The sum of a group's products is an exact integer; the groups' sums become one f32 chain per
// output, group by group, in every tile shape.

typedef int8_t FN(vb) __attribute__((vector_size(VW)));
typedef FN(vb) FN(vb_any) __attribute__((aligned(1), may_alias));
#define vb FN(vb)

// VW halves as f32. Weights hold no infinity.
POLAR_ALWAYS_INLINE vf FN(load_halves)(const uint8_t *p) {
#if VW > 4
  typedef _Float16 halves __attribute__((vector_size(VW * 2), aligned(2), may_alias));
  return __builtin_convertvector(*(const halves *)p, vf);
#else
  vf out;
  for (int i = 0; i < VW; i++) {
    uint16_t bits;
    __builtin_memcpy(&bits, p + 2 * i, sizeof bits);
    out[i] = polar_half(bits);
  }
  return out;
#endif
}

POLAR_ALWAYS_INLINE vu FN(load_codes)(const void *p) { return *(const FN(vu_any) *)p; }

POLAR_ALWAYS_INLINE vu FN(splat_codes)(const int8_t *p) {
  uint32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return bits - (vu){0};
}

// Quantises 32 values; returns the sum of the codes.
POLAR_ALWAYS_INLINE int32_t FN(quantize_group)(const float *x, int8_t *codes, float *scale) {
  enum { count = POLAR_GROUP / VW };
  vf v[count];
  // Magnitudes compare as integers; a NaN is larger than all numbers and so makes the scale NaN.
  vi top = {0};
#pragma clang loop unroll(full)
  for (int i = 0; i < count; i++) {
    v[i] = FN(load)(x + i * VW);
    const vi magnitude = (vi)v[i] & 0x7fffffff, larger = magnitude > top;
    top = (magnitude & larger) | (top & ~larger);
  }
  int32_t bits = 0;
#pragma clang loop unroll(full)
  for (int i = 0; i < VW; i++) bits = top[i] > bits ? top[i] : bits;
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  const int vanishing = largest < 1e-30f;
  *scale = vanishing ? 0 : largest / 127;
  const float inverse = vanishing ? 0 : 127 / largest;
  vi total = {0};
#pragma clang loop unroll(full)
  for (int i = 0; i < count; i++) {
    // The product is rounded by itself, as the reference does: no fused multiply-add with what follows.
    const vf scaled = v[i] * inverse;
    const vf shifted = scaled + 12582912.0f;  // 1.5 * 2^23: the nearest integer lands in the low bits
    const vi code = (vi)shifted - 0x4b400000;
    total += code;
    *(FN(vb_any) *)(codes + i * VW) = __builtin_convertvector(code, vb);
  }
  int32_t sum = 0;
#pragma clang loop unroll(full)
  for (int i = 0; i < VW; i++) sum += total[i];
  return sum;
}

static void FN(quantize)(const float *x, int64_t inputs, int format, int8_t *codes, polar_activation_group *groups) {
  const int32_t zero = format == POLAR_WEIGHT_INT8 ? 128 : 8;
  for (int64_t k = 0; k < inputs; k += POLAR_GROUP, groups++) {
    float padded[POLAR_GROUP] = {0};
    const float *from = x + k;
    if (inputs - k < POLAR_GROUP) {
      __builtin_memcpy(padded, from, (size_t)(inputs - k) * sizeof(float));
      from = padded;
    }
    const int32_t sum = FN(quantize_group)(from, codes + k, &groups->scale);
    if (format == POLAR_WEIGHT_INT4_AFFINE) {
      groups->sum = groups->scale * (float)sum;
    } else {
      groups->correction = -zero * sum;
    }
  }
}

// R rows x 2 VW outputs from output `first` of the panel on.
POLAR_ALWAYS_INLINE void FN(int_tile)(
  const int R, const int format, const int first, const int fetches, const polar_int_operands *t
) {
  const int affine = format == POLAR_WEIGHT_INT4_AFFINE, narrow = format != POLAR_WEIGHT_INT8;
  const int head = affine ? 4 * POLAR_PANEL : 2 * POLAR_PANEL, steps = narrow ? 4 : 8;
  const int bytes = head + steps * 4 * POLAR_PANEL;
  const uint8_t *block = t->blocks;
  const int8_t *codes = t->codes;
  const polar_activation_group *scales = t->scales;
  const char *prefetch = t->prefetch;
  vf acc[2 * INT_ROWS];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) acc[i] = FN(load)(t->start + i / 2 * t->start_stride + first + i % 2 * VW);
  for (int64_t g = 0; g < t->groups; g++) {
    if (fetches) {
      for (int64_t line = 0; line < t->lines; line++) __builtin_prefetch(prefetch + 64 * line, 0, 3);
      prefetch += 64 * t->lines;
    }
    vi sum[2 * INT_ROWS];
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++)
      sum[2 * r] = sum[2 * r + 1] =
        affine ? (vi){0} : scales[r * t->scale_stride].correction - (vi){0};
#pragma clang loop unroll(full)
    for (int s = 0; s < steps; s++) {
      const uint8_t *w = block + head + s * 4 * POLAR_PANEL + 4 * first;
      const vu w0 = FN(load_codes)(w), w1 = FN(load_codes)(w + 4 * VW);
      if (narrow) {
        const vu low0 = w0 & 0x0f0f0f0f, low1 = w1 & 0x0f0f0f0f;
        const vu high0 = w0 >> 4 & 0x0f0f0f0f, high1 = w1 >> 4 & 0x0f0f0f0f;
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          const vu x = FN(splat_codes)(codes + r * t->code_stride + 4 * s);
          sum[2 * r] = FN(dot4)(sum[2 * r], low0, x);
          sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], low1, x);
        }
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          const vu x = FN(splat_codes)(codes + r * t->code_stride + POLAR_GROUP / 2 + 4 * s);
          sum[2 * r] = FN(dot4)(sum[2 * r], high0, x);
          sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], high1, x);
        }
      } else {
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          const vu x = FN(splat_codes)(codes + r * t->code_stride + 4 * s);
          sum[2 * r] = FN(dot4)(sum[2 * r], w0, x);
          sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], w1, x);
        }
      }
    }
    const vf scale0 = FN(load_halves)(block + 2 * first), scale1 = FN(load_halves)(block + 2 * first + 2 * VW);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const float scale = scales[r * t->scale_stride].scale;
      acc[2 * r] = acc[2 * r] + __builtin_convertvector(sum[2 * r], vf) * (scale0 * scale);
      acc[2 * r + 1] = acc[2 * r + 1] + __builtin_convertvector(sum[2 * r + 1], vf) * (scale1 * scale);
    }
    if (affine) {
      const uint8_t *minimums = block + 2 * POLAR_PANEL + 2 * first;
      const vf minimum0 = FN(load_halves)(minimums), minimum1 = FN(load_halves)(minimums + 2 * VW);
#pragma clang loop unroll(full)
      for (int r = 0; r < R; r++) {
        acc[2 * r] = acc[2 * r] + minimum0 * scales[r * t->scale_stride].sum;
        acc[2 * r + 1] = acc[2 * r + 1] + minimum1 * scales[r * t->scale_stride].sum;
      }
    }
    block += bytes;
    codes += POLAR_GROUP;
    scales++;
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) FN(store)(t->c + i / 2 * t->c_stride + first + i % 2 * VW, acc[i]);
}

// A tile is as wide as the panel; narrow vectors take it in parts.
#define INT_TILE(R, format)                                                                         \
  static void FN(int_tile_##format##_##R)(const polar_int_operands *t) {                            \
    _Pragma("clang loop unroll(disable)") for (int first = 0; first < POLAR_PANEL; first += 2 * VW) \
      FN(int_tile)(R, format, first, first == 0, t);                                                \
  }
#define INT_TILES(R) \
  INT_TILE(R, POLAR_WEIGHT_INT8) INT_TILE(R, POLAR_WEIGHT_INT4) INT_TILE(R, POLAR_WEIGHT_INT4_AFFINE)
INT_TILES(1)
INT_TILES(2)
#if INT_ROWS == 6
INT_TILES(3)
INT_TILES(4)
INT_TILES(5)
INT_TILES(6)
#define INT_TABLE(format)                                                                                  \
  {FN(int_tile_##format##_1), FN(int_tile_##format##_2), FN(int_tile_##format##_3), FN(int_tile_##format##_4), \
   FN(int_tile_##format##_5), FN(int_tile_##format##_6)}
#else
#define INT_TABLE(format) {FN(int_tile_##format##_1), FN(int_tile_##format##_2)}
#endif

// The products of bytes that tiles add up, with few loads: twelve chains on the same four bytes.
static double FN(int_peak)(int64_t steps, float *sink) {
  vi acc[12];
#pragma clang loop unroll(full)
  for (int i = 0; i < 12; i++) acc[i] = (vi){0};
  for (int64_t step = 0; step < steps; step++) {
    // Read anew in every step, or what does not change would be computed once.
    __asm__ volatile("" : : "r"(sink) : "memory");
    const vu w = FN(load_codes)(sink), x = FN(splat_codes)((const int8_t *)sink);
#pragma clang loop unroll(full)
    for (int i = 0; i < 12; i++) acc[i] = FN(dot4)(acc[i], w, x);
  }
#pragma clang loop unroll(full)
  for (int i = 1; i < 12; i++) acc[0] += acc[i];
  FN(store)(sink, __builtin_convertvector(acc[0], vf));
  return (double)steps * 12 * VW * 8;
}

const polar_int_kernels FN(polar_int_kernels) = {
  .rows = INT_ROWS,
  .whole = 2 * VW == POLAR_PANEL,
  .quantize = FN(quantize),
  .peak = FN(int_peak),
  .tiles = {INT_TABLE(POLAR_WEIGHT_INT8), INT_TABLE(POLAR_WEIGHT_INT4), INT_TABLE(POLAR_WEIGHT_INT4_AFFINE)},
};
