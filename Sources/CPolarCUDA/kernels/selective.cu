// Selective MLP: products over a list of neurons whose length is read on the device.
#include "gemm.cuh"

DEVI int list_count(PolarAddress count, int capacity) { return count ? *(const int*)count : capacity; }

/// Entry `j` of the list, -1 behind its end.
DEVI int list_neuron(PolarAddress indices, int j, int count) {
  return j >= count ? -1 : indices ? ((const int*)indices)[j] : j;
}

/// The activation of list entry `j` and token `token` from its sums.
DEVI void store_activation(const PolarSelectiveUpArgs& args, int j, int neuron, int token, float first, float second) {
  const float* bias = (const float*)args.bias;
  if (bias) first += bias[neuron];
  if (args.gated && bias) second += bias[args.bias_stride + neuron];
  const float value = args.gated ? first * second : first;
  ((float*)args.out)[(u64)token * args.out_stride + j] = first > args.threshold ? value : 0.f;
}

/// Where the partial sum of matrix `matrix` in `split` lies: rows as long as the tiles of the list.
DEVI u64 up_partial(const PolarSelectiveUpArgs& args, int count, int split, int matrix, int token, int j) {
  const int width = POLAR_CEIL_DIV(count, POLAR_UP_OUTPUTS) * POLAR_UP_OUTPUTS;
  return (((u64)split * (args.gated ? 2 : 1) + matrix) * args.rows + token) * width + j;
}

template <int TOKENS, bool GATED>
DEVI void selective_up(const PolarSelectiveUpArgs& args) {
  SHARED_MEMORY(shared);
  SHARED_ARRAY(int, rows, POLAR_UP_OUTPUTS);
  const int count = list_count(args.count, args.capacity), splits = polar_up_splits(count, args.hidden);
  const int first_entry = blockIdx.x * POLAR_UP_OUTPUTS, first_token = blockIdx.y * TOKENS, split = blockIdx.z;
  if (first_entry >= count || split >= splits) return;
  if (threadIdx.x < POLAR_UP_OUTPUTS) rows[threadIdx.x] = list_neuron(args.indices, first_entry + threadIdx.x, count);
  block_sync();
  const int tiles = POLAR_CEIL_DIV(args.hidden, POLAR_UP_INPUTS);
  UpProduct<TOKENS, GATED> product;
  product.run(
      shared, rows, (const u16*)args.weight, args.weight_stride, (const float*)args.x + (u64)first_token * args.x_stride,
      args.x_stride, args.rows - first_token, args.hidden, piece_start(tiles, split, splits),
      piece_start(tiles, split + 1, splits));
  product.each([&](int o, int t, float first, float second) {
    const int j = first_entry + o, token = first_token + t;
    if (j >= count || token >= args.rows) return;
    if (splits == 1) {
      store_activation(args, j, rows[o], token, first, second);
    } else {
      ((float*)args.partial)[up_partial(args, count, split, 0, token, j)] = first;
      if (GATED) ((float*)args.partial)[up_partial(args, count, split, 1, token, j)] = second;
    }
  });
}

