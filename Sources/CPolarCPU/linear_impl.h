// Internal, included once per instruction set after vec.h: the linear layer on f32 activations.
// Every output is one chain over the inputs in order: bias, then input 0, 1, 2, ... The shape of a tile only says
// how many chains run side by side, and whether the weights become f32 in the tile or before it.

enum {
  // Most pairs of inputs between stores of the accumulators, when rows are many: a panel's block of 8 KiB, or 16 KiB
  // as f32, stays in L1.
  FN(block_pairs) = 64,
  // Row groups from which on it pays to widen a block of weights once.
  FN(widen_groups) = 3,
};

// A tile's operands. Chains start at `start` and end in `c`.
typedef struct {
  const void *w;        // bf16 pairs [pairs][32][2], at the tile's first output, or f32 [2 * pairs][16]
  const float *x;       // rows xs apart
  const float *start;   // rows start_stride apart
  float *c;             // rows cs apart
  int64_t xs, start_stride, cs, pairs;
  const char *prefetch; // fetched a line per pair (two for a whole panel), step bytes apart
  int64_t step;
} FN(linear_operands);

POLAR_ALWAYS_INLINE void FN(linear_begin)(const int R, const int NV, const FN(linear_operands) *t, vf *acc) {
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) acc[r * NV + j] = FN(load)(t->start + r * t->start_stride + j * VW);
}

POLAR_ALWAYS_INLINE void FN(linear_end)(const int R, const int NV, const FN(linear_operands) *t, const vf *acc) {
#pragma clang loop unroll(full)
  for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) FN(store)(t->c + r * t->cs + j * VW, acc[r * NV + j]);
}

// R rows x `outputs` outputs, weights widened on the way: first the even inputs of all outputs, then the odd ones, so
// that few vectors are live at once. The second load of the weights is hidden from the compiler, which would
// otherwise keep the first alive and spill accumulators.
POLAR_ALWAYS_INLINE void FN(linear_tile)(const int R, const int outputs, const FN(linear_operands) *t) {
  const int NV = outputs / VW;
  const int64_t xs = t->xs;
  const uint16_t *w = t->w;
  const float *x = t->x;
  const char *prefetch = t->prefetch;
  vf acc[6 * POLAR_PANEL / VW];
  FN(linear_begin)(R, NV, t, acc);
  for (int64_t k = 0; k < t->pairs; k++) {
    __builtin_prefetch(prefetch, 0, 3);
    if (outputs == POLAR_PANEL) __builtin_prefetch(prefetch + 64, 0, 3);
    prefetch += t->step;
    const uint16_t *again = w;
    __asm__("" : "+r"(again));
    vf part[POLAR_PANEL / VW];
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) part[j] = FN(even)(FN(load_pairs)(w + j * 2 * VW));
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) acc[r * NV + j] = acc[r * NV + j] + part[j] * x[r * xs + 2 * k];
#pragma clang loop unroll(full)
    for (int j = 0; j < NV; j++) part[j] = FN(odd)(FN(load_pairs)(again + j * 2 * VW));
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) acc[r * NV + j] = acc[r * NV + j] + part[j] * x[r * xs + 2 * k + 1];
    w += 2 * POLAR_PANEL;
  }
  FN(linear_end)(R, NV, t, acc);
}

// R rows x 16 outputs, weights widened before.
POLAR_ALWAYS_INLINE void FN(linear_tile_wide)(const int R, const FN(linear_operands) *t) {
  const int NV = POLAR_PANEL / 2 / VW;
  const int64_t xs = t->xs;
  const float *w = t->w;
  const char *prefetch = t->prefetch;
  vf acc[6 * POLAR_PANEL / VW];
  FN(linear_begin)(R, NV, t, acc);
  for (int64_t k = 0; k < 2 * t->pairs; k += 2) {
    __builtin_prefetch(prefetch, 0, 3);
    prefetch += t->step;
#pragma clang loop unroll(full)
    for (int odd = 0; odd < 2; odd++) {
      vf part[POLAR_PANEL / VW];
#pragma clang loop unroll(full)
      for (int j = 0; j < NV; j++) part[j] = FN(load)(w + odd * POLAR_PANEL / 2 + j * VW);
#pragma clang loop unroll(full)
      for (int r = 0; r < R; r++)
#pragma clang loop unroll(full)
        for (int j = 0; j < NV; j++) acc[r * NV + j] = acc[r * NV + j] + part[j] * t->x[r * xs + k + odd];
    }
    w += POLAR_PANEL;
  }
  FN(linear_end)(R, NV, t, acc);
}

typedef void (*FN(linear_kernel))(const FN(linear_operands) *t);

