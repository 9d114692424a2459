// The choice of instruction set at run time.
#include "kernels.h"

int polar_isa_supported(int isa) {
  if (isa == POLAR_ISA_GENERIC) return 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const int avx2 =
    __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == POLAR_ISA_AVX2) return avx2;
  if (isa == POLAR_ISA_AVX512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
      && __builtin_cpu_supports("avx512dq")
      && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16")
      && __builtin_cpu_supports("avx512vnni");
#endif
  return 0;
}

int polar_isa_best(void) {
  for (int isa = POLAR_ISA_AVX512; isa > POLAR_ISA_GENERIC; isa--)
    if (polar_isa_supported(isa)) return isa;
  return POLAR_ISA_GENERIC;
}

const char *polar_cpu_isa_name(int isa) {
  switch (isa) {
    case POLAR_ISA_AVX512: return "avx512";
    case POLAR_ISA_AVX2: return "avx2";
    default: return "generic";
  }
}

const polar_kernels *polar_cpu_table(int isa) {
  switch (isa) {
    case POLAR_ISA_GENERIC: return &polar_kernels_generic;
#if defined(__x86_64__)
    case POLAR_ISA_AVX2: return &polar_kernels_avx2;
    case POLAR_ISA_AVX512: return &polar_kernels_avx512;
#endif
    default: return NULL;
  }
}

void polar_matmul(const polar_kernels *kernels, const polar_matmul_args *args) { kernels->matmul(args); }