KERNEL(POLAR_GEMM_THREADS) polar_selective_up_8(ARGS(PolarSelectiveUpArgs) args) { selective_up<8, false>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_up_16(ARGS(PolarSelectiveUpArgs) args) { selective_up<16, false>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_up_32(ARGS(PolarSelectiveUpArgs) args) { selective_up<32, false>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_up_64(ARGS(PolarSelectiveUpArgs) args) { selective_up<64, false>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_up_gated_8(ARGS(PolarSelectiveUpArgs) args) { selective_up<8, true>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_up_gated_16(ARGS(PolarSelectiveUpArgs) args) { selective_up<16, true>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_up_gated_32(ARGS(PolarSelectiveUpArgs) args) { selective_up<32, true>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_up_gated_64(ARGS(PolarSelectiveUpArgs) args) { selective_up<64, true>(args); }

KERNEL(POLAR_FLAT_THREADS) polar_selective_finish(ARGS(PolarSelectiveUpArgs) args) {
  const int count = list_count(args.count, args.capacity), splits = polar_up_splits(count, args.hidden);
  const int j = blockIdx.x * blockDim.x + threadIdx.x, token = blockIdx.y;
  if (args.tally && j == 0 && token == 0) {
    ((u64*)args.tally)[0] += count;
    ((u64*)args.tally)[1] += 1;
  }
  if (splits == 1 || j >= count) return;
  float first = 0, second = 0;
  for (int s = 0; s < splits; s++) {
    first += ((const float*)args.partial)[up_partial(args, count, s, 0, token, j)];
    if (args.gated) second += ((const float*)args.partial)[up_partial(args, count, s, 1, token, j)];
  }
  store_activation(args, j, list_neuron(args.indices, j, count), token, first, second);
}

template <int TOKENS>
DEVI void selective_down(const PolarSelectiveDownArgs& args) {
  constexpr int WEIGHT_BYTES = POLAR_DOWN_NEURONS * POLAR_DOWN_OUTPUTS * 2;
  constexpr int STAGE = WEIGHT_BYTES + TOKENS * (POLAR_DOWN_NEURONS + 8) * 4;
  static_assert(STAGE * POLAR_GEMM_STAGES(TOKENS) == POLAR_DOWN_SHARED(TOKENS), "the header's formula");
  SHARED_MEMORY(shared);
  SHARED_ARRAY(int, neurons, POLAR_GEMM_THREADS / 32 * POLAR_DOWN_NEURONS);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int count = list_count(args.count, args.capacity), splits = polar_down_splits(count, args.hidden);
  const int first_output = blockIdx.x * POLAR_DOWN_OUTPUTS, first_token = blockIdx.y * TOKENS, split = blockIdx.z;
  if (split >= splits) return;
  const float* h = (const float*)args.h + (u64)first_token * args.h_stride;
  const u16* weight = (const u16*)args.weight + first_output;
  const bool aligned_h = aligned_rows((PolarAddress)h, args.h_stride, 4);
  const bool aligned_weight = aligned_rows((PolarAddress)weight, args.weight_stride, 2);
  float acc[2][TOKENS / 8][4] = {};
  const int tiles = POLAR_CEIL_DIV(count, POLAR_DOWN_NEURONS);
  pipeline<POLAR_GEMM_STAGES(TOKENS)>(
      piece_start(tiles, split, splits), piece_start(tiles, split + 1, splits),
      [&](int tile, int slot) {
        u8* stage = shared + slot * STAGE;
        const int first = tile * POLAR_DOWN_NEURONS;
        // Each warp has all of the tile's neurons for itself.
        int* rows = neurons + warp * POLAR_DOWN_NEURONS;
        warp_sync();  // those of the tile before are used
        rows[lane] = list_neuron(args.indices, first + lane, count);
        warp_sync();
        copy_weights<POLAR_DOWN_NEURONS, POLAR_DOWN_OUTPUTS / 8>(
            stage, weight, rows, args.weight_stride, 0, args.hidden - first_output, aligned_weight);
        copy_activations<TOKENS, POLAR_DOWN_NEURONS>(
            (float*)(stage + WEIGHT_BYTES), h, args.rows - first_token, args.h_stride, first, count, aligned_h);
      },
      [&](int, int slot) {
        const u8* stage = shared + slot * STAGE;
        const float* tile = (const float*)(stage + WEIGHT_BYTES);
#pragma unroll
        for (int k = 0; k < POLAR_DOWN_NEURONS / 16; k++) {
#pragma unroll
          for (int m = 0; m < 2; m++) {
            // Rows of the tile are neurons, columns outputs: transposed, they are the operand's rows.
            const int neuron = k * 16 + (lane >> 4) * 8 + (lane & 7);
            const int chunk = warp * 4 + m * 2 + ((lane >> 3) & 1);
            u32 a[4];
            load_matrices_transposed(a, stage + tile_offset<POLAR_DOWN_OUTPUTS>(neuron, chunk));
            multiply_tokens<TOKENS, POLAR_DOWN_NEURONS>(acc[m], a, tile, k, lane);
          }
        }
      });
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int t = 0; t < TOKENS / 8; t++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int output = first_output + warp * 32 + m * 16 + (lane >> 2) + (e >> 1) * 8;
        const int token = first_token + t * 8 + (lane & 3) * 2 + (e & 1);
        if (output < args.hidden && token < args.rows) {
          ((float*)args.partial)[((u64)split * args.rows + token) * args.hidden + output] = acc[m][t][e];
        }
      }
    }
  }
}

KERNEL(POLAR_GEMM_THREADS) polar_selective_down_8(ARGS(PolarSelectiveDownArgs) args) { selective_down<8>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_down_16(ARGS(PolarSelectiveDownArgs) args) { selective_down<16>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_down_32(ARGS(PolarSelectiveDownArgs) args) { selective_down<32>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_selective_down_64(ARGS(PolarSelectiveDownArgs) args) { selective_down<64>(args); }
