// A planted fault. Decode leaves partial results one row beside where the merge looks.
#define POLAR_MUTATION "partial slot off by one"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

namespace {
u64 shifted_row(int chunk, int group, int head) {
  return partial_row(chunk, group, head) + (gridDim.y == 1 ? 1 : 0);
}
}  // namespace

#define partial_row shifted_row
#include "../mutation_end.h"
