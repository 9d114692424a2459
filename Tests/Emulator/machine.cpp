#include "machine.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the emulator's fibers are written for x86-64 and arm64"
#endif

// Saves the registers that a call preserves on the current stack, leaves its pointer in *save, and goes on from `load`.
extern "C" void polar_emulator_switch(void **save, void *load);

#if defined(__x86_64__)
asm(R"(
.text
.globl polar_emulator_switch
.type polar_emulator_switch, @function
polar_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size polar_emulator_switch, .-polar_emulator_switch
)");
#else
asm(R"(
.text
.globl polar_emulator_switch
.type polar_emulator_switch, %function
polar_emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size polar_emulator_switch, .-polar_emulator_switch
)");
#endif

namespace emulator {

thread_local Machine *machine = nullptr;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t MAXIMUM_THREADS = 1024;

/// The fibers' stacks of this OS thread, kept from launch to launch. Pages are only backed when they are touched.
struct Stacks {
  unsigned char *base = nullptr;
  ~Stacks() {
    if (base) munmap(base, STACK_BYTES * MAXIMUM_THREADS);
  }
  unsigned char *top(size_t index) {
    if (!base) {
      void *memory = mmap(
          nullptr, STACK_BYTES * MAXIMUM_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) {
        std::perror("emulator: stacks");
        std::abort();
      }
      base = (unsigned char *)memory;
    }
    return base + STACK_BYTES * (index + 1);
  }
};

thread_local Stacks stacks;
/// Blocks that this OS thread has run in all launches, so that nothing of one is taken for another's.
thread_local uint64_t blocks_run = 0;

/// A stack on which a switch starts `entry`.
void *fresh_stack(unsigned char *top, void (*entry)()) {
  void **slots = (void **)top;
#if defined(__x86_64__)
  // Six registers, the return address, and one slot so that the entry finds the stack as after a call.
  slots -= 8;
  std::memset(slots, 0, 8 * sizeof(void *));
  slots[6] = (void *)entry;
#else
  slots -= 20;
  std::memset(slots, 0, 20 * sizeof(void *));
  slots[11] = (void *)entry;  // x30
#endif
  return slots;
}

}  // namespace

