// Which heads and neurons a step computes, what heads contribute, and which token comes next.
#include "select.cuh"

#define POLAR_MINUS_INFINITY bits_float(0xff800000u)

// ---- Unions over the batch ----------------------------------------------------------------------------------------------

KERNEL(POLAR_FLAT_THREADS) polar_union_sums(ARGS(PolarUnionArgs) args) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= args.neurons) return;
  float sum = 0;
  for (int i = 0; i < args.rows; i++) {
    const float score = ((const float*)args.scores)[(u64)i * args.scores_stride + n];
    if (score > 0) sum += score;
  }
  ((float*)args.out)[n] = sum;
}

KERNEL(POLAR_FLAT_THREADS) polar_union_peaks(ARGS(PolarUnionArgs) args) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= args.neurons) return;
  float peak = POLAR_MINUS_INFINITY;
  for (int i = 0; i < args.rows; i++) {
    const float score = ((const float*)args.scores)[(u64)i * args.scores_stride + n];
    if (score > peak) peak = score;
  }
  ((float*)args.out)[n] = peak;
}

/// Writes the indices i of 0 ..< n with `keeps(i)`, ascending, and their count.
template <class Keep>
DEVI void write_list(const PolarListArgs& args, Keep keeps) {
  const Share share = thread_share(args.n);
  int mine = 0, all;
  for (int i = share.begin; i < share.end; i++) mine += keeps(i) ? 1 : 0;
  int place = block_prefix(mine, all);
  for (int i = share.begin; i < share.end; i++) {
    if (keeps(i)) ((int*)args.indices)[place++] = i;
  }
  if (threadIdx.x == 0) *(int*)args.count = all;
}

KERNEL(POLAR_SELECT_THREADS) polar_list_top_k(ARGS(PolarListArgs) args) {
  const float* values = (const float*)args.values;
  auto positive = [&](int i) { return values[i] > 0; };
  // The bits of positive floats are in their order.
  auto key = [&](int i) { return float_bits(values[i]); };
  int mine = 0, all;
  for (int i = threadIdx.x; i < args.n; i += blockDim.x) mine += positive(i) ? 1 : 0;
  block_prefix(mine, all);
  if (args.k <= 0) {
    write_list(args, [](int) { return false; });
  } else if (all <= args.k) {
    write_list(args, positive);
  } else {
    const Cut cut = cut_count(args.n, args.k, key, positive);
    write_list(args, [&](int i) { return positive(i) && cut.keeps(key(i), i); });
  }
}

KERNEL(POLAR_SELECT_THREADS) polar_list_above(ARGS(PolarListArgs) args) {
  const float* values = (const float*)args.values;
  write_list(args, [&](int i) { return values[i] > args.threshold; });
}

// ---- Heads of each row --------------------------------------------------------------------------------------------------

DEVI void choose_row(const PolarSelectArgs& args, bool above) {
  choose_units(
      (u8*)args.mask + (u64)blockIdx.x * args.mask_stride,
      (const float*)args.scores + (u64)blockIdx.x * args.scores_stride, args.units, args.heads_per_unit, above, args.k,
      args.threshold);
}

KERNEL(POLAR_MASK_THREADS) polar_select_top_k(ARGS(PolarSelectArgs) args) { choose_row(args, false); }
KERNEL(POLAR_MASK_THREADS) polar_select_above(ARGS(PolarSelectArgs) args) { choose_row(args, true); }

KERNEL(128) polar_head_norms(ARGS(PolarHeadMeasureArgs) args) {
  const float* vector =
      (const float*)args.attention + (u64)blockIdx.x * args.attention_stride + blockIdx.y * args.head_dim;
  float sum = 0;
  for (int j = threadIdx.x; j < args.head_dim; j += blockDim.x) sum += vector[j] * vector[j];
  sum = block_sum(sum);
  if (threadIdx.x == 0) ((float*)args.out)[(u64)blockIdx.x * args.out_stride + blockIdx.y] = sqrtf(sum);
}

KERNEL(128) polar_head_deviations(ARGS(PolarHeadMeasureArgs) args) {
  SHARED_MEMORY(shared);
  float* d = (float*)shared;
  const int row = blockIdx.x, head = blockIdx.y, n = args.head_dim;
  const float* attention = (const float*)args.attention + (u64)row * args.attention_stride + head * n;
  const float* fallback = (const float*)args.fallback + (u64)row * args.fallback_stride + head * n;
  for (int j = threadIdx.x; j < n; j += blockDim.x) d[j] = args.fallback ? attention[j] - fallback[j] : attention[j];
  block_sync();
  float form = 0;
  for (int i = threadIdx.x; i < n * n; i += blockDim.x) {
    const int a = i / n, b = i % n;
    form += d[a] * ((const float*)args.gram)[(u64)(head * n + a) * args.gram_stride + b] * d[b];
  }
  form = block_sum(form);
  const float* residual = (const float*)args.residual + (u64)row * args.residual_stride;
  float squares = 0;
  for (int j = threadIdx.x; j < args.hidden; j += blockDim.x) squares += residual[j] * residual[j];
  squares = block_sum(squares);
  // Rounding may push a Gram form of nearly nothing below zero.
  if (threadIdx.x == 0) {
    ((float*)args.out)[(u64)row * args.out_stride + head] = sqrtf(fmaxf(form, 0.f)) / sqrtf(squares);
  }
}

