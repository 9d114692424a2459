// Which kernels the emulator can run.
#pragma once
#include <cstddef>

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

/// A list of kernels, one for each file that makes some.
struct KernelList {
  const Kernel *kernels;
  size_t count;
};

template <class Args, void (*KERNEL_FUNCTION)(const Args &)>
void run_kernel(const void *args) {
  KERNEL_FUNCTION(*(const Args *)args);
}

}  // namespace emulator

#define POLAR_EMULATED(dim, mutation, name, args) \
  {#name, dim, POLAR_ELEMENT_F16, mutation, sizeof(args), emulator::run_kernel<args, name>},
