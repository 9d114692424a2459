// Skinny matrix products on tensor cores: weights are the m side of a tile, tokens the n side, so that few tokens waste nothing.
// Weights come through a ring of asynchronous copies; activations stay f32 in shared memory and are rounded as operands.
#ifndef POLAR_GEMM_CUH
#define POLAR_GEMM_CUH

#include "geometry.cuh"

/// Whether rows can be read in 16-byte pieces.
DEVI bool aligned_rows(PolarAddress base, int stride, int element_bytes) {
  return base % 16 == 0 && (u64)stride * element_bytes % 16 == 0;
}

DEVI int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

/// Copies columns `first` ..< first + 8 * CHUNKS of weight rows into a swizzled tile of 16-byte chunks. `rows[i]` is the row of
/// tile row i, -1 for zeros; columns from `columns` on are zeros.
template <int ROWS, int CHUNKS>
DEVI void copy_weights(
    u8* tile, const u16* weight, const int* rows, int stride, int first, int columns, bool aligned) {
  if (aligned) {
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += POLAR_GEMM_THREADS) {
      const int row = i / CHUNKS, chunk = i % CHUNKS, column = first + chunk * 8;
      const int bytes = rows[row] < 0 ? 0 : clamp((columns - column) * 2, 0, 16);
      const u16* from = bytes > 0 ? weight + (u64)rows[row] * stride + column : weight;
      copy_async_16(tile + tile_offset<CHUNKS * 8>(row, chunk), from, bytes);
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * CHUNKS * 4; i += POLAR_GEMM_THREADS) {
      const int row = i / (CHUNKS * 4), piece = i % (CHUNKS * 4), column = first + piece * 2;
      const int bytes = rows[row] < 0 ? 0 : clamp((columns - column) * 2, 0, 4);
      const u16* from = bytes > 0 ? weight + (u64)rows[row] * stride + column : weight;
      copy_async_4(tile + tile_offset<CHUNKS * 8>(row, piece / 4) + piece % 4 * 4, from, bytes);
    }
  }
}

/// Copies columns `first` ..< first + COLUMNS of TOKENS rows of f32 activations; what is beyond is zero. Rows are COLUMNS + 8
/// floats apart, so that the pairs of an operand lie in different banks.
template <int TOKENS, int COLUMNS>
DEVI void copy_activations(float* tile, const float* x, int rows, int stride, int first, int columns, bool aligned) {
  const int width = aligned ? 4 : 1;
  for (int i = threadIdx.x; i < TOKENS * COLUMNS / width; i += POLAR_GEMM_THREADS) {
    const int row = i / (COLUMNS / width), column = i % (COLUMNS / width) * width;
    const int bytes = row >= rows ? 0 : clamp((columns - first - column) * 4, 0, width * 4);
    const float* from = bytes > 0 ? x + (u64)row * stride + first + column : x;
    float* to = tile + row * (COLUMNS + 8) + column;
    if (aligned) {
      copy_async_16(to, from, bytes);
    } else {
      copy_async_4(to, from, bytes);
    }
  }
}

/// acc[t] += a * (16 columns from `step` * 16 on of tokens 8 t ..< 8 t + 8).
template <int TOKENS, int COLUMNS>
DEVI void multiply_tokens(float (&acc)[TOKENS / 8][4], const u32 (&a)[4], const float* tile, int step, int lane) {
#pragma unroll
  for (int t = 0; t < TOKENS / 8; t++) {
    const float* row = tile + (t * 8 + (lane >> 2)) * (COLUMNS + 8) + step * 16 + (lane & 3) * 2;
    multiply_add(acc[t], a, pack_elements(row[0], row[1]), pack_elements(row[8], row[9]));
  }
}

