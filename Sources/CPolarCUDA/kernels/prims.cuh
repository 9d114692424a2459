// Primitives: the only file with PTX. The emulator brings its own and defines POLAR_PRIMS_CUH, so that everything above is the
// same source on both.
#ifndef POLAR_PRIMS_CUH
#define POLAR_PRIMS_CUH

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVI static __device__ __forceinline__
#define DEVI_MEMBER __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
/// A kernel of which `blocks` blocks are to fit a multiprocessor: the compiler then does not spill to fit more.
#define RESIDENT_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define ARGS(type) const __grid_constant__ type
#define SHARED_MEMORY(name) extern __shared__ __align__(128) u8 name[]
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

DEVI u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// ---- Order --------------------------------------------------------------------------------------------------------------

DEVI void warp_sync() { __syncwarp(); }
DEVI void block_sync() { __syncthreads(); }

// ---- Asynchronous copies ------------------------------------------------------------------------------------------------

/// Copies `bytes` (0 to 16) of 16 bytes from global to shared memory, past L1, and fills up with zeros.
DEVI void copy_async_16(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}
/// The same with 4 bytes, for rows that are not aligned to more.
DEVI void copy_async_4(void* to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}
DEVI void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `PENDING` of this thread's groups are under way.
template <int PENDING>
DEVI void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- Tensor cores -------------------------------------------------------------------------------------------------------

/// Four 8 x 8 matrices of elements from shared memory; lane i gives the address of row i % 8 of matrix i / 8.
DEVI void load_matrices(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
/// The same, each matrix transposed.
DEVI void load_matrices_transposed(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

#if POLAR_ELEMENT_F16
#define POLAR_MMA_TYPES "f16.f16"
#define POLAR_PACK_TYPE "f16x2"
#else
#define POLAR_MMA_TYPES "bf16.bf16"
#define POLAR_PACK_TYPE "bf16x2"
#endif

/// c += a * b: a 16 x 16 and b 16 x 8 elements, c 16 x 8 f32, in the register layout of mma.m16n8k16.
DEVI void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." POLAR_MMA_TYPES
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two floats as elements, rounded to nearest even, `low` in the low half.
DEVI u32 pack_elements(float low, float high) {
  u32 packed;
  asm("cvt.rn." POLAR_PACK_TYPE ".f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
DEVI float element_value(u16 bits) {
#if POLAR_ELEMENT_F16
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return __uint_as_float((u32)bits << 16);
#endif
}

// ---- Arithmetic ---------------------------------------------------------------------------------------------------------

/// 2^x to about 2 units in the last place; 0 of minus infinity.
DEVI float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVI u32 float_bits(float x) { return __float_as_uint(x); }
DEVI float bits_float(u32 x) { return __uint_as_float(x); }

// ---- Between the lanes of a warp; all 32 take part ----------------------------------------------------------------------

DEVI float lane_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVI int lane_xor(int value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVI u64 lane_xor(u64 value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
/// Bit i is set where lane i says so.
DEVI u32 lanes_where(bool value) { return __ballot_sync(0xffffffffu, value); }
/// The value of the lane `distance` below; the own one where there is none.
DEVI int lane_up(int value, int distance) { return __shfl_up_sync(0xffffffffu, value, distance); }
DEVI u64 lane_up(u64 value, int distance) { return __shfl_up_sync(0xffffffffu, value, distance); }

/// Bits of `value` that are set.
DEVI int bit_count(u64 value) { return __popcll(value); }

// ---- Integer atomics: their order does not matter -----------------------------------------------------------------------

DEVI void shared_add(u32* to, u32 value) { atomicAdd(to, value); }
DEVI void shared_add(u64* to, u64 value) { atomicAdd(to, value); }
/// In global memory; returns what was there.
DEVI u32 global_add(u32* to, u32 value) { return atomicAdd(to, value); }
/// What this thread and those it has met at a barrier wrote is seen by whoever sees what it writes next.
DEVI void device_fence() { __threadfence(); }

#endif
