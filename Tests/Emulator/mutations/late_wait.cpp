// A planted fault. Waits until one group of copies too many is still under way.
#define POLAR_MUTATION "wait-group off by one"
#define POLAR_MUTATE_SELECTIVE 1
#include "../mutation_begin.h"

namespace {
template <int PENDING>
void late_wait() {
  copy_wait<PENDING + 1>();
}
}  // namespace

#define copy_wait late_wait
#include "../mutation_end.h"
