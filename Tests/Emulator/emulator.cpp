#include "polar_emulator.h"

#include <cstdio>
#include <cstring>

#include "machine.h"
#include "registry.h"

namespace emulator {

std::vector<Kernel> &kernels() {
  static std::vector<Kernel> list;
  return list;
}

static bool same(const char *a, const char *b) { return a == b || (a && b && std::strcmp(a, b) == 0); }

}  // namespace emulator

extern "C" int polar_emulator_launch(const PolarEmulatorLaunch *launch, char *message, unsigned long capacity) {
  const emulator::Kernel *kernel = nullptr;
  for (const emulator::Kernel &k : emulator::kernels()) {
    if (emulator::same(k.name, launch->kernel) && (k.head_dim == 0 || k.head_dim == launch->head_dim) &&
        k.element_f16 == launch->element_f16 && emulator::same(k.mutation, launch->mutation)) {
      kernel = &k;
    }
  }
  if (!kernel) {
    std::snprintf(
        message, capacity, "no kernel %s for head dim %d, %s%s%s", launch->kernel, launch->head_dim,
        launch->element_f16 ? "f16" : "bf16", launch->mutation ? ", fault " : "", launch->mutation ? launch->mutation : "");
    return 1;
  }
  if (kernel->args_bytes != launch->args_bytes) {
    std::snprintf(
        message, capacity, "%s: arguments of %lu bytes, not %zu", kernel->name, launch->args_bytes, kernel->args_bytes);
    return 1;
  }
  emulator::Machine machine;
  const auto failure = machine.launch(
      {kernel->run, launch->args}, {launch->grid[0], launch->grid[1], launch->grid[2]},
      {launch->block[0], launch->block[1], launch->block[2]}, launch->shared_bytes, launch->seed);
  if (failure.empty()) return 0;
  std::snprintf(message, capacity, "%s: %.*s", kernel->name, int(failure.size()), failure.data());
  return 1;
}

extern "C" const char *polar_emulator_mutation(const char *kernel, int index) {
  for (const emulator::Kernel &k : emulator::kernels()) {
    if (k.mutation && std::strcmp(k.name, kernel) == 0 && index-- == 0) return k.mutation;
  }
  return nullptr;
}
