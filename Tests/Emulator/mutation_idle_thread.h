// Thread 1 of every block does the work of thread 0 instead of its own, in the kernels that follow.
#define POLAR_MUTATION "idle thread"
#define POLAR_ELEMENT_F16 0
#include "emulated_prims.h"
#include "registry.h"

namespace {
emulator::Dimensions doubled_thread() {
  emulator::Dimensions thread = emulator::machine->current->thread;
  if (thread.x == 1) thread.x = 0;
  return thread;
}
}  // namespace

#undef threadIdx
#define threadIdx (doubled_thread())
