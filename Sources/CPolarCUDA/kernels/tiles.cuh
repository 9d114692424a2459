// Copies of K and V pages into shared memory, and the online softmax over tensor-core tiles.
#ifndef POLAR_TILES_CUH
#define POLAR_TILES_CUH

#include "geometry.cuh"

#define POLAR_LOG2E 1.4426950408889634f
#define POLAR_MINUS_INFINITY bits_float(0xff800000u)

/// Bytes of K and of V of one (page, KV head).
template <int D>
constexpr int page_bytes = POLAR_PAGE_TOKENS * D * 2;

/// Where K of a (page, KV head) starts; V is kv_heads * page_bytes further on.
template <int D>
DEVI const u8* page_keys(PolarAddress kv, int page, int kv_head, int kv_heads) {
  return (const u8*)kv + ((u64)page * 2 * kv_heads + kv_head) * page_bytes<D>;
}

/// Starts the copies of `rows` consecutive tokens from `from` to rows `row0` on of a tile, spread over `threads` threads. Tokens
/// out of first ..< last and columns beyond D become zeros.
template <int D>
DEVI void copy_tokens(u8* tile, int row0, const u8* from, int rows, int first, int last, int thread, int threads) {
  // A piece is 16 bytes where rows of the cache allow it, else 4.
  constexpr int PIECE = D % 8 == 0 ? 16 : 4;
  constexpr int PIECES = POLAR_TILE_DIM(D) * 2 / PIECE;
  for (int i = thread; i < rows * PIECES; i += threads) {
    const int token = i / PIECES, piece = i % PIECES;
    const bool valid = token >= first && token < last && piece < D * 2 / PIECE;
    const u8* source = valid ? from + token * D * 2 + piece * PIECE : from;
    if (PIECE == 16) {
      copy_async_16(tile + tile_offset<D>(row0 + token, piece), source, valid ? 16 : 0);
    } else {
      copy_async_4(tile + tile_offset<D>(row0 + token, piece / 4) + piece % 4 * 4, source, valid ? 4 : 0);
    }
  }
}

/// Two elements of a query, f32 in memory, as one operand register; zero where not `valid`.
template <int D>
DEVI u32 query_pair(const float* row, int column, bool valid) {
  // D is even, so that a pair is wholly inside or outside.
  return valid && column < D ? pack_elements(row[column], row[column + 1]) : 0u;
}

/// Scores of 16 query rows against 16 keys: rows `row0` on of the tile `keys`. s[j]: columns 8 j on.
template <int D>
DEVI void score_keys(float (&s)[2][4], const u32 (&q)[4], const u8* keys, int row0, int step, int lane) {
  // Matrices: keys 0-7 low half of the 16 columns, keys 0-7 high half, keys 8-15 low, keys 8-15 high.
  u32 b[4];
  const int row = row0 + (lane & 7) + ((lane >> 4) << 3);
  load_matrices(b, keys + tile_offset<D>(row, step * 2 + ((lane >> 3) & 1)));
  multiply_add(s[0], q, b[0], b[1]);
  multiply_add(s[1], q, b[2], b[3]);
}

/// o += weights (16 rows x 16 keys) * values: rows `row0` on of the tile `values`.
template <int D>
DEVI void add_values(float (&o)[POLAR_TILE_DIM(D) / 8][4], const u32 (&weights)[4], const u8* values, int row0, int lane) {
#pragma unroll
  for (int i = 0; i < POLAR_TILE_DIM(D) / 16; i++) {
    u32 b[4];
    load_matrices_transposed(b, values + tile_offset<D>(row0 + (lane & 15), i * 2 + (lane >> 4)));
    multiply_add(o[2 * i], weights, b[0], b[1]);
    multiply_add(o[2 * i + 1], weights, b[2], b[3]);
  }
}

/// The running softmax of the two rows of a tile that a lane holds: rows lane / 4 and lane / 4 + 8. Scores are in units of log 2.
struct RunningSoftmax {
  float largest[2], sum[2];

  DEVI_MEMBER void reset() {
    largest[0] = largest[1] = POLAR_MINUS_INFINITY;
    sum[0] = sum[1] = 0;
  }

  /// Takes `TILES` tiles of scores (minus infinity where a key is not seen), turns them into weights, and gives the factors that
  /// earlier results of the two rows are to be multiplied by. Sums stay per lane until `finish`.
  template <int TILES>
  DEVI_MEMBER void add(float (&s)[TILES][4], float (&factor)[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float top = largest[h];
#pragma unroll
      for (int j = 0; j < TILES; j++) top = fmaxf(top, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
      top = fmaxf(top, lane_xor(top, 1));
      top = fmaxf(top, lane_xor(top, 2));
      // While no key has been seen the weights of minus infinity must come out as 0, not as NaN.
      const float base = top == POLAR_MINUS_INFINITY ? 0.f : top;
      factor[h] = fast_exp2(largest[h] - base);
      largest[h] = top;
      float total = 0;
#pragma unroll
      for (int j = 0; j < TILES; j++) {
        s[j][2 * h] = fast_exp2(s[j][2 * h] - base);
        s[j][2 * h + 1] = fast_exp2(s[j][2 * h + 1] - base);
        total += s[j][2 * h] + s[j][2 * h + 1];
      }
      sum[h] = sum[h] * factor[h] + total;
    }
  }

  DEVI_MEMBER void finish() {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      sum[h] += lane_xor(sum[h], 1);
      sum[h] += lane_xor(sum[h], 2);
    }
  }
};

#endif
