// A planted fault. No thread waits for the others of its block.
#define POLAR_MUTATION "missing block sync"
#define POLAR_MUTATE_SELECTIVE 1
#include "../mutation_begin.h"

#define block_sync() ((void)0)
#include "../mutation_end.h"
