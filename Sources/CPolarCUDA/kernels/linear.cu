// Linear layers for few tokens, and for any number where no library is at hand.
#include "gemm.cuh"

template <int TOKENS>
DEVI void linear(const PolarLinearArgs& args) {
  SHARED_MEMORY(shared);
  SHARED_ARRAY(int, rows, POLAR_UP_OUTPUTS);
  const int first_output = blockIdx.x * POLAR_UP_OUTPUTS, first_token = blockIdx.y * TOKENS, split = blockIdx.z;
  if (threadIdx.x < POLAR_UP_OUTPUTS) {
    const int output = first_output + threadIdx.x;
    rows[threadIdx.x] = output < args.outputs ? output : -1;
  }
  block_sync();
  const int tiles = POLAR_CEIL_DIV(args.inputs, POLAR_UP_INPUTS);
  UpProduct<TOKENS, false> product;
  product.run(
      shared, rows, (const u16*)args.weight, args.weight_stride, (const float*)args.x + (u64)first_token * args.x_stride,
      args.x_stride, args.rows - first_token, args.inputs, piece_start(tiles, split, args.splits),
      piece_start(tiles, split + 1, args.splits));
  product.each([&](int o, int t, float sum, float) {
    const int output = first_output + o, token = first_token + t;
    if (output >= args.outputs || token >= args.rows) return;
    if (args.splits > 1) {
      ((float*)args.partial)[((u64)split * args.rows + token) * args.outputs + output] = sum;
    } else {
      ((float*)args.out)[(u64)token * args.out_stride + output] = args.bias ? sum + ((const float*)args.bias)[output] : sum;
    }
  });
}

KERNEL(POLAR_GEMM_THREADS) polar_linear_8(ARGS(PolarLinearArgs) args) { linear<8>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_linear_16(ARGS(PolarLinearArgs) args) { linear<16>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_linear_32(ARGS(PolarLinearArgs) args) { linear<32>(args); }
KERNEL(POLAR_GEMM_THREADS) polar_linear_64(ARGS(PolarLinearArgs) args) { linear<64>(args); }

KERNEL(POLAR_FLAT_THREADS) polar_reduce(ARGS(PolarReduceArgs) args) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (column >= args.columns) return;
  const int splits =
      args.splits > 0 ? args.splits : polar_down_splits(args.count ? *(const int*)args.count : args.capacity, args.columns);
  float sum = 0;
  for (int s = 0; s < splits; s++) sum += ((const float*)args.partial)[((u64)s * args.rows + row) * args.columns + column];
  ((float*)args.out)[(u64)row * args.out_stride + column] = args.bias ? sum + ((const float*)args.bias)[column] : sum;
}