uint64_t Machine::random() {
  random_state_ += 0x9E3779B97F4A7C15u;
  uint64_t z = random_state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

void Machine::switch_to_scheduler() {
  Fiber *fiber = current;
  polar_emulator_switch(&fiber->stack_pointer, scheduler_stack_pointer_);
}

void Machine::block_until_woken(std::vector<int> &list, const char *where) {
  Fiber *fiber = current;
  fiber->waits_at = where;
  list.push_back(index_of(fiber));
  switch_to_scheduler();
}

void Machine::wake(std::vector<int> &list) {
  ready_.insert(ready_.end(), list.begin(), list.end());
  list.clear();
  // The thread that came last waits its turn, too.
  ready_.push_back(index_of(current));
  switch_to_scheduler();
}

void Machine::block_barrier() {
  if (barrier_.size() + 1 == fibers_.size()) {
    wake(barrier_);
  } else {
    block_until_woken(barrier_, "the block barrier");
  }
}

void Machine::fail(const char *what) {
  std::snprintf(
      message_, sizeof message_, "block (%u, %u, %u) thread %u: %s", block.x, block.y, block.z, current ? current->thread.x : 0,
      what);
  failed_ = true;
  switch_to_scheduler();
  std::abort();  // a failed launch runs no fiber again
}

void Machine::check_shared(const void *address, size_t bytes, const char *operation) {
  const unsigned char *p = (const unsigned char *)address;
  if (p < shared_ || p + bytes > shared_ + shared_bytes_) {
    char text[128];
    std::snprintf(
        text, sizeof text, "%s at %ld bytes into the %zu of shared memory", operation, long(p - shared_), shared_bytes_);
    fail(text);
  }
  if ((uintptr_t)address % bytes != 0) {
    char text[128];
    std::snprintf(text, sizeof text, "%s in shared memory is not aligned to %zu bytes", operation, bytes);
    fail(text);
  }
}

void Machine::fiber_entry() {
  Machine *self = machine;
  self->body_.run(self->body_.args);
  self->current->done = true;
  self->current->waits_at = "its end";
  self->switch_to_scheduler();
  std::abort();  // a thread that is done is not run again
}

void Machine::run_block(Body body, size_t shared_bytes) {
  body_ = body;
  block_serial = ++blocks_run;
  shared_storage_.assign(shared_bytes + 256, 0xff);
  shared_ = (unsigned char *)(((uintptr_t)shared_storage_.data() + 127) & ~(uintptr_t)127);
  shared_bytes_ = shared_bytes;
  const size_t threads = fibers_.size();
  ready_.clear();
  barrier_.clear();
  for (auto &warp : warps_) {
    warp->arrived = 0;
    warp->waiting.clear();
  }
  for (size_t i = 0; i < threads; i++) {
    Fiber &fiber = fibers_[i];
    fiber.thread.x = unsigned(i) % block_dim.x;
    fiber.thread.y = unsigned(i) / block_dim.x % block_dim.y;
    fiber.thread.z = unsigned(i) / block_dim.x / block_dim.y;
    fiber.warp = warps_[i / 32].get();
    fiber.lane = int(i % 32);
    fiber.done = false;
    fiber.waits_at = "start";
    fiber.open.clear();
    fiber.groups.clear();
    fiber.stack_pointer = fresh_stack(stacks.top(i), fiber_entry);
    ready_.push_back(int(i));
  }
  size_t left = threads;
  while (!ready_.empty()) {
    const size_t pick = random() % ready_.size();
    const int index = ready_[pick];
    ready_[pick] = ready_.back();
    ready_.pop_back();
    current = &fibers_[size_t(index)];
    polar_emulator_switch(&scheduler_stack_pointer_, current->stack_pointer);
    if (failed_) return;
    if (current->done) left--;
  }
  if (left == 0) return;
  for (Fiber &fiber : fibers_) {
    if (fiber.done) continue;
    failed_ = true;
    std::snprintf(
        message_, sizeof message_, "block (%u, %u, %u): deadlock: thread %u waits at %s and %zu of %zu threads have ended", block.x,
        block.y, block.z, fiber.thread.x, fiber.waits_at, threads - left, threads);
    return;
  }
}

std::string_view Machine::launch(Body body, Dimensions grid, Dimensions threads, size_t shared_bytes, uint64_t seed) {
  const size_t count = size_t(threads.x) * threads.y * threads.z;
  if (count == 0 || count % 32 != 0 || count > MAXIMUM_THREADS) return "the block is not 1 to 32 whole warps";
  if (uint64_t(grid.x) * grid.y * grid.z == 0) return "the grid is empty";
  if (shared_bytes > (227 << 10)) return "more than 227 KiB of shared memory";
  Machine *outer = machine;
  machine = this;
  random_state_ = seed;
  block_dim = threads;
  grid_dim = grid;
  fibers_.resize(count);
  warps_.clear();
  for (size_t i = 0; i < count / 32; i++) warps_.push_back(std::make_unique<Warp>());
  // Blocks in an order that the seed decides: steps of a size that has no factor in common with their number.
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z, start = random() % blocks;
  uint64_t step = random() % blocks;
  while (std::gcd(step, blocks) != 1) step++;
  for (uint64_t i = 0; i < blocks && !failed_; i++) {
    const uint64_t index = (start + i * (step % blocks)) % blocks;
    block.x = unsigned(index % grid.x);
    block.y = unsigned(index / grid.x % grid.y);
    block.z = unsigned(index / grid.x / grid.y);
    run_block(body, shared_bytes);
  }
  machine = outer;
  return message_;
}

}  // namespace emulator
