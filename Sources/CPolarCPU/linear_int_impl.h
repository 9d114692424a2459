// Internal, included once per instruction set after vec.h: linear layers on weights of 8 and 4 bits.
// The including file defines INT_ROWS, the most rows of a tile, and FN(dot4). Activations are quantised to 8 bits in
// groups of 32 inputs; groups of a super-block share a scale, but for powers of two. The sum of a group's products is an exact
// integer; the groups' sums become one f32 chain per output, group by group, in every tile shape. The bits of an integer are
// those of the float 1.5 * 2^23 + integer, times the power of two, but for a constant: so only the multiplication with the
// weights' scales goes to the ports that the products fill, and one per super-block.

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

// The magnitudes of super-blocks, of those of their groups. None is 0, so that scales have quotients.
POLAR_ALWAYS_INLINE vi FN(superblock_magnitudes)(vi v) {
#pragma clang loop unroll(full)
  for (int half = 1; half < POLAR_SUPERBLOCK; half *= 2) {
    const vi other = half == 1 ? __builtin_shufflevector(v, v, LANES(1)) : __builtin_shufflevector(v, v, LANES(2));
    v = ((v > other) & v) | (~(v > other) & other);
  }
  const vi least = (vi)FN(splat)(0x1p-57f);
  return ((v > least) & v) | (~(v > least) & least);
}

// `some` groups, at most as many as a vector has lanes, side by side: hence one division for all of them. `previous` is the
// scale of the super-block before them, and becomes that of the last one.
POLAR_ALWAYS_INLINE void FN(quantize_groups)(
  const float *x, const int some, int format, uint8_t *out, int64_t rows, int64_t row, float *previous
) {
  const int64_t bytes = polar_row_group_bytes(rows);
  vi v[VW];
  for (int i = 0; i < VW; i++) v[i] = i < some ? FN(magnitudes)(x + i * POLAR_GROUP) : (vi){0};
  const vi largest = FN(across)(v, 1), top = FN(superblock_magnitudes)(largest);
  const vf scale = (vf)top / 127.0f, inverse = 127.0f / (vf)top;
  // Bits grow as floats do: the difference of two, shifted, is how often the smaller one can be doubled.
  const vi doublings = (top - largest) >> 23, most = 24 - (vi){0};
  const vi raise = (((doublings < most) & doublings) | (~(doublings < most) & most)) << 23;
  const vi base = 0x4b400000 - raise;
  float scales[VW], inverses[VW], multipliers[VW];
  int32_t bases[VW], terms[VW];
  FN(store)(scales, scale);
  FN(store)(inverses, inverse);
  FN(store)(multipliers, inverse * (vf)(raise + 0x3f800000));
  for (int i = 0; i < VW; i++) v[i] = (vi){0};
  uint8_t *group = out + 4 * rows + row * POLAR_GROUP;
  for (int i = 0; i < some; i++, group += bytes) {
    if (i > 0 && i % POLAR_SUPERBLOCK == 0) group += 4 * rows;
    v[i] = FN(quantize_group)(x + i * POLAR_GROUP, multipliers[i], group);
  }
  const vi sum = FN(across)(v, 0) - (vi)(POLAR_GROUP * 0x4b400000u - (vu){0});
  const vi zero = (format == POLAR_WEIGHT_INT8 ? -128 : -8) - (vi){0};
  const vf power = (vf)(0x3f800000 - raise);
  const vi term = format == POLAR_WEIGHT_INT4_AFFINE ? (vi)(power * __builtin_convertvector(sum, vf)) : base + sum * zero;
  FN(store)((float *)bases, (vf)base);
  FN(store)((float *)terms, (vf)term);
  group = out + 4 * row;
  for (int i = 0; i < some; i++, group += bytes) {
    if (i % POLAR_SUPERBLOCK == 0) {
      const float quotient = *previous * inverses[i];
      __builtin_memcpy(group, &quotient, 4);
      *previous = scales[i];
      group += 4 * rows;
    }
    __builtin_memcpy(group + rows * POLAR_GROUP, bases + i, 4);
    __builtin_memcpy(group + rows * (POLAR_GROUP + 4), terms + i, 4);
  }
}

