// Index arithmetic of the attention kernels: where tiles lie in shared memory, which pages are read, who owns what.
#ifndef POLAR_GEOMETRY_CUH
#define POLAR_GEOMETRY_CUH

#include "polar_cuda_kernels.h"
#include "prims.cuh"

/// Byte offset of the 16-byte chunk `chunk` of row `row` in a tile of head dim D. Rows of whole 128-byte lines are swizzled, others
/// have a pitch of an odd number of chunks: either way eight consecutive rows of a column lie in different banks.
template <int D>
DEVI u32 tile_offset(int row, int chunk) {
  constexpr bool SWIZZLED = POLAR_TILE_DIM(D) % 64 == 0;
  return (u32)row * POLAR_TILE_PITCH(D) + (u32)((SWIZZLED ? chunk ^ (row & 7) : chunk) << 4);
}

template <int STAGES>
DEVI int next_stage(int stage) {
  return stage + 1 == STAGES ? 0 : stage + 1;
}

/// The pages that an entry reads, ascending: `lead` pages from `first` (the sinks), then those from `tail` to the end.
struct PageList {
  int first, lead, tail, count;
  DEVI_MEMBER int page(int index) const { return index < lead ? first + index : tail + (index - lead); }
};

/// Keys before this position are out of the window of a query with `length` keys (itself included).
DEVI int window_start(int length, int window) { return window > 0 && length > window ? length - window : 0; }

/// Whether a query whose window starts at `start` and that has keys up to `length` sees the key at a position.
DEVI bool key_is_seen(int key, int start, int length) { return key >= start && key < length; }

/// The page list of a row with `length` keys: all pages in the window, or the local ones.
DEVI PageList page_list(int length, int window, bool local, int sink_pages, int recent_pages) {
  const int end = POLAR_CEIL_DIV(length, POLAR_PAGE_TOKENS);
  const int first = window_start(length, window) / POLAR_PAGE_TOKENS;
  PageList list = {first, 0, first, end - first};
  if (local) {
    const int sinks = sink_pages < end ? sink_pages : end;
    list.lead = sinks > first ? sinks - first : 0;
    const int recent = end - recent_pages;
    list.tail = recent > first + list.lead ? recent : first + list.lead;
    list.count = list.lead + end - list.tail;
  }
  return list;
}

/// Bit i is set when head i of the group has a row in the entry: selected heads, or in a local entry the others.
DEVI u32 entry_heads(const u8* mask, int group, bool local) {
  u32 heads = 0;
  for (int i = 0; i < group; i++) {
    const bool selected = mask == nullptr || mask[i] != 0;
    if (selected != local) heads |= 1u << i;
  }
  return heads;
}

/// Entries of a (row, KV head) in the plan.
DEVI int entry_kinds(bool masked, int fallback) { return masked && fallback == POLAR_FALLBACK_LOCAL ? 2 : 1; }

/// Where the partial result of a chunk lies: [chunk][head of the group][head dim], and the sums beside it.
DEVI u64 partial_row(int chunk, int group, int head) { return (u64)chunk * group + head; }

#endif
