// The machine that the emulated kernels run on: one block at a time, its threads as fibers.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

namespace emulator {

struct Dimensions {
  unsigned x = 1, y = 1, z = 1;
};

/// A copy that has been issued and not arrived.
struct PendingCopy {
  unsigned char *to;
  const unsigned char *from;
  int bytes, size;  // `bytes` are copied, the rest of `size` becomes zero
};

/// What the lanes of a warp exchange in one operation. Two of them alternate, so that a lane may still read the last one.
struct Exchange {
  alignas(64) unsigned char lanes[32][48];
  alignas(64) float result[16][8];
};

struct Warp {
  int arrived = 0;
  const char *operation = "";
  uint64_t generation = 0;
  Exchange exchanges[2];
  std::vector<int> waiting;
};

struct Fiber {
  void *stack_pointer = nullptr;
  Dimensions thread;
  Warp *warp = nullptr;
  int lane = 0;
  bool done = false;
  const char *waits_at = "start";
  std::vector<PendingCopy> open;
  std::vector<std::vector<PendingCopy>> groups;
};

/// A kernel with its arguments.
struct Body {
  void (*run)(const void *args);
  const void *args;
};

class Machine {
 public:
  Dimensions block, block_dim, grid_dim;
  Fiber *current = nullptr;
  /// Of the block that runs; no two on one OS thread have the same.
  uint64_t block_serial = 0;

  /// Runs all blocks; the text is empty when all went well.
  std::string_view launch(Body body, Dimensions grid, Dimensions block, size_t shared_bytes, uint64_t seed);

  unsigned char *shared() const { return shared_; }
  /// Ends the launch with an error; called by a fiber, does not return.
  [[noreturn]] void fail(const char *what);
  void check_shared(const void *address, size_t bytes, const char *operation);

  void block_barrier();
  /// All 32 lanes meet at `operation`, each leaving `bytes` bytes; the last one runs `complete` on what they left.
  template <class Complete>
  const Exchange &meet(const char *operation, const void *data, size_t bytes, Complete complete);

 private:
  void run_block(Body body, size_t shared_bytes);
  void switch_to_scheduler();
  void block_until_woken(std::vector<int> &list, const char *where);
  void wake(std::vector<int> &list);
  int index_of(const Fiber *fiber) const { return int(fiber - fibers_.data()); }
  static void fiber_entry();
  uint64_t random();

  std::vector<Fiber> fibers_;
  std::vector<std::unique_ptr<Warp>> warps_;
  std::vector<int> ready_, barrier_;
  std::vector<unsigned char> shared_storage_;
  unsigned char *shared_ = nullptr;
  size_t shared_bytes_ = 0;
  void *scheduler_stack_pointer_ = nullptr;
  Body body_{};
  uint64_t random_state_ = 1;
  bool failed_ = false;
  char message_[512] = "";
};

/// The machine of this OS thread's launch.
extern thread_local Machine *machine;

template <class Complete>
const Exchange &Machine::meet(const char *operation, const void *data, size_t bytes, Complete complete) {
  Fiber *fiber = current;
  Warp &warp = *fiber->warp;
  Exchange &exchange = warp.exchanges[warp.generation & 1];
  if (warp.arrived == 0) {
    warp.operation = operation;
  } else if (warp.operation != operation) {
    fail("lanes of a warp are at different operations");
  }
  std::memcpy(exchange.lanes[fiber->lane], data, bytes);
  if (++warp.arrived == 32) {
    complete(exchange);
    warp.arrived = 0;
    warp.generation++;
    wake(warp.waiting);
  } else {
    block_until_woken(warp.waiting, operation);
  }
  return exchange;
}

}  // namespace emulator
