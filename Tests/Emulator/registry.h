// Which kernels the emulator can run.
#pragma once
#include <cstddef>
#include <vector>

namespace emulator {

/// A kernel for one head dim (0: any) and element type, whole or with a planted fault.
struct Kernel {
  const char *name;
  int head_dim;
  int element_f16;
  const char *mutation;  // nullptr: as it ships
  size_t args_bytes;
  void (*run)(const void *args);
};

/// All kernels that the emulator's files register as they are loaded.
std::vector<Kernel> &kernels();

struct Registration {
  template <size_t COUNT>
  explicit Registration(const Kernel (&table)[COUNT]) {
    kernels().insert(kernels().end(), table, table + COUNT);
  }
};

template <class Args, void (*KERNEL_FUNCTION)(const Args &)>
void run_kernel(const void *args) {
  KERNEL_FUNCTION(*(const Args *)args);
}

}  // namespace emulator

/// The fault of a file that plants one.
#ifndef POLAR_MUTATION
#define POLAR_MUTATION nullptr
#endif

#define POLAR_EMULATED(dim, name, args) \
  {#name, dim, POLAR_ELEMENT_F16, POLAR_MUTATION, sizeof(args), emulator::run_kernel<args, name>},
