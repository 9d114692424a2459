// Ends a file that plants a fault: the kernels, with it.
namespace {

#include "../../Sources/CPolarCUDA/kernels/attention_decode.cuh"
#include "../../Sources/CPolarCUDA/kernels/attention_prefill.cuh"
#include "../../Sources/CPolarCUDA/kernels/rotary.cuh"
namespace d64 {
#define POLAR_HEAD_DIM 64
#include "attention_table.h"
}  // namespace d64

#if POLAR_MUTATE_SELECTIVE
namespace selective {
#include "../../Sources/CPolarCUDA/kernels/selective.cu"
constexpr emulator::Kernel table[] = {
    POLAR_EMULATED(0, polar_selective_up_8, PolarSelectiveUpArgs)
    POLAR_EMULATED(0, polar_selective_finish, PolarSelectiveUpArgs)
    POLAR_EMULATED(0, polar_selective_down_8, PolarSelectiveDownArgs)
};
const emulator::Registration registration(table);
}  // namespace selective
#endif

}  // namespace
