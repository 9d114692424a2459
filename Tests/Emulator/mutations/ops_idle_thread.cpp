// A planted fault: an idle thread, in the kernels of all ops but attention and training.
#include "../mutation_idle_thread.h"
#include "../mutation_ops_end.h"
