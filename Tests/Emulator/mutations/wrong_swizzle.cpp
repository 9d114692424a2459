// A planted fault. Copies go beside the place where they are read.
#define POLAR_MUTATION "swizzle mismatch"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

namespace {
void misplaced_copy(u8* to, const void* from, int bytes) { copy_async_16((void*)((uintptr_t)to ^ 16), from, bytes); }
}  // namespace

#define copy_async_16 misplaced_copy
#include "../mutation_end.h"
