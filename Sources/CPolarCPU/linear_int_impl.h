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

POLAR_ALWAYS_INLINE vu FN(splat_word)(const void *p) {
  uint32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return bits - (vu){0};
}

#if VW == 16
#define LANES(H) \
  0 ^ H, 1 ^ H, 2 ^ H, 3 ^ H, 4 ^ H, 5 ^ H, 6 ^ H, 7 ^ H, 8 ^ H, 9 ^ H, 10 ^ H, 11 ^ H, 12 ^ H, 13 ^ H, 14 ^ H, 15 ^ H
#elif VW == 8
#define LANES(H) 0 ^ H, 1 ^ H, 2 ^ H, 3 ^ H, 4 ^ H, 5 ^ H, 6 ^ H, 7 ^ H
#else
#define LANES(H) 0 ^ H, 1 ^ H, 2 ^ H, 3 ^ H
#endif
// Halves the number of vectors: of v[i] and v[i + H], the lanes of either that differ in bit H come together, those of
// v[i + H] where the bit is set.
#define FOLD(H)                                                                  \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < H; i++) {               \
    const vi set = (vi)((lanes & H) != 0);                                       \
    const vi low = (v[i] & ~set) | (v[i + H] & set);                             \
    const vi other = (v[i] & set) | (v[i + H] & ~set);                           \
    const vi high = __builtin_shufflevector(other, other, LANES(H));             \
    v[i] = larger ? ((low > high) & low) | (~(low > high) & high) : low + high;    \
  }

// Lane i: the largest element of v[i], or the sum of its elements. All of v is overwritten.
POLAR_ALWAYS_INLINE vi FN(across)(vi v[VW], const int larger) {
  const vi lanes = {LANES(0)};
#if VW > 8
  FOLD(8)
#endif
#if VW > 4
  FOLD(4)
#endif
  FOLD(2)
  FOLD(1)
  return v[0];
}

// The magnitudes of a group of values, the larger ones of those that share a lane. They compare as integers; a NaN is
// larger than all numbers and so makes the scale NaN.
POLAR_ALWAYS_INLINE vi FN(magnitudes)(const float *x) {
  vi top = {0};
#pragma clang loop unroll(full)
  for (int i = 0; i < POLAR_GROUP; i += VW) {
    const vi magnitude = (vi)FN(load)(x + i) & 0x7fffffff, larger = magnitude > top;
    top = (magnitude & larger) | (top & ~larger);
  }
  return top;
}

// Writes the codes of a group of values; returns numbers whose sum is that of the codes and 32 * 0x4b400000.
POLAR_ALWAYS_INLINE vi FN(quantize_group)(const float *x, float inverse, uint8_t *codes) {
  vi total = {0};
#pragma clang loop unroll(full)
  for (int i = 0; i < POLAR_GROUP; i += VW) {
    // The product is rounded by itself, as the reference does: no fused multiply-add with what follows.
    const vf scaled = FN(load)(x + i) * inverse;
    const vf shifted = scaled + 12582912.0f;  // 0x4b400000, 1.5 * 2^23: the nearest integer lands in the low bits
    total += (vi)shifted;
    *(FN(vb_any) *)(codes + i) = __builtin_convertvector((vi)shifted, vb);
  }
  return total;
}

