// A planted fault. One thread does not come to the barriers of its block.
#define POLAR_MUTATION "block sync in a branch"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

namespace {
void divergent_sync() {
  if (threadIdx.x != 5) block_sync();
}
}  // namespace

#define block_sync divergent_sync
#include "../mutation_end.h"
