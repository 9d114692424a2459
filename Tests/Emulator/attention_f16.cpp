// The attention kernels for the head dims that tests use, with f16 elements.
#define POLAR_ELEMENT_F16 1
#include "emulated_prims.h"
#include "registry.h"

namespace {

#include "../../Sources/CPolarCUDA/kernels/attention_decode.cuh"
#include "../../Sources/CPolarCUDA/kernels/attention_prefill.cuh"
#include "../../Sources/CPolarCUDA/kernels/rotary.cuh"

#include "attention_dims.h"

}  // namespace
