// Runs the CUDA kernels of CPolarCUDA/kernels, the very sources, on the CPU: for tests.
//
// Every CUDA thread is a fiber. Barriers and warp operations are rendezvous; between them the fibers of a block run in an order
// that the seed decides. Tensor-core operations and matrix loads are exact in their register layout. Asynchronous copies arrive
// only at their wait, and what they write to reads as NaN before. Shared memory starts as NaN. Blocks run one after another, in an
// order that the seed decides, too.
// A deadlock, lanes of a warp at different operations, a misaligned copy and an access outside of the block's shared memory are
// errors. It cannot show timing, bank conflicts, or races between blocks.
#ifndef POLAR_EMULATOR_H
#define POLAR_EMULATOR_H

#ifdef __cplusplus
extern "C" {
#endif

/// A launch, as the driver would be given it.
typedef struct {
  /// Entry point, such as `polar_attention_decode`.
  const char *kernel;
  /// Of attention kernels: one of 2, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 256; else ignored.
  int head_dim;
  /// 1: elements are f16, else bf16.
  int element_f16;
  /// A planted fault (see polar_emulator_mutation); NULL for the kernel as it ships.
  const char *mutation;
  unsigned grid[3], block[3];
  unsigned long shared_bytes;
  /// The kernel's argument struct and its size, which must be the kernel's.
  const void *args;
  unsigned long args_bytes;
  /// Decides the order in which threads run.
  unsigned long long seed;
} PolarEmulatorLaunch;

/// Runs a launch to its end. Returns 0, or 1 with the reason in `message` (at most `capacity` bytes with the final 0).
int polar_emulator_launch(const PolarEmulatorLaunch *launch, char *message, unsigned long capacity);

/// The name of planted fault number `index`, from 0, of the files that plant one in `kernel`; NULL behind the last.
const char *polar_emulator_mutation(const char *kernel, int index);

#ifdef __cplusplus
}
#endif
#endif
