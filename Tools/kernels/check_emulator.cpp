// Runs two CUDA kernels on the emulator of Tests/Emulator and compares them with plain arithmetic: a product (barriers, asynchronous
// copies, matrix loads, tensor cores) and a selection (block-wide prefix sums, atomics). It shows that the emulator's fibers work on
// a processor; the package's tests say the rest. See check_emulator_arm64.sh.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "polar_cuda_kernels.h"
#include "polar_emulator.h"

namespace {

int failures = 0;

template <class Args>
bool launch(const char *kernel, const Args &args, unsigned grid, unsigned block, unsigned long shared, unsigned long long seed) {
  char message[512] = "";
  PolarEmulatorLaunch launch = {};
  launch.kernel = kernel;
  launch.grid[0] = grid, launch.grid[1] = launch.grid[2] = 1;
  launch.block[0] = block, launch.block[1] = launch.block[2] = 1;
  launch.shared_bytes = shared;
  launch.args = &args;
  launch.args_bytes = sizeof args;
  launch.seed = seed;
  if (polar_emulator_launch(&launch, message, sizeof message) == 0) return true;
  std::printf("%s: %s\n", kernel, message);
  failures++;
  return false;
}

PolarAddress address(const void *pointer) { return (PolarAddress)(uintptr_t)pointer; }

/// Quarters between -1 and 1.
float coarse(unsigned &state) {
  state = state * 1664525u + 1013904223u;
  return float(int(state >> 24) % 9 - 4) / 4;
}

void check_linear(unsigned long long seed) {
  constexpr int ROWS = 5, INPUTS = 200, OUTPUTS = 70;
  unsigned state = unsigned(seed);
  std::vector<float> x(ROWS * INPUTS), bias(OUTPUTS), out(ROWS * OUTPUTS, NAN), weight(OUTPUTS * INPUTS);
  std::vector<unsigned short> elements(OUTPUTS * INPUTS);
  for (float &value : x) value = coarse(state);
  for (float &value : bias) value = coarse(state);
  for (size_t i = 0; i < weight.size(); i++) {
    weight[i] = coarse(state);
    unsigned bits;
    std::memcpy(&bits, &weight[i], 4);
    elements[i] = (unsigned short)(bits >> 16);
  }
  PolarLinearArgs args = {};
  args.out = address(out.data()), args.x = address(x.data()), args.weight = address(elements.data()), args.bias = address(bias.data());
  args.rows = ROWS, args.inputs = INPUTS, args.outputs = OUTPUTS;
  args.out_stride = OUTPUTS, args.x_stride = INPUTS, args.weight_stride = INPUTS, args.splits = 1;
  if (!launch("polar_linear_8", args, 2, POLAR_GEMM_THREADS, POLAR_UP_SHARED(8, 0), seed)) return;
  for (int row = 0; row < ROWS; row++) {
    for (int n = 0; n < OUTPUTS; n++) {
      float want = bias[n];  // exact in any order: all terms are multiples of 1/16
      for (int k = 0; k < INPUTS; k++) want += x[row * INPUTS + k] * weight[n * INPUTS + k];
      if (out[row * OUTPUTS + n] == want) continue;
      std::printf("polar_linear_8, seed %llu: [%d, %d] is %g, not %g\n", seed, row, n, out[row * OUTPUTS + n], want);
      failures++;
      return;
    }
  }
}

void check_list(unsigned long long seed) {
  constexpr int N = 3000, K = 700;
  unsigned state = unsigned(seed);
  std::vector<float> values(N);
  for (float &value : values) value = coarse(state) + coarse(state) / 16;
  std::vector<int> indices(K, -1), count(1, -1);
  PolarListArgs args = {};
  args.indices = address(indices.data()), args.count = address(count.data()), args.values = address(values.data());
  args.n = N, args.k = K;
  if (!launch("polar_list_top_k", args, 1, POLAR_SELECT_THREADS, 0, seed)) return;
  int expected = 0;
  for (int i = 0; i < N; i++) {
    if (!(values[i] > 0)) continue;
    int rank = 0;
    for (int j = 0; j < N; j++) rank += values[j] > values[i] || (values[j] == values[i] && j < i);
    if (rank >= K) continue;
    if (expected >= count[0] || indices[expected] != i) {
      std::printf("polar_list_top_k, seed %llu: entry %d is not %d\n", seed, expected, i);
      failures++;
      return;
    }
    expected++;
  }
  if (expected != count[0]) std::printf("polar_list_top_k, seed %llu: %d entries, not %d\n", seed, count[0], expected), failures++;
}

}  // namespace

int main() {
  for (unsigned long long seed = 1; seed <= 3; seed++) {
    check_linear(seed);
    check_list(seed);
  }
  // An error in the middle of a block leaves it in order: all fibers are given up, and the next launch works.
  PolarLinearArgs nothing = {};
  nothing.rows = nothing.inputs = nothing.outputs = 1, nothing.splits = 1;
  char message[512] = "";
  PolarEmulatorLaunch broken = {"polar_linear_8", 0, 0, nullptr, {1, 1, 1}, {POLAR_GEMM_THREADS, 1, 1}, 16, &nothing, sizeof nothing, 1};
  if (polar_emulator_launch(&broken, message, sizeof message) == 0) std::printf("too little shared memory is not noticed\n"), failures++;
  check_linear(9);
  std::printf(failures == 0 ? "the emulator's fibers work\n" : "%d checks failed\n", failures);
  return failures != 0;
}
