// Decode attention: split over chunks of pages, for the (row, KV head) entries that a mask leaves.
#ifndef POLAR_ATTENTION_DECODE_CUH
#define POLAR_ATTENTION_DECODE_CUH

#include "reduce.cuh"
#include "tiles.cuh"

/// The heads of one entry and what they read.
struct Entry {
  int row, kv_head, group, length;
  u32 heads;
  PageList pages;
};

DEVI int row_length(PolarAddress positions, int row) { return ((const int*)positions)[row] + 1; }

DEVI const u8* mask_row(PolarAddress mask, int row, int stride) {
  return mask ? (const u8*)mask + (u64)row * stride : nullptr;
}

/// Entry `index` of the plan; no pages when none of its heads is wanted.
DEVI Entry plan_entry(const PolarAttentionPlanArgs& args, int index) {
  const int kinds = entry_kinds(args.mask, args.fallback);
  const bool local = index % kinds == 1;
  Entry entry;
  entry.row = index / kinds / args.kv_heads;
  entry.kv_head = index / kinds % args.kv_heads;
  entry.group = args.heads / args.kv_heads;
  entry.length = row_length(args.positions, entry.row);
  const u8* mask = mask_row(args.mask, entry.row, args.mask_stride);
  entry.heads = entry_heads(mask ? mask + entry.kv_head * entry.group : nullptr, entry.group, local);
  entry.pages = page_list(entry.length, args.window, local, args.sink_pages, args.recent_pages);
  if (entry.heads == 0) entry.pages.count = 0;
  return entry;
}

DEVI void attention_plan(const PolarAttentionPlanArgs& args) {
  const int entries = args.rows * args.kv_heads * entry_kinds(args.mask, args.fallback);
  const int share = POLAR_CEIL_DIV(entries, (int)blockDim.x);
  const int begin = (int)threadIdx.x * share;
  const int end = begin + share < entries ? begin + share : entries;
  int chunks = 0, pages = 0;
  for (int e = begin; e < end; e++) {
    const int count = plan_entry(args, e).pages.count;
    chunks += POLAR_CEIL_DIV(count, POLAR_CHUNK_PAGES);
    pages += count;
  }
  int all_chunks, all_pages;
  int chunk = block_prefix(chunks, all_chunks);
  int page = block_prefix(pages, all_pages);

  int* first = (int*)args.first_chunk;
  int* ranges = (int*)args.ranges;
  PolarAttentionChunk* list = (PolarAttentionChunk*)args.chunks;
  for (int e = begin; e < end; e++) {
    first[e] = chunk;
    const Entry entry = plan_entry(args, e);
    const int count = entry.pages.count, pieces = POLAR_CEIL_DIV(count, POLAR_CHUNK_PAGES);
    const bool local = entry_kinds(args.mask, args.fallback) == 2 && e % 2 == 1;
    for (int c = 0; c < pieces; c++) {
      list[chunk] = {entry.row, entry.kv_head + (local ? POLAR_LOCAL_ENTRY : 0), c, pieces};
      const int left = count - c * POLAR_CHUNK_PAGES;
      const int size = left < POLAR_CHUNK_PAGES ? left : POLAR_CHUNK_PAGES;
      // A chunk belongs to the block in whose equal share of all pages it starts.
      const int owner = (int)((u64)page * args.blocks / all_pages);
      const int next = (int)((u64)(page + size) * args.blocks / all_pages);
      chunk++;
      for (int b = owner + 1; b <= next; b++) ranges[b] = chunk;
      page += size;
    }
  }
  if (threadIdx.x == 0) {
    first[entries] = all_chunks;
    ranges[0] = 0;
    if (all_chunks == 0) {
      for (int b = 1; b <= args.blocks; b++) ranges[b] = 0;
    }
  }
}

/// Adds the heads that are computed in full, and the rows, to the tally. Padding rows count for neither.
DEVI void attention_tally(const PolarAttentionPlanArgs& args) {
  int heads = 0, rows = 0, all_heads, all_rows;
  for (int i = threadIdx.x; i < args.rows * args.kv_heads; i += blockDim.x) {
    const Entry entry = plan_entry(args, i * entry_kinds(args.mask, args.fallback));
    if (entry.length <= 0) continue;
    heads += bit_count(entry.heads);
    rows += entry.kv_head == 0 ? 1 : 0;
  }
  block_prefix(heads, all_heads);
  block_prefix(rows, all_rows);
  if (threadIdx.x == 0) {
    ((u64*)args.tally)[0] += all_heads;
    ((u64*)args.tally)[1] += all_rows;
  }
}

