// A planted fault. Every head of a group counts as selected.
#define POLAR_MUTATION "head list ignored"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

namespace {
u32 all_heads(const u8*, int group, bool local) { return entry_heads(nullptr, group, local); }
}  // namespace

#define entry_heads all_heads
#include "../mutation_end.h"
