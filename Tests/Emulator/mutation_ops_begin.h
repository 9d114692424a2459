// Begins a file that plants a fault in the kernels of all ops but attention and training: what comes before it.
#define POLAR_ELEMENT_F16 0
#include "emulated_prims.h"
#include "registry.h"

namespace {
#include "../../Sources/CPolarCUDA/kernels/select.cuh"
#include "../../Sources/CPolarCUDA/kernels/gemm.cuh"
}  // namespace