template <int D>
struct DecodeShape {
  static constexpr int TILE = POLAR_TILE_DIM(D);
  static constexpr int WARPS = POLAR_DECODE_WARPS(D), STAGES = POLAR_DECODE_STAGES(D);
  static constexpr int PAGE = POLAR_PAGE_TOKENS * POLAR_TILE_PITCH(D);  // bytes of K or of V of a page
  static constexpr int RING = STAGES * 2 * PAGE;                         // bytes of a warp's ring
  static constexpr bool QUERY_SHARED = D > 128;
  static constexpr int QUERY = QUERY_SHARED ? 16 * POLAR_TILE_PITCH(D) : 0;
  // After a chunk each warp leaves its result in its own ring: 16 rows of floats, then 16 pairs (largest, sum).
  static constexpr int PITCH = TILE + 8;  // rows in different banks
  static_assert(16 * PITCH * 4 + 16 * 8 <= RING, "a warp's result fits its ring");
};

/// One warp's copies of K and V of page `page` into ring slot `slot`.
template <int D>
DEVI void copy_page(u8* ring, int slot, const PolarAttentionDecodeArgs& args, int kv_head, int page, int first, int last, int lane) {
  using Shape = DecodeShape<D>;
  const u8* keys = page_keys<D>(args.kv, page, kv_head, args.kv_heads);
  const u8* values = keys + (u64)args.kv_heads * page_bytes<D>;
  u8* to = ring + slot * 2 * Shape::PAGE;
  copy_tokens<D>(to, 0, keys, POLAR_PAGE_TOKENS, first, last, lane, 32);
  copy_tokens<D>(to + Shape::PAGE, 0, values, POLAR_PAGE_TOKENS, first, last, lane, 32);
}

/// The operand registers of the query tile: from memory, or where it does not fit, from shared memory at each use.
template <int D, bool SHARED>
struct QueryTile {
  u32 fragments[POLAR_TILE_DIM(D) / 16][4];

  DEVI_MEMBER void load(const PolarAttentionDecodeArgs& args, const Entry& entry, u8*, int lane) {
    const float* query =
        (const float*)args.query + (u64)entry.row * args.query_stride + entry.kv_head * entry.group * D;
    const int row = lane >> 2, column = (lane & 3) * 2;
    const bool low = entry.heads >> row & 1, high = entry.heads >> (row + 8) & 1;
#pragma unroll
    for (int k = 0; k < POLAR_TILE_DIM(D) / 16; k++) {
      fragments[k][0] = query_pair<D>(query + row * D, k * 16 + column, low);
      fragments[k][1] = query_pair<D>(query + (row + 8) * D, k * 16 + column, high);
      fragments[k][2] = query_pair<D>(query + row * D, k * 16 + column + 8, low);
      fragments[k][3] = query_pair<D>(query + (row + 8) * D, k * 16 + column + 8, high);
    }
  }
  DEVI_MEMBER void fragment(u32 (&q)[4], int step, int) const {
#pragma unroll
    for (int i = 0; i < 4; i++) q[i] = fragments[step][i];
  }
};

template <int D>
struct QueryTile<D, true> {
  const u8* tile;

  DEVI_MEMBER void load(const PolarAttentionDecodeArgs& args, const Entry& entry, u8* shared, int) {
    const float* query =
        (const float*)args.query + (u64)entry.row * args.query_stride + entry.kv_head * entry.group * D;
    for (int i = threadIdx.x; i < 16 * POLAR_TILE_DIM(D) / 2; i += blockDim.x) {
      const int row = i / (POLAR_TILE_DIM(D) / 2), column = i % (POLAR_TILE_DIM(D) / 2) * 2;
      *(u32*)(shared + tile_offset<D>(row, column / 8) + column % 8 * 2) =
          query_pair<D>(query + row * D, column, entry.heads >> row & 1);
    }
    tile = shared;
    block_sync();
  }
  DEVI_MEMBER void fragment(u32 (&q)[4], int step, int lane) const {
    load_matrices(q, tile + tile_offset<D>(lane & 15, step * 2 + (lane >> 4)));
  }
};

