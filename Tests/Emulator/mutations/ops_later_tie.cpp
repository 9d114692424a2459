// A planted fault. Of units with the same score the later one is chosen.
#define POLAR_MUTATION "ties to the higher index"
#include "../mutation_ops_begin.h"

namespace {
void choose_later(u8* mask, const float* scores, int units, int heads, bool above, int k, float threshold) {
  for (int unit = threadIdx.x & 31; unit < units; unit += 32) {
    int rank = 0;
    for (int i = 0; i < units; i++) rank += scores[i] > scores[unit] || (scores[i] == scores[unit] && i > unit) ? 1 : 0;
    for (int h = 0; h < heads; h++) mask[unit * heads + h] = above ? scores[unit] > threshold : rank < k;
  }
}
}  // namespace

#define choose_units choose_later
#include "../mutation_ops_end.h"
