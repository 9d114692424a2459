// A planted fault. The ring of copies has one slot too few.
#define POLAR_MUTATION "ring wraps early"
#define POLAR_MUTATE_SELECTIVE 1
#include "../mutation_begin.h"

namespace {
template <int STAGES>
int early_stage(int stage) {
  return stage + 2 >= STAGES ? 0 : stage + 1;
}
}  // namespace

#define next_stage early_stage
#include "../mutation_end.h"
