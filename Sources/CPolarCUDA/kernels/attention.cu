// Attention kernels of one head dim, POLAR_HEAD_DIM.
#include "attention_decode.cuh"
#include "attention_prefill.cuh"

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
