// Routers: the products that score heads and neurons, with the choice that follows in the same launch.
#include "gemm.cuh"
#include "select.cuh"

/// Completes the scores of the block's rows from the partial sums: `scores`, and what the hidden layer's units are after ReLU.
DEVI void complete_scores(const PolarRouteHeadsArgs& args, int first_token, int tokens, int splits) {
  const int width = args.units + args.hidden_units;
  for (int i = threadIdx.x; i < tokens * width; i += POLAR_GEMM_THREADS) {
    const int token = first_token + i / width, column = i % width, unit = column - args.units;
    float sum = 0;
    for (int s = 0; s < splits; s++) sum += ((const float*)args.partial)[((u64)s * args.rows + token) * width + column];
    if (unit < 0) {
      ((float*)args.scores)[(u64)token * args.scores_stride + column] = sum + ((const float*)args.bias)[column];
    } else {
      ((float*)args.hidden)[(u64)token * args.hidden_stride + unit] = fmaxf(sum + ((const float*)args.hidden_bias)[unit], 0.f);
    }
  }
}

/// Sets the weight rows of outputs `first` to `first` + 63 of a weight of `outputs` rows.
DEVI void set_rows(int* rows, int first, int outputs) {
  if (threadIdx.x < POLAR_UP_OUTPUTS) {
    const int output = first + (int)threadIdx.x;
    rows[threadIdx.x] = output < outputs ? output : -1;
  }
  block_sync();
}

KERNEL(POLAR_GEMM_THREADS) polar_route_heads(ARGS(PolarRouteHeadsArgs) args) {
  SHARED_MEMORY(shared);
  SHARED_ARRAY(int, rows, POLAR_UP_OUTPUTS);
  const int unit_tiles = POLAR_CEIL_DIV(args.units, POLAR_UP_OUTPUTS), tile = blockIdx.x;
  const bool is_hidden = tile >= unit_tiles;
  const int outputs = is_hidden ? args.hidden_units : args.units;
  const int first_output = (is_hidden ? tile - unit_tiles : tile) * POLAR_UP_OUTPUTS;
  const int first_token = blockIdx.y * POLAR_ROUTE_ROWS, split = blockIdx.z, splits = gridDim.z;
  const int tokens = clamp(args.rows - first_token, 0, POLAR_ROUTE_ROWS);
  set_rows(rows, first_output, outputs);
  const int tiles = POLAR_CEIL_DIV(args.inputs, POLAR_UP_INPUTS);
  UpProduct<POLAR_ROUTE_ROWS, false> product;
  product.run(
      shared, rows, (const u16*)(is_hidden ? args.hidden_weight : args.weight), args.weight_stride,
      (const float*)args.x + (u64)first_token * args.x_stride, args.x_stride, tokens, args.inputs,
      piece_start(tiles, split, splits), piece_start(tiles, split + 1, splits));
  const int width = args.units + args.hidden_units;
  product.each([&](int o, int t, float sum, float) {
    const int column = (is_hidden ? args.units : 0) + first_output + o;
    if (first_output + o >= outputs || t >= tokens) return;
    ((float*)args.partial)[((u64)split * args.rows + first_token + t) * width + column] = sum;
  });
  if (!last_to_arrive((u32*)args.counters + blockIdx.y, gridDim.x * gridDim.z)) return;

  complete_scores(args, first_token, tokens, splits);
  float* scores = (float*)args.scores + (u64)first_token * args.scores_stride;
  for (int first = 0; first < args.units && args.hidden_units > 0; first += POLAR_UP_OUTPUTS) {
    block_sync();  // the hidden layer is complete, and the ring is free
    set_rows(rows, first, args.units);
    product.run(
        shared, rows, (const u16*)args.output_weight, args.output_stride,
        (const float*)args.hidden + (u64)first_token * args.hidden_stride, args.hidden_stride, tokens, args.hidden_units, 0,
        POLAR_CEIL_DIV(args.hidden_units, POLAR_UP_INPUTS));
    product.each([&](int o, int t, float sum, float) {
      if (first + o < args.units && t < tokens) scores[(u64)t * args.scores_stride + first + o] += sum;
    });
  }
  block_sync();
  for (int t = threadIdx.x >> 5; t < tokens; t += POLAR_GEMM_THREADS / 32) {
    choose_units(
        (u8*)args.mask + (u64)(first_token + t) * args.mask_stride, scores + (u64)t * args.scores_stride, args.units,
        args.heads_per_unit, args.above, args.k, args.threshold);
  }
}

