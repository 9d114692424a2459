// The choice of instruction set at run time.
#include "kernels.h"
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__aarch64__)
static int supports_i8mm(void) {
#if defined(__linux__)
  return (getauxval(AT_HWCAP2) & 1ul << 13) != 0;  // HWCAP2_I8MM
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &size, NULL, 0) == 0 && value;
#else
  return 0;
#endif
}
#endif

#if defined(__x86_64__)
static int supports_avxvnni(void) {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)
    && (eax & 1u << 4) != 0;
}
#endif

int polar_isa_supported(int isa) {
  if (isa == POLAR_ISA_GENERIC) return 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const int avx2 =
    __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == POLAR_ISA_AVX2) return avx2;
  if (isa == POLAR_ISA_AVXVNNI) return avx2 && supports_avxvnni();
  if (isa == POLAR_ISA_AVX512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
      && __builtin_cpu_supports("avx512dq")
      && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16")
      && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
#elif defined(__aarch64__)
  if (isa == POLAR_ISA_NEON) return supports_i8mm();
#endif
  return 0;
}

int polar_isa_best(void) {
  for (int isa = POLAR_ISA_LAST; isa > POLAR_ISA_GENERIC; isa--)
    if (polar_isa_supported(isa)) return isa;
  return POLAR_ISA_GENERIC;
}

const char *polar_cpu_isa_name(int isa) {
  switch (isa) {
    case POLAR_ISA_NEON: return "neon";
    case POLAR_ISA_AVX512: return "avx512";
    case POLAR_ISA_AVXVNNI: return "avxvnni";
    case POLAR_ISA_AVX2: return "avx2";
    default: return "generic";
  }
}

const polar_kernels *polar_cpu_table(int isa) {
  switch (isa) {
    case POLAR_ISA_GENERIC: return &polar_kernels_generic;
#if defined(__x86_64__)
    case POLAR_ISA_AVX2: return &polar_kernels_avx2;
    case POLAR_ISA_AVXVNNI: return &polar_kernels_avxvnni;
    case POLAR_ISA_AVX512: return &polar_kernels_avx512;
#elif defined(__aarch64__)
    case POLAR_ISA_NEON: return &polar_kernels_neon;
#endif
    default: return NULL;
  }
}

void polar_matmul(const polar_kernels *kernels, const polar_matmul_args *args) { kernels->matmul(args); }
