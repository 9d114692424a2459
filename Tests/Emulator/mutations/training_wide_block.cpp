// A planted fault. A last step of fewer columns than a block is not taken.
#define POLAR_MUTATION "last columns left out"
#include "../mutation_training_begin.h"

namespace {
int whole_blocks(const PolarRidgeArgs& args) { return args.n - args.first < POLAR_RIDGE_BLOCK ? 0 : POLAR_RIDGE_BLOCK; }
}  // namespace

#define ridge_width whole_blocks
#include "../mutation_training_end.h"
