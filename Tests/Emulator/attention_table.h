// Registers the attention kernels for POLAR_HEAD_DIM. Included once per head dim, in a namespace of its own.
#include "../../Sources/CPolarCUDA/kernels/attention.cu"

#define POLAR_ENTRY(name, args) POLAR_EMULATED(POLAR_HEAD_DIM, name, args)
constexpr emulator::Kernel table[] = {
    POLAR_ENTRY(polar_attention_plan, PolarAttentionPlanArgs)
    POLAR_ENTRY(polar_attention_decode, PolarAttentionDecodeArgs)
    POLAR_ENTRY(polar_attention_combine, PolarAttentionCombineArgs)
    POLAR_ENTRY(polar_attention_prefill, PolarAttentionPrefillArgs)
    POLAR_ENTRY(polar_store_kv, PolarStoreKVArgs)
    POLAR_ENTRY(polar_rotary_store_kv, PolarRotaryStoreKVArgs)
};
const emulator::Registration registration(table);
#undef POLAR_ENTRY
