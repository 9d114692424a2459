// All kernels without a head dim, with f16 elements.
#define POLAR_ELEMENT_F16 1
#include "emulated_prims.h"
#include "registry.h"

namespace {
#include "kernels_table.h"
}