// ---- Tokens -------------------------------------------------------------------------------------------------------------

/// The largest logit of a row and the lowest index that has it; index -1 when one is NaN or the largest is not finite.
struct Peak {
  float value;
  int index;
};

DEVI Peak row_peak(const float* logits, int n) {
  // Value in the high half, mapped so that integers are in its order; index in the low half, reversed. A NaN beats all.
  u64 best = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float x = logits[i];
    const u32 bits = float_bits(x == 0 ? 0.f : x);
    const u32 order = x != x ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    const u64 entry = (u64)order << 32 | (0xffffffffu - (u32)i);
    best = entry > best ? entry : best;
  }
  best = block_largest(best);
  const u32 order = (u32)(best >> 32);
  Peak peak;
  peak.value = bits_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
  const bool finite = (float_bits(peak.value) & 0x7f800000u) != 0x7f800000u;
  peak.index = finite ? (int)(0xffffffffu - (u32)best) : -1;
  return peak;
}

KERNEL(POLAR_SELECT_THREADS) polar_argmax(ARGS(PolarSampleArgs) args) {
  const Peak peak = row_peak((const float*)args.logits + (u64)blockIdx.x * args.logits_stride, args.vocabulary);
  if (threadIdx.x == 0) ((int*)args.tokens)[blockIdx.x] = peak.index;
}

/// Weights of tokens relative to the most likely one, and which are still candidates. Sums of weights are in units of 2^-40, as
/// integers, so that they do not depend on an order.
struct Candidates {
  const float* logits;
  float peak, scale, least;
  Cut cut;

  DEVI_MEMBER float weight(int i) const { return fast_exp2((logits[i] - peak) * scale); }
  DEVI_MEMBER u32 key(int i) const { return float_bits(weight(i)); }
  DEVI_MEMBER bool has(int i) const {
    const float w = weight(i);
    return w > 0 && w >= least && cut.keeps(float_bits(w), i);
  }
  DEVI_MEMBER u64 mass(int i) const { return has(i) ? units(weight(i)) : 0; }
  static DEVI_MEMBER u64 units(float weight) { return (u64)(weight * 1099511627776.f); }
};

/// The sum of `amount(i)` over 0 ..< n.
template <class Amount>
DEVI u64 sum_amounts(int n, Amount amount) {
  u64 mine = 0, all;
  for (int i = threadIdx.x; i < n; i += blockDim.x) mine += amount(i);
  block_prefix(mine, all);
  return all;
}

KERNEL(POLAR_SELECT_THREADS) polar_sample(ARGS(PolarSampleArgs) args) {
  const PolarSamplingRow row = ((const PolarSamplingRow*)args.parameters)[blockIdx.x];
  const int n = args.vocabulary;
  Candidates candidates;
  candidates.logits = (const float*)args.logits + (u64)blockIdx.x * args.logits_stride;
  const Peak peak = row_peak(candidates.logits, n);
  int token = peak.index;
  if (peak.index >= 0 && row.temperature > 0) {
    candidates.peak = peak.value;
    candidates.scale = 1.4426950408889634f / row.temperature;
    candidates.least = row.min_p;
    candidates.cut = {0, n};
    auto key = [&](int i) { return candidates.key(i); };
    if (row.top_k > 0 && (u64)row.top_k < sum_amounts(n, [&](int i) { return candidates.has(i) ? 1ull : 0ull; })) {
      candidates.cut = cut_count(n, row.top_k, key, [&](int i) { return candidates.has(i); });
    }
    u64 total = sum_amounts(n, [&](int i) { return candidates.mass(i); });
    if (row.top_p < 1) {
      u64 wanted = (u64)((double)row.top_p * (double)total), above;
      if (wanted < 1) wanted = 1;
      const u32 last = radix_select(n, wanted, key, [&](int i) { return candidates.mass(i); }, above);
      candidates.cut = {
          last, index_reaching(n, wanted - above, [&](int i) { return candidates.key(i) == last ? candidates.mass(i) : 0; })};
      total = sum_amounts(n, [&](int i) { return candidates.mass(i); });
    }
    u64 target = (u64)(row.uniform * (double)total);
    if (target >= total) target = total - 1;
    // The first candidate at which the running sum exceeds the target.
    token = index_reaching(n, target + 1, [&](int i) { return candidates.mass(i); });
  }
  if (threadIdx.x == 0) ((int*)args.tokens)[blockIdx.x] = token;
}
