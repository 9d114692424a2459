// A planted fault. Each score is compared with the label of the column beside it.
#define POLAR_MUTATION "label of the neighbour"
#include "../mutation_training_begin.h"

namespace {
bool neighbour_label(PolarAddress labels, int row, int stride, int column) {
  return has_label(labels, row, stride, column ^ 1);
}
}  // namespace

#define has_label neighbour_label
#include "../mutation_training_end.h"
