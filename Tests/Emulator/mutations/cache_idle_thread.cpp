// A planted fault: an idle thread, in the kernels that write K and V.
#include "../mutation_idle_thread.h"

namespace {
#include "../../../Sources/CPolarCUDA/kernels/attention_decode.cuh"
#include "../../../Sources/CPolarCUDA/kernels/attention_prefill.cuh"
#include "../../../Sources/CPolarCUDA/kernels/rotary.cuh"

namespace d64 {
#define POLAR_HEAD_DIM 64
#include "../../../Sources/CPolarCUDA/kernels/attention.cu"
constexpr emulator::Kernel table[] = {
    POLAR_EMULATED(64, polar_store_kv, PolarStoreKVArgs)
    POLAR_EMULATED(64, polar_rotary_store_kv, PolarRotaryStoreKVArgs)
};
const emulator::Registration registration(table);
}  // namespace d64
}  // namespace
