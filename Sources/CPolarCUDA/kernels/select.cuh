// Selection of the largest of many values by one block: a radix select over 32-bit keys, exact and with ties to the lower index.
#ifndef POLAR_SELECT_CUH
#define POLAR_SELECT_CUH

#include "reduce.cuh"

/// What is kept: keys above `key`, and of those equal to it the ones up to `index`.
struct Cut {
  u32 key;
  int index;

  DEVI_MEMBER bool keeps(u32 k, int i) const { return k > key || (k == key && i <= index); }
};

/// The consecutive range of 0 ..< n that belongs to this thread.
struct Share {
  int begin, end;
};

DEVI Share thread_share(int n) {
  const int share = POLAR_CEIL_DIV(n, (int)blockDim.x);
  const int begin = (int)threadIdx.x * share;
  return {begin < n ? begin : n, begin + share < n ? begin + share : n};
}

/// The largest key whose `amount`s of all keys at or above it reach `wanted`; `above` is the amount of the keys above it. The
/// amounts of all keys reach `wanted`. Four passes, a byte each; sums are integers, so that their order does not matter.
template <class Key, class Amount>
DEVI u32 radix_select(int n, u64 wanted, Key key, Amount amount, u64& above) {
  SHARED_ARRAY(u64, sums, 256);
  SHARED_ARRAY(u64, found, 2);  // the digit, and the amount above it
  u32 prefix = 0;
  above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    block_sync();
    if (threadIdx.x < 256) sums[threadIdx.x] = 0;
    block_sync();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      const u32 k = key(i);
      // In the first pass nothing is fixed (a shift by 32 is not defined).
      const bool candidate = shift == 24 || k >> (shift + 8) == prefix >> (shift + 8);
      const u64 weight = candidate ? amount(i) : 0;
      if (weight > 0) shared_add(&sums[k >> shift & 255], weight);
    }
    block_sync();
    // Thread t looks at digit 255 - t: its prefix is the amount above the digit.
    const u64 mine = threadIdx.x < 256 ? sums[255 - threadIdx.x] : 0;
    u64 all;
    const u64 higher = above + block_prefix(mine, all);
    if (mine > 0 && higher < wanted && higher + mine >= wanted) {
      found[0] = 255 - threadIdx.x;
      found[1] = higher;
    }
    block_sync();
    prefix |= (u32)found[0] << shift;
    above = found[1];
  }
  return prefix;
}

/// The first index at which the running sum of `amount(i)` reaches `wanted`, at least 1; the sum of all reaches it.
template <class Amount>
DEVI int index_reaching(int n, u64 wanted, Amount amount) {
  SHARED_ARRAY(int, found, 1);
  const Share share = thread_share(n);
  u64 mine = 0, all;
  for (int i = share.begin; i < share.end; i++) mine += amount(i);
  u64 before = block_prefix(mine, all);
  if (before < wanted && before + mine >= wanted) {
    for (int i = share.begin; i < share.end; i++) {
      before += amount(i);
      if (before >= wanted) {
        found[0] = i;
        break;
      }
    }
  }
  block_sync();
  const int index = found[0];
  block_sync();  // the array may be written again
  return index;
}

/// The cut that keeps the `k` largest of those that `candidate` admits, of which there are at least k.
template <class Key, class Candidate>
DEVI Cut cut_count(int n, int k, Key key, Candidate candidate) {
  u64 above;
  Cut cut;
  cut.key = radix_select(n, (u64)k, key, [&](int i) { return candidate(i) ? 1ull : 0ull; }, above);
  cut.index = index_reaching(n, (u64)k - above, [&](int i) { return candidate(i) && key(i) == cut.key ? 1ull : 0ull; });
  return cut;
}

/// Chooses units of one row, for the lanes of a warp: the `k` largest scores, ties to the lower index, or with `above` those
/// greater than the threshold. A unit is `heads` bytes of the mask.
DEVI void choose_units(u8* mask, const float* scores, int units, int heads, bool above, int k, float threshold) {
  for (int unit = threadIdx.x & 31; unit < units; unit += 32) {
    const float mine = scores[unit];
    int rank = 0;
    for (int i = 0; i < units && !above; i++) {
      const float other = scores[i];
      rank += other > mine || (other == mine && i < unit) ? 1 : 0;
    }
    const bool chosen = above ? mine > threshold : rank < k;
    for (int h = 0; h < heads; h++) mask[unit * heads + h] = chosen ? 1 : 0;
  }
}

#endif
