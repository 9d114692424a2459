// A planted fault. Keys behind the end of a sequence count.
#define POLAR_MUTATION "tail mask dropped"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

#define key_is_seen(key, start, length) ((key) >= (start))
#include "../mutation_end.h"
