// Compares what polar_cuda.h declares by hand with NVIDIA's headers, at compile time. Run it through check_bindings.sh.
//
// POLAR_HEADER is a copy of polar_cuda.h whose type names are prefixed, so that both can be in one file.
#define __CUDA_API_VERSION_INTERNAL  // declares the symbols of earlier versions, too
#include <cuda.h>
#if __has_include(<nvrtc.h>)
#include <nvrtc.h>
#endif
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#endif
#include <cstddef>
#include <type_traits>

#include POLAR_HEADER

// An argument agrees when it is passed alike: both integers (an enum is one) or both floating of one size, or both pointers to such.
// Structs and opaque handles are compared by their names alone.
template <class A, class B>
constexpr bool is_alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    using To = std::remove_cv_t<std::remove_pointer_t<A>>;
    using From = std::remove_cv_t<std::remove_pointer_t<B>>;
    if constexpr (std::is_scalar_v<To> && std::is_scalar_v<From>) return is_alike<To, From>();
    return std::is_scalar_v<To> == std::is_scalar_v<From> || std::is_void_v<To> || std::is_void_v<From>;
  } else if constexpr (std::is_scalar_v<A> && std::is_scalar_v<B>) {
    return sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B> &&
           std::is_floating_point_v<A> == std::is_floating_point_v<B>;
  }
  return false;
}

template <class A, class B>
struct Agrees : std::false_type {};
template <class R, class S, class... P, class... Q>
struct Agrees<R (*)(P...), S (*)(Q...)>
    : std::bool_constant<is_alike<R, S>() && (... && is_alike<P, Q>())> {};
template <class A, class B>
struct Count : std::false_type {};
template <class R, class S, class... P, class... Q>
struct Count<R (*)(P...), S (*)(Q...)> : std::bool_constant<sizeof...(P) == sizeof...(Q)> {};

template <class A, class B>
constexpr bool agrees() {
  if constexpr (Count<A, B>::value) return Agrees<A, B>::value;
  return false;
}

#define FUNCTION(R, name, symbol, parameters, arguments) \
  static_assert(agrees<decltype(&POLAR_SYMBOL_##name), decltype(&pc_##name)>(), symbol " is declared otherwise");
#define VALUE(ours, theirs) static_assert((long)(ours) == (long)(theirs), #ours " is not " #theirs);

#include POLAR_SYMBOLS

POLAR_CUDA_DRIVER_FUNCTIONS(FUNCTION)
#if __has_include(<nvrtc.h>)
POLAR_CUDA_NVRTC_FUNCTIONS(FUNCTION)
static_assert(agrees<decltype(&nvrtcGetErrorString), decltype(&pc_nvrtcGetErrorString)>());
#endif

VALUE(POLAR_CU_ATTRIBUTE_MULTIPROCESSORS, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
VALUE(POLAR_CU_ATTRIBUTE_MEMORY_CLOCK_KHZ, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)
VALUE(POLAR_CU_ATTRIBUTE_BUS_WIDTH_BITS, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)
VALUE(POLAR_CU_ATTRIBUTE_L2_BYTES, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
VALUE(POLAR_CU_ATTRIBUTE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
VALUE(POLAR_CU_ATTRIBUTE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
VALUE(POLAR_CU_ATTRIBUTE_SHARED_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
VALUE(POLAR_CU_FUNCTION_MAX_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
VALUE(POLAR_CU_FUNCTION_SHARED_CARVEOUT, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
VALUE(POLAR_CU_CARVEOUT_MAX_SHARED, CU_SHAREDMEM_CARVEOUT_MAX_SHARED)
VALUE(POLAR_CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING)
VALUE(POLAR_CU_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING)
VALUE(POLAR_CU_CAPTURE_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED)
VALUE(POLAR_CU_ERROR_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY)

#if __has_include(<cublasLt.h>)
POLAR_CUDA_CUBLASLT_FUNCTIONS(FUNCTION)
static_assert(agrees<decltype(&cublasLtGetStatusString), decltype(&pc_cublasLtGetStatusString)>());
static_assert(agrees<decltype(&cublasLtGetVersion), decltype(&pc_cublasLtGetVersion)>());
static_assert(sizeof(polar_cublasLtMatmulAlgo_t) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(polar_cublasLtMatmulHeuristicResult_t) == sizeof(cublasLtMatmulHeuristicResult_t));
#define FIELD(field)                                                                 \
  static_assert(                                                                     \
      offsetof(polar_cublasLtMatmulHeuristicResult_t, field) == offsetof(cublasLtMatmulHeuristicResult_t, field) && \
      sizeof(polar_cublasLtMatmulHeuristicResult_t::field) == sizeof(cublasLtMatmulHeuristicResult_t::field));
FIELD(algo)
FIELD(workspaceSize)
FIELD(state)
FIELD(wavesCount)
VALUE(POLAR_CUDA_R_32F, CUDA_R_32F)
VALUE(POLAR_CUDA_R_16F, CUDA_R_16F)
VALUE(POLAR_CUDA_R_16BF, CUDA_R_16BF)
VALUE(POLAR_CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F)
VALUE(POLAR_CUBLAS_OP_T, CUBLAS_OP_T)
VALUE(POLAR_CUBLASLT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA)
VALUE(POLAR_CUBLASLT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE)
VALUE(POLAR_CUBLASLT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER)
VALUE(POLAR_CUBLASLT_LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_COLS)
VALUE(POLAR_CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT)
VALUE(POLAR_CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS)
VALUE(POLAR_CUBLASLT_PREFERENCE_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
VALUE(POLAR_CUBLASLT_PREFERENCE_REDUCTION_MASK, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
VALUE(POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
VALUE(POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES)
VALUE(POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES)
VALUE(POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
VALUE(POLAR_CUBLASLT_REDUCTION_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
VALUE(POLAR_CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED)
#endif
