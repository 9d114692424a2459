// All kernels without a head dim, with bf16 elements.
#define POLAR_ELEMENT_F16 0
#include "emulated_prims.h"
#include "registry.h"

namespace {
#include "kernels_table.h"
}