/// One warp's share of a chunk: pages `warp`, `warp + WARPS`, ... of it.
template <int D>
DEVI void attend_pages(
    float (&o)[POLAR_TILE_DIM(D) / 8][4], RunningSoftmax& softmax, const PolarAttentionDecodeArgs& args, const Entry& entry,
    int begin, int end, u8* shared, int warp, int lane) {
  using Shape = DecodeShape<D>;
  const int* table = (const int*)args.tables + (u64)entry.row * args.table_stride;
  u8* ring = shared + Shape::QUERY + warp * Shape::RING;
  const int start = window_start(entry.length, args.window);

  auto copy = [&](int index, int slot) {
    if (index < end) {
      const int page = entry.pages.page(index), token = page * POLAR_PAGE_TOKENS;
      copy_page<D>(ring, slot, args, entry.kv_head, table[page], start - token, entry.length - token, lane);
    }
    copy_commit();
  };
  const int mine = begin + warp;
#pragma unroll
  for (int s = 0; s < Shape::STAGES - 1; s++) copy(mine + s * Shape::WARPS, s);

  // The query is read while the first pages are on their way.
  QueryTile<D, Shape::QUERY_SHARED> query;
  query.load(args, entry, shared, lane);
#pragma unroll
  for (int i = 0; i < Shape::TILE / 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
  softmax.reset();

  const float scale = args.scale * POLAR_LOG2E;
  int slot = 0, fill = Shape::STAGES - 1;
  for (int index = mine; index < end; index += Shape::WARPS) {
    copy(index + (Shape::STAGES - 1) * Shape::WARPS, fill);
    copy_wait<Shape::STAGES - 1>();
    warp_sync();  // now the other lanes' copies are here, too
    const u8* keys = ring + slot * 2 * Shape::PAGE;
    float s[2][4] = {};
#pragma unroll
    for (int k = 0; k < Shape::TILE / 16; k++) {
      u32 q[4];
      query.fragment(q, k, lane);
      score_keys<D>(s, q, keys, 0, k, lane);
    }
    const int token = entry.pages.page(index) * POLAR_PAGE_TOKENS + (lane & 3) * 2;
#pragma unroll
    for (int j = 0; j < 2; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int key = token + j * 8 + (e & 1);
        s[j][e] = key_is_seen(key, start, entry.length) ? s[j][e] * scale : POLAR_MINUS_INFINITY;
      }
    }
    float factor[2];
    softmax.add<2>(s, factor);
#pragma unroll
    for (int i = 0; i < Shape::TILE / 8; i++) {
      o[i][0] *= factor[0], o[i][1] *= factor[0];
      o[i][2] *= factor[1], o[i][3] *= factor[1];
    }
    const u32 weights[4] = {
        pack_elements(s[0][0], s[0][1]), pack_elements(s[0][2], s[0][3]),
        pack_elements(s[1][0], s[1][1]), pack_elements(s[1][2], s[1][3])};
    add_values<D>(o, weights, keys + Shape::PAGE, 0, lane);
    warp_sync();  // the slot is free
    slot = next_stage<Shape::STAGES>(slot);
    fill = next_stage<Shape::STAGES>(fill);
  }
  copy_wait<0>();
  softmax.finish();
}

/// Merges the warps' results of a chunk in warp order and writes them out.
template <int D>
DEVI void write_chunk(
    const float (&o)[POLAR_TILE_DIM(D) / 8][4], const RunningSoftmax& softmax, const PolarAttentionDecodeArgs& args,
    const Entry& entry, int slot, bool whole, u8* shared, int warp, int lane) {
  using Shape = DecodeShape<D>;
  u8* rings = shared + Shape::QUERY;
  float* mine = (float*)(rings + warp * Shape::RING);
  const int row = lane >> 2, column = (lane & 3) * 2;
  warp_sync();  // all lanes are done with the ring
#pragma unroll
  for (int i = 0; i < Shape::TILE / 8; i++) {
    float* low = mine + row * Shape::PITCH + i * 8 + column;
    float* high = low + 8 * Shape::PITCH;
    low[0] = o[i][0], low[1] = o[i][1];
    high[0] = o[i][2], high[1] = o[i][3];
  }
  if ((lane & 3) == 0) {
    float* sums = mine + 16 * Shape::PITCH;
    sums[row * 2] = softmax.largest[0], sums[row * 2 + 1] = softmax.sum[0];
    sums[row * 2 + 16] = softmax.largest[1], sums[row * 2 + 17] = softmax.sum[1];
  }
  block_sync();
  float* out = (float*)args.out + (u64)entry.row * args.out_stride + entry.kv_head * entry.group * D;
  for (int i = threadIdx.x; i < entry.group * D; i += blockDim.x) {
    const int head = i / D, d = i % D;
    if (!(entry.heads >> head & 1)) continue;
    float largest = POLAR_MINUS_INFINITY, sum = 0, value = 0;
#pragma unroll
    for (int w = 0; w < Shape::WARPS; w++) {
      largest = fmaxf(largest, ((const float*)(rings + w * Shape::RING))[16 * Shape::PITCH + head * 2]);
    }
#pragma unroll
    for (int w = 0; w < Shape::WARPS; w++) {
      const float* result = (const float*)(rings + w * Shape::RING);
      const float factor = fast_exp2(result[16 * Shape::PITCH + head * 2] - largest);
      sum += result[16 * Shape::PITCH + head * 2 + 1] * factor;
      value += result[head * Shape::PITCH + d] * factor;
    }
    if (whole) {
      out[i] = value / sum;
    } else {
      ((float*)args.partial_out)[partial_row(slot, entry.group, head) * D + d] = value;
      if (d == 0) {
        float* sums = (float*)args.partial_sums + partial_row(slot, entry.group, head) * 2;
        sums[0] = largest, sums[1] = sum;
      }
    }
  }
  block_sync();  // the rings may be filled again
}

