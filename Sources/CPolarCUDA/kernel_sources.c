// The kernels' sources, embedded in the executable: what NVRTC compiles. A file ends with a NUL.
#include "polar_cuda.h"

#pragma clang diagnostic ignored "-Wc23-extensions"

static const char arguments[] = {
#embed "include/polar_cuda_kernels.h"
    , 0};

static const struct {
  const char *name;
  const char *text;
} sources[] = {
    {"polar_cuda_kernels.h", arguments},
};

int polar_cuda_source_count(void) { return (int)(sizeof sources / sizeof sources[0]); }
const char *polar_cuda_source_name(int index) { return sources[index].name; }
const char *polar_cuda_source_text(int index) { return sources[index].text; }
