// Ends a file that plants a fault in the kernels of training: the kernels, with it.
namespace {

#include "../../Sources/CPolarCUDA/kernels/training.cu"

#define POLAR_TRAINING_ENTRY(file, name, args) POLAR_EMULATED(0, name, args)
constexpr emulator::Kernel table[] = {POLAR_CUDA_TRAINING_KERNELS(POLAR_TRAINING_ENTRY)};
const emulator::Registration registration(table);

}  // namespace
