// A planted fault. The local set has one recent page too few.
#define POLAR_MUTATION "local pages off by one"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

namespace {
PageList short_list(int length, int window, bool local, int sink_pages, int recent_pages) {
  return page_list(length, window, local, sink_pages, recent_pages - 1);
}
}  // namespace

#define page_list short_list
#include "../mutation_end.h"
