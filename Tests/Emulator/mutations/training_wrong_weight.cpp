// A planted fault. The weight of inactive neurons goes to the active ones.
#define POLAR_MUTATION "weights of labels swapped"
#include "../mutation_training_begin.h"

namespace {
float swapped_slope(float probability, bool label, float negative_weight) {
  return label ? (probability - 1.f) * negative_weight : probability;
}
}  // namespace

#define weighted_slope swapped_slope
#include "../mutation_training_end.h"