// A part of a row; see polar_int_kernels.
static void FN(quantize)(
  const float *x, int64_t low, int64_t high, int64_t inputs, int format, uint8_t *out, int64_t rows, int64_t row
) {
  const int64_t step = VW * POLAR_GROUP, width = POLAR_SUPERBLOCK * POLAR_GROUP;
  float previous = 1;
  if (low > 0) {
    vi top = {0};
    for (int64_t k = low - width; k < low; k += POLAR_GROUP) {
      const vi other = FN(magnitudes)(x + k);
      top = ((top > other) & top) | (~(top > other) & other);
    }
    vi v[VW];
    for (int i = 0; i < VW; i++) v[i] = top;
    previous = ((vf)FN(superblock_magnitudes)(FN(across)(v, 1)) / 127.0f)[0];
  }
  out += polar_row_superblocks_bytes(rows, low / POLAR_GROUP);
  int64_t k = low;
  for (; k + step <= high; k += step, out += polar_row_superblocks_bytes(rows, VW))
    FN(quantize_groups)(x + k, VW, format, out, rows, row, &previous);
  for (; k < high; k += width) {
    float padded[POLAR_SUPERBLOCK * POLAR_GROUP] = {0};
    const int64_t count = high - k < width ? high - k : width;
    __builtin_memcpy(padded, x + k, (size_t)count * sizeof(float));
    const int groups = (int)((count + POLAR_GROUP - 1) / POLAR_GROUP);
    FN(quantize_groups)(padded, groups, format, out, rows, row, &previous);
    out += groups * polar_row_group_bytes(rows) + 4 * rows;
  }
  if (high == inputs) __builtin_memcpy(out + 4 * row, &previous, 4);
}

// R rows x 2 VW outputs from output `first` of the panel on. The chains and the integers of more than 6 rows do not fit into
// registers: such rows take turns within a group. Only one of the tiles over a stretch of weights `fetches` what comes next: as much
// as a group in every group, evenly over its steps; or, where several sets of rows are `sharing` the weights, a part of it and the
// activations that come next.
POLAR_ALWAYS_INLINE void FN(int_tile)(
  const int R, const int format, const int sharing, const int first, const int fetches, const polar_int_operands *t
) {
  const int affine = format == POLAR_WEIGHT_INT4_AFFINE, narrow = format != POLAR_WEIGHT_INT8, turns = R > 6 ? 2 : 1;
  const int head = affine ? 4 * POLAR_PANEL : 2 * POLAR_PANEL, steps = narrow ? 4 : 8;
  const int bytes = head + steps * 4 * POLAR_PANEL;
  const uint8_t *block = t->blocks;
  const uint8_t *x = t->x;
  const char *prefetch = t->prefetch;
  vf acc[2 * INT_ROWS];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++)
    acc[i] = t->first ? (vf){0} : FN(load)(t->c + i / 2 * t->c_stride + first + i % 2 * VW);
  int64_t left = 0;  // groups of the super-block
  for (int64_t g = 0; g < t->groups; g++, left--) {
    if (left == 0) {
      // In units of this super-block's scale.
#pragma clang loop unroll(full)
      for (int i = 0; i < 2 * R; i++) acc[i] = acc[i] * (vf)FN(splat_word)(x + 4 * (i / 2));
      x += 4 * R;
      left = POLAR_SUPERBLOCK;
    }
    if (fetches && sharing) {
      for (int64_t line = 0; line < t->lines; line++) __builtin_prefetch(prefetch + 64 * line, 0, 3);
      prefetch += 64 * t->lines;
#pragma clang loop unroll(full)
      for (int line = 0; line < (int)(polar_row_group_bytes(R) + 63) / 64; line++)
        __builtin_prefetch(x + 8 * polar_row_group_bytes(R) + 64 * line, 0, 3);
    }
#pragma clang loop unroll(full)
    for (int turn = 0; turn < turns; turn++) {
      const int low = R * turn / turns, high = R * (turn + 1) / turns;
      // The compiler would keep weights for the next turn in registers, and run out of them.
      if (turns > 1) __asm__("" : "+r"(block));
      vi sum[2 * INT_ROWS];
#pragma clang loop unroll(full)
      for (int r = low; r < high; r++)
        sum[2 * r] = sum[2 * r + 1] = (vi)FN(splat_word)(x + R * (POLAR_GROUP + (affine ? 0 : 4)) + 4 * r);
#pragma clang loop unroll(full)
      for (int s = 0; s < steps; s++) {
        const uint8_t *w = block + head + s * 4 * POLAR_PANEL + 4 * first;
        const vu w0 = FN(load_codes)(w), w1 = FN(load_codes)(w + 4 * VW);
        if (fetches && !sharing && turn == 0) {
#pragma clang loop unroll(full)
          for (int line = s * (bytes / 64) / steps; line < (s + 1) * (bytes / 64) / steps; line++)
            __builtin_prefetch(prefetch + 64 * line, 0, 3);
        }
        if (narrow) {
          const vu low0 = w0 & 0x0f0f0f0f, low1 = w1 & 0x0f0f0f0f;
          const vu high0 = w0 >> 4 & 0x0f0f0f0f, high1 = w1 >> 4 & 0x0f0f0f0f;
#pragma clang loop unroll(full)
          for (int r = low; r < high; r++) {
            const vu four = FN(splat_word)(x + r * POLAR_GROUP + 4 * s);
            sum[2 * r] = FN(dot4)(sum[2 * r], low0, four);
            sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], low1, four);
          }
#pragma clang loop unroll(full)
          for (int r = low; r < high; r++) {
            const vu four = FN(splat_word)(x + r * POLAR_GROUP + POLAR_GROUP / 2 + 4 * s);
            sum[2 * r] = FN(dot4)(sum[2 * r], high0, four);
            sum[2 * r + 1] = FN(dot4)(sum[2 * r + 1], high1, four);
          }
        } else {
#pragma clang loop unroll(full)
          for (int r = low; r < high; r++) {
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
      for (int r = low; r < high; r++) {
        const vf base = (vf)FN(splat_word)(x + R * POLAR_GROUP + 4 * r);
        const vf sum0 = (vf)sum[2 * r] - base, sum1 = (vf)sum[2 * r + 1] - base;
        acc[2 * r] = acc[2 * r] + sum0 * scale0;
        acc[2 * r + 1] = acc[2 * r + 1] + sum1 * scale1;
        if (affine) {
          const vf codes = (vf)FN(splat_word)(x + R * (POLAR_GROUP + 4) + 4 * r);
          acc[2 * r] = acc[2 * r] + minimum0 * codes;
          acc[2 * r + 1] = acc[2 * r + 1] + minimum1 * codes;
        }
      }
    }
    block += bytes;
    x += polar_row_group_bytes(R);
    if (fetches && !sharing) prefetch += bytes;
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 2 * R; i++) {
    vf result = acc[i];
    if (t->bias) result = FN(load)(t->bias + first + i % 2 * VW) + result * (vf)FN(splat_word)(x + 4 * (i / 2));
    FN(store)(t->c + i / 2 * t->c_stride + first + i % 2 * VW, result);
  }
}

