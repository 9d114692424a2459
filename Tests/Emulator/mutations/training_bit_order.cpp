// A planted fault. The first lane of a warp has the highest bit.
#define POLAR_MUTATION "bits packed from the other end"
#include "../mutation_training_begin.h"

namespace {
u32 lanes_reversed(bool value) {
  const u32 lanes = lanes_where(value);
  u32 reversed = 0;
  for (int lane = 0; lane < 32; lane++) reversed |= (lanes >> lane & 1) << (31 - lane);
  return reversed;
}
}  // namespace

#define lanes_where lanes_reversed
#include "../mutation_training_end.h"
