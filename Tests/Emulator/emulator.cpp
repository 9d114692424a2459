#include "polar_emulator.h"

#include <cstdio>
#include <cstring>

#include "machine.h"
#include "registry.h"

namespace emulator {

// Lists end with a null list.
extern const KernelList attention_bf16[], kernels_bf16[], kernels_f16[];

static const KernelList *const all_lists[] = {attention_bf16, kernels_bf16, kernels_f16};

/// Calls `use` for every kernel until it returns true.
template <class Use>
static const Kernel *find_kernel(Use use) {
  for (const KernelList *list : all_lists) {
    for (; list->kernels; list++) {
      for (size_t i = 0; i < list->count; i++) {
        if (use(list->kernels[i])) return &list->kernels[i];
      }
    }
  }
  return nullptr;
}

static bool same(const char *a, const char *b) { return a == b || (a && b && std::strcmp(a, b) == 0); }

}  // namespace emulator

extern "C" int polar_emulator_launch(const PolarEmulatorLaunch *launch, char *message, unsigned long capacity) {
  const emulator::Kernel *kernel = emulator::find_kernel([&](const emulator::Kernel &k) {
    return emulator::same(k.name, launch->kernel) && (k.head_dim == 0 || k.head_dim == launch->head_dim) &&
           k.element_f16 == launch->element_f16 && emulator::same(k.mutation, launch->mutation);
  });
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

extern "C" const char *polar_emulator_mutation(int index) {
  const char *name = nullptr;
  emulator::find_kernel([&](const emulator::Kernel &k) {
    // A fault has several kernels; the first stands for it.
    if (!k.mutation || std::strcmp(k.name, "polar_attention_plan") != 0 || index-- > 0) return false;
    name = k.mutation;
    return true;
  });
  return name;
}
