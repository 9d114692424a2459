// What kernels/prims.cuh is on a device, on the emulator's machine. The define below keeps prims.cuh itself out.
#pragma once
#define POLAR_PRIMS_CUH

#include <cmath>

#include "machine.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;

#define DEVI [[maybe_unused]] static inline
#define DEVI_MEMBER inline
#define KERNEL(threads) [[maybe_unused]] static void
#define RESIDENT_KERNEL(threads, blocks) [[maybe_unused]] static void
#define ARGS(type) const type &
#define SHARED_MEMORY(name) u8 *name = emulator::machine->shared()
#define SHARED_ARRAY(type, name, count) auto &name = emulated::shared_array<type[count]>([] {})

#define threadIdx (emulator::machine->current->thread)
#define blockIdx (emulator::machine->block)
#define blockDim (emulator::machine->block_dim)
#define gridDim (emulator::machine->grid_dim)

#if POLAR_ELEMENT_F16
#define emulated emulated_f16
#else
#define emulated emulated_bf16
#endif

// When the kernels are compiled with -fsanitize=thread, every access of theirs to memory is reported to whoever looks for races within
// a block (Tools/kernels/driver/sanitizer.cpp), and here what the compiler does not see.
#if __has_feature(thread_sanitizer)
extern "C" {
void polar_observe_shared(const void *array, size_t bytes);
void polar_observe_read(const void *address, size_t bytes);
void polar_observe_write(const void *address, size_t bytes);
void polar_observe_warp_sync(void);
void polar_observe_block_sync(void);
}
#define POLAR_OBSERVE(what) polar_observe_##what
#else
#define POLAR_OBSERVE(what) emulated_nothing
template <class... Arguments>
inline void emulated_nothing(Arguments...) {}
#endif

namespace emulated {

using emulator::Exchange;
using emulator::machine;

inline void nothing(const Exchange &) {}

/// The static shared array that belongs to the type of `Tag`: NaN at the start of each block.
template <class Array, class Tag>
Array &shared_array(Tag) {
  thread_local struct {
    alignas(16) Array values;
    uint64_t block;
    const void *owner;
  } slot;
  if (slot.owner != machine || slot.block != machine->block_serial) {
    std::memset((void *)&slot.values, 0xff, sizeof slot.values);
    slot.owner = machine;
    slot.block = machine->block_serial;
    POLAR_OBSERVE(shared)(&slot.values, sizeof slot.values);
  }
  return slot.values;
}

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

#if POLAR_ELEMENT_F16
inline u16 round_element(float value) { return bits_as<u16>((_Float16)value); }
inline float element(u16 bits) { return (float)bits_as<_Float16>(bits); }
#else
inline u16 round_element(float value) {
  const u32 bits = bits_as<u32>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return u16((bits >> 16) | 0x40);
  return u16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float element(u16 bits) { return bits_as<float>(u32(bits) << 16); }
#endif

inline void copy_async(void *to, const void *from, int size, int bytes) {
  machine->check_shared(to, size_t(size), "an asynchronous copy");
  if (bytes < 0 || bytes > size) machine->fail("an asynchronous copy of more bytes than its size, or less than none");
  if (bytes > 0 && (uintptr_t)from % uintptr_t(size) != 0) {
    machine->fail("the source of an asynchronous copy is not aligned to it");
  }
  POLAR_OBSERVE(write)(to, size_t(size));
  if (bytes > 0) POLAR_OBSERVE(read)(from, size_t(bytes));
  std::memset(to, 0xff, size_t(size));
  machine->current->open.push_back({(unsigned char *)to, (const unsigned char *)from, bytes, size});
}

template <bool TRANSPOSED>
void load_matrices(u32 (&r)[4], const void *row) {
  machine->check_shared(row, 16, "a matrix load");
  POLAR_OBSERVE(read)(row, 16);
  // The row is read as the lane arrives, so that a missing barrier shows.
  const Exchange &exchange = machine->meet(TRANSPOSED ? "ldmatrix.trans" : "ldmatrix", row, 16, nothing);
  const int lane = machine->current->lane;
  const int a = lane >> 2, b = (lane & 3) * 2;
  for (int i = 0; i < 4; i++) {
    auto at = [&](int line, int column) {
      u16 value;
      std::memcpy(&value, &exchange.lanes[i * 8 + line][column * 2], 2);
      return u32(value);
    };
    r[i] = TRANSPOSED ? at(b, a) | at(b + 1, a) << 16 : at(a, b) | at(a, b + 1) << 16;
  }
}

/// The product of a warp's tiles, from the lanes' registers.
inline void multiply_tiles(Exchange &exchange) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    u32 in[6];
    std::memcpy(in, exchange.lanes[lane], sizeof in);
    const int row = lane >> 2, k = (lane & 3) * 2;
    for (int half = 0; half < 2; half++) {
      const int shift = 16 * half;
      a[row][k + half] = element(u16(in[0] >> shift));
      a[row + 8][k + half] = element(u16(in[1] >> shift));
      a[row][k + 8 + half] = element(u16(in[2] >> shift));
      a[row + 8][k + 8 + half] = element(u16(in[3] >> shift));
      b[k + half][row] = element(u16(in[4] >> shift));
      b[k + 8 + half][row] = element(u16(in[5] >> shift));
    }
  }
  for (int row = 0; row < 16; row++) {
    float sum[8];
    for (int e = 0; e < 8; e++) {
      float c[4];
      std::memcpy(c, exchange.lanes[(row & 7) * 4 + e / 2] + 24, sizeof c);
      sum[e] = c[(row >> 3) * 2 + (e & 1)];
    }
    for (int k = 0; k < 16; k++) {
      for (int e = 0; e < 8; e++) sum[e] += a[row][k] * b[k][e];
    }
    std::memcpy(exchange.result[row], sum, sizeof sum);
  }
}