/// Writes the indices of the bits that are set in `words` words, ascending, and their count.
DEVI void write_bits(const PolarRouteNeuronsArgs& args, int words) {
  SHARED_ARRAY(u64, masks, POLAR_GEMM_THREADS);
  SHARED_ARRAY(int, places, POLAR_GEMM_THREADS);
  const int lane = threadIdx.x & 31;
  int listed = 0;
  for (int first = 0; first < words; first += POLAR_GEMM_THREADS) {
    const int word = first + (int)threadIdx.x;
    const u64 mine = word < words ? ((const u64*)args.bits)[word] : 0;
    int all;
    const int before = block_prefix(bit_count(mine), all);
    masks[threadIdx.x] = mine;
    places[threadIdx.x] = listed + before;
    block_sync();
    for (int w = threadIdx.x >> 5; w < POLAR_GEMM_THREADS && first + w < words; w += POLAR_GEMM_THREADS / 32) {
#pragma unroll
      for (int bit = lane; bit < 64; bit += 32) {
        const u64 mask = masks[w];
        if (mask >> bit & 1) ((int*)args.indices)[places[w] + bit_count(mask & ((1ull << bit) - 1))] = (first + w) * 64 + bit;
      }
    }
    listed += all;
    block_sync();
  }
  if (threadIdx.x == 0) *(int*)args.count = listed;
}

template <int TOKENS>
DEVI void route_neurons(const PolarRouteNeuronsArgs& args) {
  SHARED_MEMORY(shared);
  SHARED_ARRAY(int, rows, POLAR_UP_OUTPUTS);
  SHARED_ARRAY(u64, chosen, 1);
  const int first_neuron = blockIdx.x * POLAR_UP_OUTPUTS;
  if (threadIdx.x == 0) chosen[0] = 0;
  set_rows(rows, first_neuron, args.neurons);
  // Thread t < 64 looks after neuron t: over all rows, in their order.
  float sum = 0;
  bool is_above = false;
  for (int first_token = 0; first_token < args.rows; first_token += TOKENS) {
    UpProduct<TOKENS, false> product;
    product.run(
        shared, rows, (const u16*)args.weight, args.weight_stride, (const float*)args.x + (u64)first_token * args.x_stride,
        args.x_stride, args.rows - first_token, args.rank, 0, POLAR_CEIL_DIV(args.rank, POLAR_UP_INPUTS));
    block_sync();  // the ring is free: scores [neuron][token], rows in different banks
    float* scores = (float*)shared;
    product.each([&](int o, int t, float score, float) { scores[o * (TOKENS + 1) + t] = score; });
    block_sync();
    if (threadIdx.x < POLAR_UP_OUTPUTS) {
      for (int t = 0; t < TOKENS && first_token + t < args.rows; t++) {
        const float score = scores[threadIdx.x * (TOKENS + 1) + t];
        if (score > 0) sum += score;
        is_above |= score > args.threshold;
      }
    }
    block_sync();
  }
  const bool is_mine = threadIdx.x < POLAR_UP_OUTPUTS && first_neuron + (int)threadIdx.x < args.neurons;
  if (args.sums) {
    if (is_mine) ((float*)args.sums)[first_neuron + threadIdx.x] = sum;
    return;
  }
  if (is_mine && is_above) shared_add(&chosen[0], 1ull << threadIdx.x);
  block_sync();
  if (threadIdx.x == 0) ((u64*)args.bits)[blockIdx.x] = chosen[0];
  if (last_to_arrive((u32*)args.counter, gridDim.x)) write_bits(args, gridDim.x);
}

RESIDENT_KERNEL(POLAR_GEMM_THREADS, 5) polar_route_neurons_8(ARGS(PolarRouteNeuronsArgs) args) { route_neurons<8>(args); }
RESIDENT_KERNEL(POLAR_GEMM_THREADS, 5) polar_route_neurons_16(ARGS(PolarRouteNeuronsArgs) args) { route_neurons<16>(args); }
RESIDENT_KERNEL(POLAR_GEMM_THREADS, 4) polar_route_neurons_32(ARGS(PolarRouteNeuronsArgs) args) { route_neurons<32>(args); }
RESIDENT_KERNEL(POLAR_GEMM_THREADS, 4) polar_route_neurons_64(ARGS(PolarRouteNeuronsArgs) args) { route_neurons<64>(args); }
