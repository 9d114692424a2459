// A planted fault. The down-projection reads the weights of the neuron behind the one in the list.
#define POLAR_MUTATION "next neuron's weights"
#include "../mutation_ops_begin.h"

namespace {
template <int ROWS, int CHUNKS>
void shifted_weights(u8* tile, const u16* weight, const int* rows, int stride, int first, int columns, bool aligned) {
  copy_weights<ROWS, CHUNKS>(tile, weight + (ROWS == POLAR_DOWN_NEURONS ? stride : 0), rows, stride, first, columns, aligned);
}
}  // namespace

#define copy_weights shifted_weights
#include "../mutation_ops_end.h"