// A tile is as wide as the panel; narrow vectors take it in parts.
#define INT_TILE(R, format, sharing)                                                                       \
  static void FN(int_tile_##format##_##sharing##_##R)(const polar_int_operands *t) {                       \
    FN(int_tile)(R, format, sharing, 0, 1, t);                                                             \
    _Pragma("clang loop unroll(disable)") for (int first = 2 * VW; first < POLAR_PANEL; first += 2 * VW) \
      FN(int_tile)(R, format, sharing, first, 0, t);                                                       \
  }
#define INT_TILES(R, sharing)                 \
  INT_TILE(R, POLAR_WEIGHT_INT8, sharing)     \
  INT_TILE(R, POLAR_WEIGHT_INT4, sharing)     \
  INT_TILE(R, POLAR_WEIGHT_INT4_AFFINE, sharing)
#define INT_NAME(R, format, sharing) FN(int_tile_##format##_##sharing##_##R)
INT_TILES(1, 0)
INT_TILES(2, 0)
INT_TILES(1, 1)
INT_TILES(2, 1)
#if INT_ROWS == 8
INT_TILES(3, 0)
INT_TILES(4, 0)
INT_TILES(5, 0)
INT_TILES(6, 0)
INT_TILES(7, 0)
INT_TILES(8, 0)
INT_TILES(3, 1)
INT_TILES(4, 1)
INT_TILES(5, 1)
INT_TILES(6, 1)
#define INT_SMALL(format, sharing)                                                                             \
  INT_NAME(1, format, sharing), INT_NAME(2, format, sharing), INT_NAME(3, format, sharing),                      \
  INT_NAME(4, format, sharing), INT_NAME(5, format, sharing), INT_NAME(6, format, sharing)
#define INT_TABLE(format) \
  {{INT_SMALL(format, 0), INT_NAME(7, format, 0), INT_NAME(8, format, 0)}, {INT_SMALL(format, 1)}}
#else
#define INT_TABLE(format) \
  {{INT_NAME(1, format, 0), INT_NAME(2, format, 0)}, {INT_NAME(1, format, 1), INT_NAME(2, format, 1)}}
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
