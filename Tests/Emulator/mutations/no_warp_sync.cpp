// A planted fault. No lane waits for the copies of the others.
#define POLAR_MUTATION "missing warp sync"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

#define warp_sync() ((void)0)
#include "../mutation_end.h"
