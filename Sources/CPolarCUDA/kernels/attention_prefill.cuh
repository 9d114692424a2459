// Prefill attention: 64 packed rows (token, head of the group) against tiles of keys, with the softmax carried along.
#ifndef POLAR_ATTENTION_PREFILL_CUH
#define POLAR_ATTENTION_PREFILL_CUH

#include "tiles.cuh"

template <int D>
struct PrefillShape {
  static constexpr int TILE = POLAR_TILE_DIM(D), KEYS = POLAR_PREFILL_KEYS(D);
  static constexpr int PAGES = KEYS / POLAR_PAGE_TOKENS;
  static constexpr int QUERY = POLAR_PREFILL_ROWS * POLAR_TILE_PITCH(D);
  static constexpr int HALF = KEYS * POLAR_TILE_PITCH(D);  // bytes of the K or the V tile of a stage
};

/// A run of rows of one sequence in a tile: tokens `begin` ..< `end` of the batch, ascending positions.
struct Run {
  int begin, end;
  int low, high;  // positions of the first and the last
  const int* table;
};

/// Which keys the rows of a run see between them: what no row sees is not read.
struct RunKeys {
  int start;                      // the first position in the window of the run's first row
  int end;                        // one past the last row's position
  bool local;
  int sink_pages, recent_page;    // local: pages below the one, and from the other on

  DEVI_MEMBER bool wants_page(int page) const {
    return page * POLAR_PAGE_TOKENS < end && (page + 1) * POLAR_PAGE_TOKENS > start &&
           (!local || page < sink_pages || page >= recent_page);
  }
  template <int PAGES>
  DEVI_MEMBER bool wants_tile(int tile) const {
    for (int i = 0; i < PAGES; i++) {
      if (wants_page(tile * PAGES + i)) return true;
    }
    return false;
  }
  /// The first tile from `tile` on that is wanted; `tiles` when there is none.
  template <int PAGES>
  DEVI_MEMBER int next_tile(int tile, int tiles) const {
    while (tile < tiles && !wants_tile<PAGES>(tile)) tile++;
    return tile;
  }
};

DEVI RunKeys run_keys(const PolarAttentionPrefillArgs& args, const Run& run) {
  RunKeys keys;
  keys.start = window_start(run.low + 1, args.window);
  keys.end = run.high + 1;
  keys.local = args.local != 0;
  keys.sink_pages = args.sink_pages;
  keys.recent_page = run.low / POLAR_PAGE_TOKENS + 1 - args.recent_pages;
  return keys;
}

/// Whether the row at `position` sees the key.
DEVI bool row_sees(const PolarAttentionPrefillArgs& args, int position, int key) {
  if (!key_is_seen(key, window_start(position + 1, args.window), position + 1)) return false;
  if (!args.local) return true;
  const int page = key / POLAR_PAGE_TOKENS;
  return page < args.sink_pages || page > position / POLAR_PAGE_TOKENS - args.recent_pages;
}

/// All threads: starts the copies of tile `tile` of K and V into a stage.
template <int D>
DEVI void copy_key_tile(u8* stage, const PolarAttentionPrefillArgs& args, const Run& run, const RunKeys& keys, int kv_head, int tile) {
  using Shape = PrefillShape<D>;
#pragma unroll
  for (int i = 0; i < Shape::PAGES; i++) {
    const int page = tile * Shape::PAGES + i, token = page * POLAR_PAGE_TOKENS;
    const bool wanted = keys.wants_page(page);
    const u8* from = page_keys<D>(args.kv, wanted ? run.table[page] : 0, kv_head, args.kv_heads);
    const int last = wanted ? keys.end - token : 0;
    copy_tokens<D>(stage, i * POLAR_PAGE_TOKENS, from, POLAR_PAGE_TOKENS, 0, last, threadIdx.x, blockDim.x);
    copy_tokens<D>(
        stage + Shape::HALF, i * POLAR_PAGE_TOKENS, from + (u64)args.kv_heads * page_bytes<D>, POLAR_PAGE_TOKENS, 0, last,
        threadIdx.x, blockDim.x);
  }
}

/// The packed row of a tile: token of the batch and head of the group; `token` is -1 beyond the tile's rows.
struct PackedRow {
  int token, head;
};

DEVI PackedRow packed_row(int row, int first, int tokens, int group) {
  const int token = row / group;
  return {token < tokens ? first + token : -1, row % group};
}

/// One warp: 16 query rows against one tile of keys.
template <int D>
DEVI void attend_tile(
    float (&o)[POLAR_TILE_DIM(D) / 8][4], RunningSoftmax& softmax, const PolarAttentionPrefillArgs& args, const u8* query,
    const u8* keys, int first_key, const int (&position)[2], int warp, int lane) {
  using Shape = PrefillShape<D>;
  float s[Shape::KEYS / 8][4] = {};
  // Unrolled whole, the addresses of a large head dim would not leave room for its results.
  constexpr int STEPS = D > 128 ? 2 : Shape::TILE / 16;
#pragma unroll STEPS
  for (int k = 0; k < Shape::TILE / 16; k++) {
    u32 q[4];
    load_matrices(q, query + tile_offset<D>(warp * 16 + (lane & 15), k * 2 + (lane >> 4)));
#pragma unroll
    for (int j = 0; j < Shape::KEYS / 16; j++) {
      score_keys<D>(*(float(*)[2][4])s[2 * j], q, keys, j * 16, k, lane);
    }
  }
  const float scale = args.scale * POLAR_LOG2E;
#pragma unroll
  for (int j = 0; j < Shape::KEYS / 8; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int key = first_key + j * 8 + (lane & 3) * 2 + (e & 1);
      s[j][e] = row_sees(args, position[e >> 1], key) ? s[j][e] * scale : POLAR_MINUS_INFINITY;
    }
  }
  float factor[2];
  softmax.add<Shape::KEYS / 8>(s, factor);
