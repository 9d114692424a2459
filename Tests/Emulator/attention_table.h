// Makes `table`, the attention kernels for POLAR_HEAD_DIM, in a namespace of its own. Included once per head dim.
#include "../../Sources/CPolarCUDA/kernels/attention.cu"

#define POLAR_ENTRY(name, args) POLAR_EMULATED(POLAR_HEAD_DIM, nullptr, name, args)
constexpr emulator::Kernel table[] = {
    POLAR_ENTRY(polar_attention_plan, PolarAttentionPlanArgs)
    POLAR_ENTRY(polar_attention_decode, PolarAttentionDecodeArgs)
    POLAR_ENTRY(polar_attention_combine, PolarAttentionCombineArgs)
    POLAR_ENTRY(polar_attention_prefill, PolarAttentionPrefillArgs)
    POLAR_ENTRY(polar_store_kv, PolarStoreKVArgs)
};
#undef POLAR_ENTRY