// `some` groups, at most as many as a vector has lanes, side by side: hence one division for all of them.
POLAR_ALWAYS_INLINE void FN(quantize_groups)(
  const float *x, const int some, int format, uint8_t *group, int64_t rows, int64_t row
) {
  const int64_t bytes = polar_row_group_bytes(rows);
  vi v[VW];
  for (int i = 0; i < VW; i++) v[i] = i < some ? FN(magnitudes)(x + i * POLAR_GROUP) : (vi){0};
  const vf largest = (vf)FN(across)(v, 1);
  const vi counts = ~(vi)(largest < 1e-30f);
  const vf scale = (vf)((vi)(largest / 127.0f) & counts), inverse = (vf)((vi)(127.0f / largest) & counts);
  uint8_t *codes = group + row * POLAR_GROUP;
  for (int i = 0; i < some; i++) v[i] = FN(quantize_group)(x + i * POLAR_GROUP, inverse[i], codes + i * bytes);
  const vi sum = FN(across)(v, 0) - (vi)(POLAR_GROUP * 0x4b400000u - (vu){0});
  const vi zero = (format == POLAR_WEIGHT_INT8 ? -128 : -8) - (vi){0};
  const vi term = format == POLAR_WEIGHT_INT4_AFFINE ? (vi)(scale * __builtin_convertvector(sum, vf)) : sum * zero;
  group += rows * POLAR_GROUP + 4 * row;
  for (int i = 0; i < some; i++, group += bytes) {
    const float s = scale[i];
    const int32_t t = term[i];
    __builtin_memcpy(group, &s, 4);
    __builtin_memcpy(group + 4 * rows, &t, 4);
  }
}

// A row; see polar_int_kernels.
static void FN(quantize)(const float *x, int64_t inputs, int format, uint8_t *out, int64_t rows, int64_t row) {
  const int64_t bytes = polar_row_group_bytes(rows);
  for (; inputs >= VW * POLAR_GROUP; inputs -= VW * POLAR_GROUP, x += VW * POLAR_GROUP, out += VW * bytes)
    FN(quantize_groups)(x, VW, format, out, rows, row);
  for (; inputs > 0; inputs -= POLAR_GROUP, x += POLAR_GROUP, out += bytes) {
    float padded[POLAR_GROUP] = {0};
    __builtin_memcpy(padded, x, (size_t)(inputs < POLAR_GROUP ? inputs : POLAR_GROUP) * sizeof(float));
    FN(quantize_groups)(padded, 1, format, out, rows, row);
  }
}

// R rows x 2 VW outputs from output `first` of the panel on. The integers of up to 6 rows leave the registers room for the
// chains; those of more rows take turns in `held` [R][2 VW].
POLAR_ALWAYS_INLINE void FN(int_tile)(
  const int R, const int format, const int first, const int fetches, const polar_int_operands *t
) {
  const int affine = format == POLAR_WEIGHT_INT4_AFFINE, narrow = format != POLAR_WEIGHT_INT8, holds = R > 6;
  const int head = affine ? 4 * POLAR_PANEL : 2 * POLAR_PANEL, steps = narrow ? 4 : 8;
  const int bytes = head + steps * 4 * POLAR_PANEL;
  const uint8_t *block = t->blocks;
  const uint8_t *x = t->x;
  const char *prefetch = t->prefetch;
  float memory[holds ? 2 * INT_ROWS * VW : 1] __attribute__((aligned(64))), *held = memory;
  __asm__("" : "+r"(held));  // hidden from the compiler, which would make registers of it and run out of them
  vf acc[2 * INT_ROWS];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) {
    acc[i] = FN(load)(t->start + i / 2 * t->start_stride + first + i % 2 * VW);
    if (holds) FN(store)(held + i * VW, acc[i]);
  }
  for (int64_t g = 0; g < t->groups; g++) {
    if (fetches) {
      for (int64_t line = 0; line < t->lines; line++) __builtin_prefetch(prefetch + 64 * line, 0, 3);
      prefetch += 64 * t->lines;
      if (t->many) {
#pragma clang loop unroll(full)
        for (int line = 0; line < (int)(polar_row_group_bytes(R) + 63) / 64; line++)
          __builtin_prefetch(x + 8 * polar_row_group_bytes(R) + 64 * line, 0, 3);
      }
    }
    vi sum[2 * INT_ROWS];
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++)
      sum[2 * r] = sum[2 * r + 1] =
        affine ? (vi){0} : (vi)FN(splat_word)(x + R * (POLAR_GROUP + 4) + 4 * r);
