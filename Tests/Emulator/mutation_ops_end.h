// Ends a file that plants a fault in the kernels of all ops but attention and training: the kernels, with it.
namespace {

#include "../../Sources/CPolarCUDA/kernels/dense.cu"
#include "../../Sources/CPolarCUDA/kernels/linear.cu"
#include "../../Sources/CPolarCUDA/kernels/selective.cu"
#include "../../Sources/CPolarCUDA/kernels/routing.cu"
#include "../../Sources/CPolarCUDA/kernels/router.cu"

#define POLAR_ENTRY(file, name, args) POLAR_ENTRY_##file(name, args)
#define POLAR_ENTRY_attention(name, args)
#define POLAR_ENTRY_training(name, args)
#define POLAR_ENTRY_dense(name, args) POLAR_EMULATED(0, name, args)
#define POLAR_ENTRY_linear(name, args) POLAR_EMULATED(0, name, args)
#define POLAR_ENTRY_selective(name, args) POLAR_EMULATED(0, name, args)
#define POLAR_ENTRY_routing(name, args) POLAR_EMULATED(0, name, args)
#define POLAR_ENTRY_router(name, args) POLAR_EMULATED(0, name, args)
constexpr emulator::Kernel table[] = {POLAR_CUDA_KERNELS(POLAR_ENTRY)};
const emulator::Registration registration(table);

}  // namespace
