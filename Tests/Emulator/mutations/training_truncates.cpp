// A planted fault. Samples are cut off to bf16.
#define POLAR_MUTATION "samples rounded down"
#include "../mutation_training_begin.h"

namespace {
u16 truncated_bits(float x) { return (u16)(float_bits(x) >> 16); }
}  // namespace

#define bf16_bits truncated_bits
#include "../mutation_training_end.h"
