// Begins a file that plants a fault in the kernels of training: what comes before it. The file then redefines a name that they use.
#define POLAR_ELEMENT_F16 0
#include "emulated_prims.h"
#include "registry.h"

namespace {
#include "../../Sources/CPolarCUDA/kernels/reduce.cuh"
#include "../../Sources/CPolarCUDA/kernels/training.cuh"
}  // namespace
