// Finds what compute-sanitizer's racecheck and memcheck find. Races within a block in shared memory: two threads at the same four bytes,
// one of them writing, without a barrier between them: of the block, or of the warp where both are in one; shuffles, votes and
// tensor-core operations order nothing in memory. And accesses that are neither to shared nor to device memory.
//
// The kernels are compiled with -fsanitize=thread, which makes them call the functions at the end of this file.
#include <cstdint>
#include <cstdio>
#include <map>
#include <vector>

#include "../../../Tests/Emulator/machine.h"

using emulator::machine;

// driver.cpp
extern "C" int polar_stand_in_is_known(unsigned long long address, size_t bytes);
extern "C" int polar_stand_in_is_argument(unsigned long long address, size_t bytes);

namespace {

/// Where a thread is between barriers: accesses of one block epoch are not ordered, but for those of one warp in different warp epochs.
struct Epochs {
  uint64_t serial = 0;
  uint32_t block = 0, warp = 0;
};

struct Access {
  uint64_t serial = 0;
  uint32_t block = 0, warp_epoch = 0;
  int warp = -1;
  uint32_t lanes = 0;      // of the newest warp epoch
  bool of_several = false; // warps
};

struct Cell {
  Access write, read;
};

struct Array {
  size_t bytes;
  std::vector<Cell> cells;
};

Epochs epochs[1024];
std::map<uintptr_t, Array> arrays;  // static ones, by address
std::vector<Cell> dynamic_cells;
uintptr_t dynamic_base = 0;

Epochs &now() {
  Epochs &mine = epochs[machine->current->thread.x];
  if (mine.serial != machine->block_serial) mine = {machine->block_serial, 0, 0};
  return mine;
}

template <class T>
bool is_in(uintptr_t address, const T &object) {
  return address >= (uintptr_t)&object && address < (uintptr_t)(&object + 1);
}

/// Whether an address may be used that is not in shared memory: of the device, the kernel's arguments, the thread's own stack, or what tells
/// threadIdx and its like.
bool is_allowed(uintptr_t address, size_t bytes) {
  const uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
  if (address + (128 << 10) > frame && address < frame + (128 << 10)) return true;
  if (is_in(address, machine) || is_in(address, *machine) || is_in(address, *machine->current)) return true;
  return polar_stand_in_is_known(address, bytes) || polar_stand_in_is_argument(address, bytes);
}

Cell *cell_of(uintptr_t address) {
  const uintptr_t base = (uintptr_t)machine->shared();
  if (address >= base && address < base + (227 << 10)) {
    if (base != dynamic_base || dynamic_cells.empty()) dynamic_cells.assign((227 << 10) / 4, Cell()), dynamic_base = base;
    return &dynamic_cells[(address - base) / 4];
  }
  auto array = arrays.upper_bound(address);
  if (array == arrays.begin()) return nullptr;
  --array;
  if (address >= array->first + array->second.bytes) return nullptr;
  return &array->second.cells[(address - array->first) / 4];
}

/// Whether an earlier access and one of the current thread are in no order.
bool races(const Access &earlier, const Epochs &mine) {
  if (earlier.warp < 0 || earlier.serial != mine.serial || earlier.block != mine.block) return false;
  const int lane = machine->current->lane, warp = int(machine->current->thread.x / 32);
  if (earlier.of_several || earlier.warp != warp) return true;
  return earlier.warp_epoch == mine.warp && (earlier.lanes & ~(1u << lane)) != 0;
}

void add(Access &access, const Epochs &mine) {
  const int lane = machine->current->lane, warp = int(machine->current->thread.x / 32);
  if (access.serial != mine.serial || access.block != mine.block || access.warp < 0) {
    access = {mine.serial, mine.block, mine.warp, warp, 1u << lane, false};
  } else if (access.warp != warp) {
    access.of_several = true;
  } else if (access.warp_epoch == mine.warp) {
    access.lanes |= 1u << lane;
  } else {
    access.warp_epoch = mine.warp, access.lanes = 1u << lane;
  }
}

void observe(const void *address, size_t bytes, bool writes) {
  if (!machine || !machine->current) return;
  const Epochs &mine = now();
  for (uintptr_t word = (uintptr_t)address & ~(uintptr_t)3; word < (uintptr_t)address + bytes; word += 4) {
    Cell *cell = cell_of(word);
    if (!cell) {
      if (!is_allowed((uintptr_t)address, bytes)) machine->fail(writes ? "a write outside of memory" : "a read outside of memory");
      return;
    }
    const bool after_write = races(cell->write, mine), after_read = writes && races(cell->read, mine);
    if (after_write || after_read) {
      char text[160];
      const bool is_static = word < (uintptr_t)machine->shared() || word >= (uintptr_t)machine->shared() + (227 << 10);
      std::snprintf(
          text, sizeof text, "a race: a %s after a %s of warp %d%s without a barrier, %s shared memory, byte %ld", writes ? "write" : "read",
          after_write ? "write" : "read", after_write ? cell->write.warp : cell->read.warp,
          (after_write ? cell->write : cell->read).of_several ? " and others" : "", is_static ? "static" : "dynamic",
          is_static ? long(word - std::prev(arrays.upper_bound(word))->first) : long(word - (uintptr_t)machine->shared()));
      machine->fail(text);
    }
    add(writes ? cell->write : cell->read, mine);
  }
}

}  // namespace

extern "C" {

void polar_observe_shared(const void *array, size_t bytes) { arrays[(uintptr_t)array] = {bytes, std::vector<Cell>(bytes / 4 + 1)}; }
void polar_observe_read(const void *address, size_t bytes) { observe(address, bytes, false); }
void polar_observe_write(const void *address, size_t bytes) { observe(address, bytes, true); }
void polar_observe_warp_sync(void) { now().warp++; }
void polar_observe_block_sync(void) { now().block++; }

void __tsan_init(void) {}
#define ACCESS(bytes)                                                            \
  void __tsan_read##bytes(void *address) { observe(address, bytes, false); }     \
  void __tsan_write##bytes(void *address) { observe(address, bytes, true); }     \
  void __tsan_unaligned_read##bytes(void *address) { observe(address, bytes, false); } \
  void __tsan_unaligned_write##bytes(void *address) { observe(address, bytes, true); } \
  void __tsan_read_write##bytes(void *address) { observe(address, bytes, true); } \
  void __tsan_unaligned_read_write##bytes(void *address) { observe(address, bytes, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

}  // extern "C"