#pragma clang loop unroll(full)
    for (int s = 0; s < steps; s++) {
      const uint8_t *w = block + head + s * 4 * POLAR_PANEL + 4 * first;
      const vu w0 = FN(load_codes)(w), w1 = FN(load_codes)(w + 4 * VW);
      if (narrow) {
        const vu low0 = w0 & 0x0f0f0f0f, low1 = w1 & 0x0f0f0f0f;
        const vu high0 = w0 >> 4 & 0x0f0f0f0f, high1 = w1 >> 4 & 0x0f0f0f0f;
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          const vu four = FN(splat_word)(x + r * POLAR_GROUP + 4 * s);
          sum[2 * r] = FN(dot4)(sum[2 * r], low0, four);
          sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], low1, four);
        }
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          const vu four = FN(splat_word)(x + r * POLAR_GROUP + POLAR_GROUP / 2 + 4 * s);
          sum[2 * r] = FN(dot4)(sum[2 * r], high0, four);
          sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], high1, four);
        }
      } else {
#pragma clang loop unroll(full)
        for (int r = 0; r < R; r++) {
          const vu four = FN(splat_word)(x + r * POLAR_GROUP + 4 * s);
          sum[2 * r] = FN(dot4)(sum[2 * r], w0, four);
          sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], w1, four);
        }
      }
    }
    const vf scale0 = FN(load_halves)(block + 2 * first), scale1 = FN(load_halves)(block + 2 * first + 2 * VW);
    const uint8_t *minimums = block + 2 * POLAR_PANEL + 2 * first;
    vf minimum0, minimum1;
    if (affine) minimum0 = FN(load_halves)(minimums), minimum1 = FN(load_halves)(minimums + 2 * VW);
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      const vf scale = (vf)FN(splat_word)(x + R * POLAR_GROUP + 4 * r);
      vf low = holds ? FN(load)(held + 2 * r * VW) : acc[2 * r];
      vf high = holds ? FN(load)(held + (2 * r + 1) * VW) : acc[2 * r + 1];
      low = low + __builtin_convertvector(sum[2 * r], vf) * (scale0 * scale);
      high = high + __builtin_convertvector(sum[2 * r + 1], vf) * (scale1 * scale);
      if (affine) {
        const vf codes = (vf)FN(splat_word)(x + R * (POLAR_GROUP + 4) + 4 * r);
        low = low + minimum0 * codes;
        high = high + minimum1 * codes;
      }
      if (holds) {
        FN(store)(held + 2 * r * VW, low);
        FN(store)(held + (2 * r + 1) * VW, high);
      } else {
        acc[2 * r] = low;
        acc[2 * r + 1] = high;
      }
    }
    block += bytes;
    x += polar_row_group_bytes(R);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++)
    FN(store)(t->c + i / 2 * t->c_stride + first + i % 2 * VW, holds ? FN(load)(held + i * VW) : acc[i]);
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
#if INT_ROWS == 8
INT_TILES(3)
INT_TILES(4)
INT_TILES(5)
INT_TILES(6)
INT_TILES(7)
INT_TILES(8)
#define INT_TABLE(format)                                                                                       \
  {FN(int_tile_##format##_1),  FN(int_tile_##format##_2),  FN(int_tile_##format##_3), FN(int_tile_##format##_4), \
   FN(int_tile_##format##_5), FN(int_tile_##format##_6), FN(int_tile_##format##_7), FN(int_tile_##format##_8)}
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
    const vu w = FN(load_codes)(sink), x = FN(splat_word)(sink);
#pragma clang loop unroll(full)
    for (int i = 0; i < 12; i++) acc[i] = FN(dot4)(acc[i], w, x);
  }
#pragma clang loop unroll(full)
  for (int i = 1; i < 12; i++) acc[0] += acc[i];
  FN(store)(sink, __builtin_convertvector(acc[0], vf));
  return (double)steps * 12 * VW * 8;
}

const polar_int_kernels FN(polar_int_kernels) = {
  .most = INT_ROWS,
  .rows = INT_ROWS > 6 ? 6 : INT_ROWS,
  .whole = 2 * VW == POLAR_PANEL,
  .quantize = FN(quantize),
  .peak = FN(int_peak),
  .tiles = {INT_TABLE(POLAR_WEIGHT_INT8), INT_TABLE(POLAR_WEIGHT_INT4), INT_TABLE(POLAR_WEIGHT_INT4_AFFINE)},
};