template <int D>
DEVI void attention_decode(const PolarAttentionDecodeArgs& args) {
  SHARED_MEMORY(shared);
  using Shape = DecodeShape<D>;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int* ranges = (const int*)args.ranges;
  const int last = ranges[blockIdx.x + 1];
  for (int slot = ranges[blockIdx.x]; slot < last; slot++) {
    const PolarAttentionChunk chunk = ((const PolarAttentionChunk*)args.chunks)[slot];
    const bool local = chunk.kv_head >= POLAR_LOCAL_ENTRY;
    Entry entry;
    entry.row = chunk.row;
    entry.kv_head = local ? chunk.kv_head - POLAR_LOCAL_ENTRY : chunk.kv_head;
    entry.group = args.heads / args.kv_heads;
    entry.length = row_length(args.positions, entry.row);
    const u8* mask = mask_row(args.mask, entry.row, args.mask_stride);
    entry.heads = entry_heads(mask ? mask + entry.kv_head * entry.group : nullptr, entry.group, local);
    entry.pages = page_list(entry.length, args.window, local, args.sink_pages, args.recent_pages);
    const int begin = chunk.chunk * POLAR_CHUNK_PAGES;
    const int end = begin + POLAR_CHUNK_PAGES < entry.pages.count ? begin + POLAR_CHUNK_PAGES : entry.pages.count;
    float o[Shape::TILE / 8][4];
    RunningSoftmax softmax;
    attend_pages<D>(o, softmax, args, entry, begin, end, shared, warp, lane);
    write_chunk<D>(o, softmax, args, entry, slot, chunk.chunks == 1, shared, warp, lane);
  }
}

/// Merges the chunks of each entry, in order, and fills in what no chunk has written.
template <int D>
DEVI void attention_combine(const PolarAttentionCombineArgs& args) {
  const int row = blockIdx.y, kv_head = blockIdx.x, group = args.heads / args.kv_heads;
  const int kinds = entry_kinds(args.mask, args.fallback);
  const int length = row_length(args.positions, row);
  const u8* mask = mask_row(args.mask, row, args.mask_stride);
  const int* first = (const int*)args.first_chunk + (row * args.kv_heads + kv_head) * kinds;
  float* out = (float*)args.out + (u64)row * args.out_stride + kv_head * group * D;
  for (int i = threadIdx.x; i < group * D; i += blockDim.x) {
    const int head = i / D, d = i % D, query_head = kv_head * group + head;
    const bool selected = mask == nullptr || mask[query_head] != 0;
    if (length <= 0) {
      out[i] = 0;
    } else if (selected || kinds == 2) {
      const int begin = first[selected ? 0 : 1], end = first[selected ? 1 : 2];
      if (end - begin == 1) continue;  // written already
      // A local set of no pages has no chunk: its output is zero.
      float largest = POLAR_MINUS_INFINITY, sum = 0, value = 0;
      for (int c = begin; c < end; c++) {
        largest = fmaxf(largest, ((const float*)args.partial_sums)[partial_row(c, group, head) * 2]);
      }
      for (int c = begin; c < end; c++) {
        const float* sums = (const float*)args.partial_sums + partial_row(c, group, head) * 2;
        const float factor = fast_exp2(sums[0] - largest);
        sum += sums[1] * factor;
        value += ((const float*)args.partial_out)[partial_row(c, group, head) * D + d] * factor;
      }
      out[i] = sum > 0 ? value / sum : 0;
    } else if (args.fallback == POLAR_FALLBACK_CONSTANT) {
      out[i] = ((const float*)args.values)[(u64)query_head * args.values_stride + d];
    } else if (args.fallback == POLAR_FALLBACK_COMPUTED) {
      out[i] = ((const float*)args.values)[(u64)row * args.values_stride + query_head * D + d];
    } else {
      out[i] = 0;
    }
  }
}

#endif