#pragma unroll
  for (int i = 0; i < Shape::TILE / 8; i++) {
    o[i][0] *= factor[0], o[i][1] *= factor[0];
    o[i][2] *= factor[1], o[i][3] *= factor[1];
  }
#pragma unroll
  for (int j = 0; j < Shape::KEYS / 16; j++) {
    const u32 weights[4] = {
        pack_elements(s[2 * j][0], s[2 * j][1]), pack_elements(s[2 * j][2], s[2 * j][3]),
        pack_elements(s[2 * j + 1][0], s[2 * j + 1][1]), pack_elements(s[2 * j + 1][2], s[2 * j + 1][3])};
    add_values<D>(o, weights, keys + Shape::HALF, j * 16, lane);
  }
}

template <int D>
DEVI void write_rows(
    const float (&o)[POLAR_TILE_DIM(D) / 8][4], const RunningSoftmax& softmax, const PolarAttentionPrefillArgs& args,
    int kv_head, const PackedRow (&rows)[2], const bool (&in_run)[2], int lane) {
  const int group = args.heads / args.kv_heads;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (!in_run[h]) continue;
    const float scale = softmax.sum[h] > 0 ? 1.f / softmax.sum[h] : 0.f;
    float* out = (float*)args.out + (u64)rows[h].token * args.out_stride + (kv_head * group + rows[h].head) * D;
#pragma unroll
    for (int i = 0; i < POLAR_TILE_DIM(D) / 8; i++) {
      const int column = i * 8 + (lane & 3) * 2;
      if (column >= D) continue;
      out[column] = o[i][2 * h] * scale;
      out[column + 1] = o[i][2 * h + 1] * scale;
    }
  }
}

template <int D>
DEVI void attention_prefill(const PolarAttentionPrefillArgs& args) {
  SHARED_MEMORY(shared);
  using Shape = PrefillShape<D>;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, kv_head = blockIdx.y;
  const int group = args.heads / args.kv_heads, tile_tokens = POLAR_PREFILL_ROWS / group;
  // The last tiles of a sequence have the most keys: they start first.
  const int first = (int)(gridDim.x - 1 - blockIdx.x) * tile_tokens;
  const int tokens = args.rows - first < tile_tokens ? args.rows - first : tile_tokens;
  const int* positions = (const int*)args.positions;
  const int* sequences = (const int*)args.sequences;
  u8* query = shared;
  u8* stages = shared + Shape::QUERY;

  for (int i = threadIdx.x; i < POLAR_PREFILL_ROWS * Shape::TILE / 2; i += blockDim.x) {
    const int row = i / (Shape::TILE / 2), column = i % (Shape::TILE / 2) * 2;
    const PackedRow packed = packed_row(row, first, tokens, group);
    const float* from = (const float*)args.query + (u64)(packed.token < 0 ? 0 : packed.token) * args.query_stride +
                        (kv_head * group + packed.head) * D;
    *(u32*)(query + tile_offset<D>(row, column / 8) + column % 8 * 2) = query_pair<D>(from, column, packed.token >= 0);
  }

  const PackedRow rows[2] = {
      packed_row(warp * 16 + (lane >> 2), first, tokens, group), packed_row(warp * 16 + (lane >> 2) + 8, first, tokens, group)};
  // A row that is not in the tile, and padding, sees no key.
  const int position[2] = {
      rows[0].token < 0 ? -1 : positions[rows[0].token], rows[1].token < 0 ? -1 : positions[rows[1].token]};
  // Tokens of the batch that this warp has rows of.
  const int warp_first = first + warp * 16 / group, warp_last = first + (warp * 16 + 15) / group;

  Run run;
  for (run.begin = first; run.begin < first + tokens; run.begin = run.end) {
    const int sequence = sequences[run.begin];
    run.low = positions[run.begin];
    run.end = run.begin + 1;
    while (run.end < first + tokens && sequences[run.end] == sequence && (positions[run.end] < 0) == (run.low < 0)) run.end++;
    run.high = positions[run.end - 1];
    const bool in_run[2] = {
        rows[0].token >= run.begin && rows[0].token < run.end, rows[1].token >= run.begin && rows[1].token < run.end};
    float o[Shape::TILE / 8][4] = {};
    RunningSoftmax softmax;
    softmax.reset();
    if (run.low >= 0) {
      run.table = (const int*)args.tables + (u64)sequence * args.table_stride;
      const RunKeys keys = run_keys(args, run);
      const int tiles = POLAR_CEIL_DIV(keys.end, Shape::KEYS);
      const bool takes_part = warp_first < run.end && warp_last >= run.begin;
      int tile = keys.next_tile<Shape::PAGES>(keys.start / Shape::KEYS, tiles), stage = 0;
      if (tile < tiles) copy_key_tile<D>(stages, args, run, keys, kv_head, tile);
      copy_commit();
      while (tile < tiles) {
        const int following = keys.next_tile<Shape::PAGES>(tile + 1, tiles);
        if (following < tiles) {
          copy_key_tile<D>(stages + (stage ^ 1) * 2 * Shape::HALF, args, run, keys, kv_head, following);
        }
        copy_commit();
        copy_wait<1>();
        block_sync();  // now the other threads' copies are here, too
        if (takes_part) {
          attend_tile<D>(
              o, softmax, args, query, stages + stage * 2 * Shape::HALF, tile * Shape::KEYS, position, warp, lane);
        }
        block_sync();  // the stage is free
        tile = following;
        stage ^= 1;
      }
      copy_wait<0>();
    }
    softmax.finish();
    write_rows<D>(o, softmax, args, kv_head, rows, in_run, lane);
  }
}

#endif
