// All kernels with f16 elements; attention for two head dims.
#define POLAR_ELEMENT_F16 1
#include "emulated_prims.h"
#include "registry.h"

namespace {

#include "kernels_table.h"

#include "../../Sources/CPolarCUDA/kernels/attention_decode.cuh"
#include "../../Sources/CPolarCUDA/kernels/attention_prefill.cuh"
namespace d64 {
#define POLAR_HEAD_DIM 64
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d128 {
#define POLAR_HEAD_DIM 128
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}

}  // namespace
