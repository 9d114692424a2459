// A planted fault. Each thread leaves out the first of the entries that it is to look at.
#define POLAR_MUTATION "first of a share left out"
#include "../mutation_ops_begin.h"

namespace {
Share late_share(int n) {
  Share share = thread_share(n);
  if (share.begin < share.end) share.begin++;
  return share;
}
}  // namespace

#define thread_share late_share
#include "../mutation_ops_end.h"