template <class T>
T lane_value(const char *operation, T value, int (*source)(int, int), int parameter) {
  const Exchange &exchange = machine->meet(operation, &value, sizeof value, nothing);
  T result;
  std::memcpy(&result, exchange.lanes[source(machine->current->lane, parameter)], sizeof result);
  return result;
}

inline int xor_source(int lane, int mask) { return lane ^ mask; }
inline int up_source(int lane, int distance) { return lane < distance ? lane : lane - distance; }

}  // namespace emulated

DEVI void warp_sync() {
  emulated::machine->meet("__syncwarp", "", 1, emulated::nothing);
  POLAR_OBSERVE(warp_sync)();
}
DEVI void block_sync() {
  emulated::machine->block_barrier();
  POLAR_OBSERVE(block_sync)();
}

DEVI void copy_async_16(void *to, const void *from, int bytes) { emulated::copy_async(to, from, 16, bytes); }
DEVI void copy_async_4(void *to, const void *from, int bytes) { emulated::copy_async(to, from, 4, bytes); }
DEVI void copy_commit() {
  auto *fiber = emulated::machine->current;
  fiber->groups.push_back(std::move(fiber->open));
  fiber->open.clear();
}
template <int PENDING>
DEVI void copy_wait() {
  auto &groups = emulated::machine->current->groups;
  while ((int)groups.size() > PENDING) {
    for (const auto &copy : groups.front()) {
      POLAR_OBSERVE(write)(copy.to, size_t(copy.size));
      std::memcpy(copy.to, copy.from, size_t(copy.bytes));
      std::memset(copy.to + copy.bytes, 0, size_t(copy.size - copy.bytes));
    }
    groups.erase(groups.begin());
  }
}

DEVI void load_matrices(u32 (&r)[4], const void *row) { emulated::load_matrices<false>(r, row); }
DEVI void load_matrices_transposed(u32 (&r)[4], const void *row) { emulated::load_matrices<true>(r, row); }
DEVI void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  struct {
    u32 in[6];
    float c[4];
  } mine = {{a[0], a[1], a[2], a[3], b0, b1}, {c[0], c[1], c[2], c[3]}};
  const auto &exchange = emulated::machine->meet("mma", &mine, sizeof mine, emulated::multiply_tiles);
  const int lane = emulated::machine->current->lane, row = lane >> 2, column = (lane & 3) * 2;
  c[0] = exchange.result[row][column], c[1] = exchange.result[row][column + 1];
  c[2] = exchange.result[row + 8][column], c[3] = exchange.result[row + 8][column + 1];
}

DEVI u32 pack_elements(float low, float high) {
  return u32(emulated::round_element(low)) | u32(emulated::round_element(high)) << 16;
}
DEVI float element_value(u16 bits) { return emulated::element(bits); }
DEVI float fast_exp2(float x) { return exp2f(x); }
DEVI u32 float_bits(float x) { return emulated::bits_as<u32>(x); }
DEVI float bits_float(u32 x) { return emulated::bits_as<float>(x); }

DEVI u32 lanes_where(bool value) {
  const u8 mine = value ? 1 : 0;
  const auto &exchange = emulated::machine->meet("vote", &mine, 1, emulated::nothing);
  u32 lanes = 0;
  for (int lane = 0; lane < 32; lane++) lanes |= u32(exchange.lanes[lane][0]) << lane;
  return lanes;
}
DEVI float lane_xor(float value, int mask) { return emulated::lane_value("shfl.xor", value, emulated::xor_source, mask); }
DEVI int lane_xor(int value, int mask) { return emulated::lane_value("shfl.xor", value, emulated::xor_source, mask); }
DEVI u64 lane_xor(u64 value, int mask) { return emulated::lane_value("shfl.xor", value, emulated::xor_source, mask); }
DEVI int lane_up(int value, int distance) { return emulated::lane_value("shfl.up", value, emulated::up_source, distance); }
DEVI u64 lane_up(u64 value, int distance) { return emulated::lane_value("shfl.up", value, emulated::up_source, distance); }
DEVI void shared_add(u32 *to, u32 value) { *to += value; }
DEVI void shared_add(u64 *to, u64 value) { *to += value; }
DEVI u32 global_add(u32 *to, u32 value) {
  const u32 before = *to;
  *to += value;
  return before;
}
DEVI void device_fence() {}
DEVI int bit_count(u64 value) { return __builtin_popcountll(value); }
