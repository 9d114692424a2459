// Attention kernels of one head dim, POLAR_HEAD_DIM.
#include "attention_decode.cuh"
#include "attention_prefill.cuh"
#include "rotary.cuh"

KERNEL(POLAR_PLAN_THREADS) polar_attention_plan(ARGS(PolarAttentionPlanArgs) args) {
  attention_plan(args);
  if (args.tally) attention_tally(args);
}

RESIDENT_KERNEL(POLAR_DECODE_THREADS(POLAR_HEAD_DIM), 2) polar_attention_decode(ARGS(PolarAttentionDecodeArgs) args) {
  attention_decode<POLAR_HEAD_DIM>(args);
}

KERNEL(POLAR_COMBINE_THREADS) polar_attention_combine(ARGS(PolarAttentionCombineArgs) args) {
  attention_combine<POLAR_HEAD_DIM>(args);
}

RESIDENT_KERNEL(POLAR_PREFILL_THREADS, POLAR_HEAD_DIM > 128 ? 1 : 2) polar_attention_prefill(ARGS(PolarAttentionPrefillArgs) args) {
  attention_prefill<POLAR_HEAD_DIM>(args);
}

KERNEL(64) polar_store_kv(ARGS(PolarStoreKVArgs) args) {
  constexpr int D = POLAR_HEAD_DIM;
  const int row = blockIdx.x, kv_head = blockIdx.y;
  const int slot = ((const int*)args.slots)[row];
  if (slot < 0) return;
  u8* keys = (u8*)page_keys<D>(args.kv, slot / POLAR_PAGE_TOKENS, kv_head, args.kv_heads) + slot % POLAR_PAGE_TOKENS * D * 2;
  u8* values = keys + (u64)args.kv_heads * page_bytes<D>;
  const float* key = (const float*)args.key + (u64)row * args.key_stride + kv_head * D;
  const float* value = (const float*)args.value + (u64)row * args.value_stride + kv_head * D;
  for (int i = threadIdx.x * 2; i < D; i += blockDim.x * 2) {
    *(u32*)(keys + i * 2) = pack_elements(key[i], key[i + 1]);
    *(u32*)(values + i * 2) = pack_elements(value[i], value[i + 1]);
  }
}

/// The query heads of a group, its key and its value. A pair's angle is the same in all of them.
KERNEL(64) polar_rotary_store_kv(ARGS(PolarRotaryStoreKVArgs) args) {
  constexpr int D = POLAR_HEAD_DIM, half = D / 2;
  const int row = blockIdx.x, kv_head = blockIdx.y;
  const int slot = ((const int*)args.slots)[row];
  if (slot < 0) return;
  u16* keys = (u16*)page_keys<D>(args.kv, slot / POLAR_PAGE_TOKENS, kv_head, args.kv_heads) + slot % POLAR_PAGE_TOKENS * D;
  u16* values = keys + (u64)args.kv_heads * (page_bytes<D> / 2);
  const int group = args.heads / args.kv_heads;
  float* queries = (float*)args.x + (u64)row * args.x_stride + kv_head * group * D;
  const float* key = (const float*)args.x + (u64)row * args.x_stride + (args.heads + kv_head) * D;
  const float* value = key + args.kv_heads * D;
  const float position = (float)((const int*)args.positions)[row];
  int angle_of = -1;
  float sine = 0, cosine = 0;
  for (int i = threadIdx.x; i < (group + 1) * half; i += blockDim.x) {
    const int j = i % half, head = i / half;
    if (j != angle_of) {
      sine_cosine(position * ((const float*)args.inverse_frequencies)[j], sine, cosine);
      angle_of = j;
    }
    const float* vector = head < group ? queries + head * D : key;
    const float a = vector[j], b = vector[j + half];
    const float low = a * cosine - b * sine, high = b * cosine + a * sine;
    if (head < group) {
      queries[head * D + j] = low;
      queries[head * D + j + half] = high;
    } else {
      keys[j] = (u16)pack_elements(low, 0.f);
      keys[j + half] = (u16)pack_elements(high, 0.f);
    }
  }
  for (int i = threadIdx.x; i < D; i += blockDim.x) values[i] = (u16)pack_elements(value[i], 0.f);
}
