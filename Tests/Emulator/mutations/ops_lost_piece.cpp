// A planted fault. polar_reduce leaves out the last piece of the sums of the down-projection.
#define POLAR_MUTATION "last piece not added"
#include "../mutation_ops_begin.h"

#define polar_down_splits(count, hidden) (polar_down_splits(count, hidden) - (blockDim.x == POLAR_FLAT_THREADS ? 1 : 0))
#include "../mutation_ops_end.h"