/// Runs `copy(tile, slot)` ahead of `use(tile, slot)` over tiles begin ..< end, STAGES - 1 tiles ahead.
template <int STAGES, class Copy, class Use>
DEVI void pipeline(int begin, int end, Copy copy, Use use) {
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (begin + s < end) copy(begin + s, s);
    copy_commit();
  }
  int slot = 0, fill = STAGES - 1;
  for (int tile = begin; tile < end; tile++) {
    copy_wait<STAGES - 2>();
    block_sync();  // the tile is here, and all threads are done with the slot before it, which is filled next
    if (tile + STAGES - 1 < end) copy(tile + STAGES - 1, fill);
    copy_commit();
    use(tile, slot);
    slot = next_stage<STAGES>(slot);
    fill = next_stage<STAGES>(fill);
  }
  copy_wait<0>();
}

/// A block's share of a product of gathered weight rows with tokens: 64 outputs, TOKENS rows of x, a range of inputs.
template <int TOKENS, bool GATED>
struct UpProduct {
  static constexpr int MATRICES = GATED ? 2 : 1;
  static constexpr int WEIGHT_BYTES = POLAR_UP_OUTPUTS * POLAR_UP_INPUTS * 2;
  static constexpr int STAGE = MATRICES * WEIGHT_BYTES + TOKENS * (POLAR_UP_INPUTS + 8) * 4;
  static_assert(STAGE * POLAR_GEMM_STAGES(TOKENS) == POLAR_UP_SHARED(TOKENS, GATED), "the header's formula");

  float acc[MATRICES][TOKENS / 8][4];

  /// `rows`: in shared memory, the weight row of each of the 64 outputs. `x` points at the block's first token.
  DEVI_MEMBER void run(
      u8* shared, const int* rows, const u16* weight, int weight_stride, const float* x, int x_stride, int tokens, int inputs,
      int first_tile, int last_tile) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
#pragma unroll
      for (int t = 0; t < TOKENS / 8; t++) acc[m][t][0] = acc[m][t][1] = acc[m][t][2] = acc[m][t][3] = 0;
    }
    const bool aligned_x = aligned_rows((PolarAddress)x, x_stride, 4);
    const bool aligned_weight =
        aligned_rows((PolarAddress)weight, weight_stride, 2) && (!GATED || aligned_rows(0, inputs, 2));
    pipeline<POLAR_GEMM_STAGES(TOKENS)>(
        first_tile, last_tile,
        [&](int tile, int slot) {
          u8* stage = shared + slot * STAGE;
          const int first = tile * POLAR_UP_INPUTS;
#pragma unroll
          for (int m = 0; m < MATRICES; m++) {
            copy_weights<POLAR_UP_OUTPUTS, POLAR_UP_INPUTS / 8>(
                stage + m * WEIGHT_BYTES, weight + m * inputs, rows, weight_stride, first, inputs, aligned_weight);
          }
          copy_activations<TOKENS, POLAR_UP_INPUTS>(
              (float*)(stage + MATRICES * WEIGHT_BYTES), x, tokens, x_stride, first, inputs, aligned_x);
        },
        [&](int, int slot) {
          const u8* stage = shared + slot * STAGE;
          const float* tile = (const float*)(stage + MATRICES * WEIGHT_BYTES);
#pragma unroll
          for (int k = 0; k < POLAR_UP_INPUTS / 16; k++) {
#pragma unroll
            for (int m = 0; m < MATRICES; m++) {
              u32 a[4];
              load_matrices(
                  a, stage + m * WEIGHT_BYTES + tile_offset<POLAR_UP_INPUTS>(warp * 16 + (lane & 15), k * 2 + (lane >> 4)));
              multiply_tokens<TOKENS, POLAR_UP_INPUTS>(acc[m], a, tile, k, lane);
            }
          }
        });
  }

  /// Calls `store(output, token, first sum, second sum)` for the lane's results; outputs and tokens count from the tile's first.
  template <class Store>
  DEVI_MEMBER void each(Store store) const {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int t = 0; t < TOKENS / 8; t++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        store(
            warp * 16 + (lane >> 2) + (e >> 1) * 8, t * 8 + (lane & 3) * 2 + (e & 1), acc[0][t][e],
            acc[MATRICES - 1][t][e]);
      }
    }
  }
};

/// The first tile of piece `piece` when `tiles` tiles are cut into `pieces`.
DEVI int piece_start(int tiles, int piece, int pieces) { return (int)((u64)tiles * piece / pieces); }

#endif