#define LINEAR_STREAM(R) \
  static void FN(linear_stream_##R)(const FN(linear_operands) *t) { FN(linear_tile)(R, POLAR_PANEL, t); }
#define LINEAR_BLOCK(R)                                                                                         \
  static void FN(linear_block_##R)(const FN(linear_operands) *t) {                                              \
    FN(linear_tile)(R, POLAR_PANEL / 2, t);                                                                     \
  }                                                                                                             \
  static void FN(linear_wide_##R)(const FN(linear_operands) *t) { FN(linear_tile_wide)(R, t); }
LINEAR_STREAM(1)
LINEAR_STREAM(2)
LINEAR_BLOCK(3)
LINEAR_BLOCK(4)
LINEAR_BLOCK(5)
LINEAR_BLOCK(6)

// [pairs][32][2] bf16 to [2][2 * pairs][16] f32: each half panel by itself.
static void FN(widen)(const uint16_t *w, float *out, int64_t pairs) {
  const int half = POLAR_PANEL / 2;
  for (int64_t k = 0; k < pairs; k++, w += 2 * POLAR_PANEL, out += POLAR_PANEL)
#pragma clang loop unroll(full)
    for (int j = 0; j < POLAR_PANEL; j += VW) {
      const vu pair = FN(load_pairs)(w + 2 * j);
      float *to = out + (j < half ? j : j - half + pairs * POLAR_PANEL);
      FN(store)(to, FN(even)(pair));
      FN(store)(to + half, FN(odd)(pair));
    }
}

// One panel for many rows: groups of up to six rows pass over a block of the weights that stays in L1, 16 outputs
// at a time, and fetch the next block, or what is `behind` the panel, meanwhile.
static void FN(linear_blocked)(
  int64_t rows, const uint16_t *w, const float *x, int64_t xs, const float *bias, float *c, int64_t cs, int64_t pairs,
  const char *behind
) {
  static const FN(linear_kernel) narrow[] = {
    FN(linear_block_3), FN(linear_block_4), FN(linear_block_5), FN(linear_block_6)};
  static const FN(linear_kernel) wide[] = {
    FN(linear_wide_3), FN(linear_wide_4), FN(linear_wide_5), FN(linear_wide_6)};
  float widened[FN(block_pairs) * 2 * POLAR_PANEL] __attribute__((aligned(64)));
  const int64_t groups = (rows + 5) / 6, small = rows / groups, larger = rows % groups;
  const int64_t blocks = (pairs + FN(block_pairs) - 1) / FN(block_pairs);
  const int widens = groups >= FN(widen_groups);
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t k = pairs * b / blocks, count = pairs * (b + 1) / blocks - k;
    const uint16_t *block = w + k * 2 * POLAR_PANEL;
    FN(linear_operands) t = {
      .xs = xs,
      .start_stride = b == 0 ? 0 : cs,
      .cs = cs,
      .pairs = count,
      .prefetch = b + 1 < blocks ? (const char *)(block + count * 2 * POLAR_PANEL) : behind,
      .step = (2 * POLAR_PANEL + groups - 1) / groups,
    };
    if (widens) FN(widen)(block, widened, count);
    int64_t row = 0;
    for (int64_t g = 0; g < groups; g++) {
      const int64_t size = small + (g < larger);
      t.x = x + row * xs + 2 * k;
      for (int half = 0; half < POLAR_PANEL; half += POLAR_PANEL / 2) {
        t.w = widens ? (const void *)(widened + half * 2 * count) : (const void *)(block + 2 * half);
        t.c = c + row * cs + half;
        t.start = b == 0 ? bias + half : t.c;
        (widens ? wide : narrow)[size - 3](&t);
        t.prefetch += t.step * count;
      }
      row += size;
    }
  }
}

static void FN(linear)(
  const polar_linear_args *args, int64_t row_low, int64_t row_high, int64_t panel_low, int64_t panel_high,
  const uint16_t *prepared, int64_t prepared_stride, const char *next
) {
  static const FN(linear_kernel) stream[] = {FN(linear_stream_1), FN(linear_stream_2)};
  (void)prepared, (void)prepared_stride;
  const int64_t rows = row_high - row_low, pairs = args->weight.inputs / 2;
  const float *x = args->x + row_low * args->x_stride;
  float edge[POLAR_ROW_BLOCK * POLAR_PANEL];
  for (int64_t panel = panel_low; panel < panel_high; panel++) {
    const uint16_t *w = (const uint16_t *)args->weight.data + panel * pairs * 2 * POLAR_PANEL;
    const int64_t first = panel * POLAR_PANEL;
    const int64_t valid = args->weight.outputs - first < POLAR_PANEL ? args->weight.outputs - first : POLAR_PANEL;
    float *out = args->out + row_low * args->out_stride + first;
    // The last panel may be wider than the output: it is computed aside.
    float *c = valid < POLAR_PANEL ? edge : out;
    const int64_t cs = valid < POLAR_PANEL ? POLAR_PANEL : args->out_stride;
    float bias[POLAR_PANEL] = {0};
    if (args->bias)
      for (int64_t j = 0; j < valid; j++) bias[j] = args->bias[first + j];
    // Weights that follow this panel.
    const char *end = (const char *)(w + pairs * 2 * POLAR_PANEL), *behind = panel + 1 < panel_high ? end : next;
    if (rows <= 2) {
      // A single pass over the weights, which come from memory: fetch 4 KiB ahead. Where what follows lies elsewhere, a
      // second, short pass fetches that.
      const int64_t lead = 4096 / (4 * POLAR_PANEL), last = behind != end && pairs > lead ? lead : 0;
      FN(linear_operands) t = {
        .w = w, .x = x, .start = bias, .c = c, .xs = args->x_stride, .cs = cs, .pairs = pairs - last,
        .prefetch = (const char *)(w + lead * 2 * POLAR_PANEL), .step = 4 * POLAR_PANEL};
      stream[rows - 1](&t);
      if (last > 0) {
        t.w = w + t.pairs * 2 * POLAR_PANEL;
        t.x = x + 2 * t.pairs;
        t.start = c;
        t.start_stride = cs;
        t.pairs = last;
        t.prefetch = behind;
        stream[rows - 1](&t);
      }
    } else {
      FN(linear_blocked)(rows, w, x, args->x_stride, bias, c, cs, pairs, behind);
    }
    if (valid < POLAR_PANEL)
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < valid; j++) out[r * args->out_stride + j] = edge[r * POLAR_PANEL + j];
  }
}
