// A planted fault. A sum over a block leaves out all warps but the first.
#define POLAR_MUTATION "sum of one warp"
#include "../mutation_training_begin.h"

namespace {
float first_warp_sum(float value) {
  return block_sum(threadIdx.x < 32 ? value : 0.f);
}
}  // namespace

#define block_sum first_warp_sum
#include "../mutation_training_end.h"
