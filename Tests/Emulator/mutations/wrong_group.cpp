// A planted fault. Attention reads the pages of the KV head beside (polar_store_kv, with blocks of 64, writes to the right one).
#define POLAR_MUTATION "wrong KV head"
#define POLAR_MUTATE_SELECTIVE 0
#include "../mutation_begin.h"

namespace {
#include "../../../Sources/CPolarCUDA/kernels/tiles.cuh"

template <int D>
const u8* neighbour_keys(PolarAddress kv, int page, int kv_head, int kv_heads) {
  return page_keys<D>(kv, page, (kv_head + (blockDim.x == 64 ? 0 : 1)) % kv_heads, kv_heads);
}
}  // namespace

#define page_keys neighbour_keys
#include "../mutation_end.h"
