// A planted fault. The window of a layer is one key short.
#define POLAR_MUTATION "window off by one"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

namespace {
int short_window(int length, int window) { return window_start(length, window) + (window > 0 && length > window ? 1 : 0); }
}  // namespace

#define window_start short_window
#include "../mutation_end.h"
