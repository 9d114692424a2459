// A planted fault. Of the 64 bits of a word of the union only the lower half is counted.
#define POLAR_MUTATION "half a word counted"
#include "../mutation_ops_begin.h"

namespace {
int half_count(u64 value) { return bit_count(value & 0xffffffffu); }
}  // namespace

#define bit_count half_count
#include "../mutation_ops_end.h"
