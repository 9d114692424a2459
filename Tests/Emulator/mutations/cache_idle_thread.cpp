// A planted fault. Thread 1 of every block that writes K and V does the work of thread 0 instead of its own.
#define POLAR_MUTATION "idle thread"
#define POLAR_ELEMENT_F16 0
#include "../emulated_prims.h"
#include "../registry.h"

namespace {
emulator::Dimensions doubled_thread() {
  emulator::Dimensions thread = emulator::machine->current->thread;
  if (thread.x == 1) thread.x = 0;
  return thread;
}

#undef threadIdx
#define threadIdx (doubled_thread())
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
