// A planted fault. No thread waits for the others of its block.
#define POLAR_MUTATION "training without block syncs"
#include "../mutation_training_begin.h"

#define block_sync() ((void)0)
#include "../mutation_training_end.h"
