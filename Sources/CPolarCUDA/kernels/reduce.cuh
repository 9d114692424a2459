// Sums, prefixes and maxima over a block, in a fixed order.
#ifndef POLAR_REDUCE_CUH
#define POLAR_REDUCE_CUH

#include "polar_cuda_kernels.h"
#include "prims.cuh"

/// Exclusive prefix sum of `value` over the threads of a block; `total` is the sum of all.
template <class T>
DEVI T block_prefix(T value, T& total) {
  SHARED_ARRAY(T, sums, 32);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  T inclusive = value;
  for (int d = 1; d < 32; d <<= 1) {
    const T below = lane_up(inclusive, d);
    if (lane >= d) inclusive += below;
  }
  block_sync();  // the array may still be read from an earlier call
  if (lane == 31) sums[warp] = inclusive;
  block_sync();
  T before = 0;
  total = 0;
  for (int w = 0; w < warps; w++) {
    if (w < warp) before += sums[w];
    total += sums[w];
  }
  return before + inclusive - value;
}

/// The sum of `value` over the threads of a block, the same bits in all of them.
DEVI float block_sum(float value) {
  SHARED_ARRAY(float, sums, 32);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  for (int d = 16; d > 0; d >>= 1) value += lane_xor(value, d);
  block_sync();
  if (lane == 0) sums[warp] = value;
  block_sync();
  float total = 0;
  for (int w = 0; w < warps; w++) total += sums[w];
  return total;
}

/// The largest `value` of the threads of a block.
DEVI u64 block_largest(u64 value) {
  SHARED_ARRAY(u64, tops, 32);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  for (int d = 16; d > 0; d >>= 1) {
    const u64 other = lane_xor(value, d);
    value = other > value ? other : value;
  }
  block_sync();
  if (lane == 0) tops[warp] = value;
  block_sync();
  u64 top = 0;
  for (int w = 0; w < warps; w++) top = tops[w] > top ? tops[w] : top;
  return top;
}

/// Whether this block is the last of `blocks` to come here with `counter`, which is zero before and after. The last one sees what
/// all of them wrote before they came.
DEVI bool last_to_arrive(u32* counter, u32 blocks) {
  SHARED_ARRAY(u32, arrived, 1);
  block_sync();
  if (threadIdx.x == 0) {
    device_fence();
    arrived[0] = global_add(counter, 1);
    device_fence();
    if (arrived[0] == blocks - 1) *counter = 0;
  }
  block_sync();
  return arrived[0] == blocks - 1;
}

#endif
