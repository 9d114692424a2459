// A planted fault. The last block but one completes what the blocks of a router share.
#define POLAR_MUTATION "early block"
#include "../mutation_ops_begin.h"

namespace {
bool early_arrival(u32* counter, u32 blocks) { return last_to_arrive(counter, blocks > 1 ? blocks - 1 : 1); }
}  // namespace

#define last_to_arrive early_arrival
#include "../mutation_ops_end.h"
