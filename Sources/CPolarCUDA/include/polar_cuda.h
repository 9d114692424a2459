// The part of the CUDA driver API, NVRTC and cuBLASLt that Polar calls, declared here by hand and found with dlopen at
// run time: neither CUDA headers nor CUDA libraries are needed to build, link or start.
//
// Each function `f` of the tables below gets a wrapper `pc_f` that calls the library, or returns POLAR_CUDA_NOT_LOADED.
// Signatures and values are those of the public documentation of CUDA 12 and 13 and of cuBLAS 12 and 13.
#pragma once
#include "polar_cuda_kernels.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// What every wrapper returns while its library is not loaded; no library uses the value.
#define POLAR_CUDA_NOT_LOADED (-100)

typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef uint64_t CUdeviceptr;
typedef struct _nvrtcProgram *nvrtcProgram;
typedef struct cublasLtContext *cublasLtHandle_t;
typedef struct cublasLtMatmulDescOpaque *cublasLtMatmulDesc_t;
typedef struct cublasLtMatrixLayoutOpaque *cublasLtMatrixLayout_t;
typedef struct cublasLtMatmulPreferenceOpaque *cublasLtMatmulPreference_t;

/// An algorithm of cuBLASLt: 64 opaque bytes that may be copied.
typedef struct {
  uint64_t data[8];
} cublasLtMatmulAlgo_t;

/// One answer of cublasLtMatmulAlgoGetHeuristic, and the one of cublasLtMatmulAlgoCheck.
typedef struct {
  cublasLtMatmulAlgo_t algo;
  size_t workspaceSize;
  int state;
  float wavesCount;
  int reserved[4];
} cublasLtMatmulHeuristicResult_t;

enum {
  // CUdevice_attribute
  POLAR_CU_ATTRIBUTE_SHARED_PER_BLOCK = 8,
  POLAR_CU_ATTRIBUTE_CLOCK_KHZ = 13,
  POLAR_CU_ATTRIBUTE_MULTIPROCESSORS = 16,
  POLAR_CU_ATTRIBUTE_MEMORY_CLOCK_KHZ = 36,
  POLAR_CU_ATTRIBUTE_BUS_WIDTH_BITS = 37,
  POLAR_CU_ATTRIBUTE_L2_BYTES = 38,
  POLAR_CU_ATTRIBUTE_MAJOR = 75,
  POLAR_CU_ATTRIBUTE_MINOR = 76,
  POLAR_CU_ATTRIBUTE_SHARED_PER_BLOCK_OPTIN = 97,
  // CUfunction_attribute
  POLAR_CU_FUNCTION_MAX_DYNAMIC_SHARED = 8,
  POLAR_CU_FUNCTION_SHARED_CARVEOUT = 9,
  // CUshared_carveout
  POLAR_CU_CARVEOUT_MAX_SHARED = 100,
  // CUstream_flags, CUevent_flags, CUstreamCaptureMode
  POLAR_CU_STREAM_NON_BLOCKING = 1,
  POLAR_CU_EVENT_DISABLE_TIMING = 2,
  POLAR_CU_CAPTURE_RELAXED = 2,
  // CUresult
  POLAR_CU_ERROR_OUT_OF_MEMORY = 2,
  // cudaDataType, cublasComputeType_t, cublasOperation_t
  POLAR_CUDA_R_32F = 0,
  POLAR_CUDA_R_16F = 2,
  POLAR_CUDA_R_16BF = 14,
  POLAR_CUBLAS_COMPUTE_32F = 68,
  POLAR_CUBLAS_OP_T = 1,
  // cublasLtMatmulDescAttributes_t
  POLAR_CUBLASLT_DESC_TRANSA = 3,
  POLAR_CUBLASLT_DESC_EPILOGUE = 7,
  POLAR_CUBLASLT_DESC_BIAS_POINTER = 8,
  // cublasLtMatrixLayoutAttribute_t
  POLAR_CUBLASLT_LAYOUT_COLS = 3,
  // cublasLtEpilogue_t
  POLAR_CUBLASLT_EPILOGUE_DEFAULT = 1,
  POLAR_CUBLASLT_EPILOGUE_BIAS = 4,
  // cublasLtMatmulPreferenceAttributes_t
  POLAR_CUBLASLT_PREFERENCE_WORKSPACE_BYTES = 1,
  POLAR_CUBLASLT_PREFERENCE_REDUCTION_MASK = 3,
  POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_A = 5,
  POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_B = 6,
  POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_C = 7,
  POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_D = 8,
  // cublasLtReductionScheme_t
  POLAR_CUBLASLT_REDUCTION_COMPUTE_TYPE = 2,
  // cublasStatus_t
  POLAR_CUBLAS_STATUS_NOT_SUPPORTED = 15,
};

#define POLAR_CUDA_DRIVER_FUNCTIONS(X) \
  X(int, cuInit, "cuInit", (unsigned flags), (flags)) \
  X(int, cuDriverGetVersion, "cuDriverGetVersion", (int *version), (version)) \
  X(int, cuGetErrorName, "cuGetErrorName", (int error, const char **text), (error, text)) \
  X(int, cuGetErrorString, "cuGetErrorString", (int error, const char **text), (error, text)) \
  X(int, cuDeviceGetCount, "cuDeviceGetCount", (int *count), (count)) \
  X(int, cuDeviceGet, "cuDeviceGet", (int *device, int ordinal), (device, ordinal)) \
  X(int, cuDeviceGetName, "cuDeviceGetName", (char *name, int size, int device), (name, size, device)) \
  X(int, cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t *bytes, int device), (bytes, device)) \
  X(int, cuDeviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, int device), \
    (value, attribute, device)) \
  X(int, cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext *context, int device), \
    (context, device)) \
  X(int, cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (int device), (device)) \
  X(int, cuCtxSetCurrent, "cuCtxSetCurrent", (CUcontext context), (context)) \
  X(int, cuMemGetInfo, "cuMemGetInfo_v2", (size_t *available, size_t *total), (available, total)) \
  X(int, cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr *address, size_t bytes), (address, bytes)) \
  X(int, cuMemFree, "cuMemFree_v2", (CUdeviceptr address), (address)) \
  X(int, cuMemAllocHost, "cuMemAllocHost_v2", (void **address, size_t bytes), (address, bytes)) \
  X(int, cuMemFreeHost, "cuMemFreeHost", (void *address), (address)) \
  X(int, cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", \
    (CUdeviceptr to, const void *from, size_t bytes, CUstream stream), (to, from, bytes, stream)) \
  X(int, cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", \
    (void *to, CUdeviceptr from, size_t bytes, CUstream stream), (to, from, bytes, stream)) \
  X(int, cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", \
    (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream), (to, from, bytes, stream)) \
  X(int, cuMemsetD8Async, "cuMemsetD8Async", \
    (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream), (to, value, bytes, stream)) \
  X(int, cuStreamCreate, "cuStreamCreate", (CUstream *stream, unsigned flags), (stream, flags)) \
  X(int, cuStreamDestroy, "cuStreamDestroy_v2", (CUstream stream), (stream)) \
  X(int, cuStreamSynchronize, "cuStreamSynchronize", (CUstream stream), (stream)) \
  X(int, cuStreamWaitEvent, "cuStreamWaitEvent", (CUstream stream, CUevent event, unsigned flags), \
    (stream, event, flags)) \
  X(int, cuStreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream stream, int mode), (stream, mode)) \
  X(int, cuStreamEndCapture, "cuStreamEndCapture", (CUstream stream, CUgraph *graph), (stream, graph)) \
  X(int, cuGraphInstantiate, "cuGraphInstantiateWithFlags", \
    (CUgraphExec *work, CUgraph graph, unsigned long long flags), (work, graph, flags)) \
  X(int, cuGraphLaunch, "cuGraphLaunch", (CUgraphExec work, CUstream stream), (work, stream)) \
  X(int, cuGraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec work), (work)) \
  X(int, cuGraphDestroy, "cuGraphDestroy", (CUgraph graph), (graph)) \
  X(int, cuEventCreate, "cuEventCreate", (CUevent *event, unsigned flags), (event, flags)) \
  X(int, cuEventRecord, "cuEventRecord", (CUevent event, CUstream stream), (event, stream)) \
  X(int, cuEventSynchronize, "cuEventSynchronize", (CUevent event), (event)) \
  X(int, cuEventElapsedTime, "cuEventElapsedTime", (float *milliseconds, CUevent start, CUevent end), \
    (milliseconds, start, end)) \
  X(int, cuEventDestroy, "cuEventDestroy_v2", (CUevent event), (event)) \
  X(int, cuModuleLoadData, "cuModuleLoadData", (CUmodule *module, const void *image), (module, image)) \
  X(int, cuModuleUnload, "cuModuleUnload", (CUmodule module), (module)) \
  X(int, cuModuleGetFunction, "cuModuleGetFunction", \
    (CUfunction *function, CUmodule module, const char *name), (function, module, name)) \
  X(int, cuFuncSetAttribute, "cuFuncSetAttribute", (CUfunction function, int attribute, int value), \
    (function, attribute, value)) \
  X(int, cuLaunchKernel, "cuLaunchKernel", \
    (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, \
     unsigned shared, CUstream stream, void **arguments, void **extra), \
    (function, gx, gy, gz, bx, by, bz, shared, stream, arguments, extra))

#define POLAR_CUDA_NVRTC_FUNCTIONS(X) \
  X(int, nvrtcVersion, "nvrtcVersion", (int *major, int *minor), (major, minor)) \
  X(int, nvrtcCreateProgram, "nvrtcCreateProgram", \
    (nvrtcProgram *program, const char *source, const char *name, int count, const char *const *headers, \
     const char *const *names), \
    (program, source, name, count, headers, names)) \
  X(int, nvrtcCompileProgram, "nvrtcCompileProgram", \
    (nvrtcProgram program, int count, const char *const *options), (program, count, options)) \
  X(int, nvrtcDestroyProgram, "nvrtcDestroyProgram", (nvrtcProgram *program), (program)) \
  X(int, nvrtcGetCUBINSize, "nvrtcGetCUBINSize", (nvrtcProgram program, size_t *bytes), (program, bytes)) \
  X(int, nvrtcGetCUBIN, "nvrtcGetCUBIN", (nvrtcProgram program, char *bytes), (program, bytes)) \
  X(int, nvrtcGetProgramLogSize, "nvrtcGetProgramLogSize", (nvrtcProgram program, size_t *bytes), \
    (program, bytes)) \
  X(int, nvrtcGetProgramLog, "nvrtcGetProgramLog", (nvrtcProgram program, char *bytes), (program, bytes))

#define POLAR_CUDA_CUBLASLT_FUNCTIONS(X) \
  X(int, cublasLtCreate, "cublasLtCreate", (cublasLtHandle_t *handle), (handle)) \
  X(int, cublasLtDestroy, "cublasLtDestroy", (cublasLtHandle_t handle), (handle)) \
  X(int, cublasLtMatmulDescCreate, "cublasLtMatmulDescCreate", \
    (cublasLtMatmulDesc_t *descriptor, int compute, int scale), (descriptor, compute, scale)) \
  X(int, cublasLtMatmulDescDestroy, "cublasLtMatmulDescDestroy", (cublasLtMatmulDesc_t descriptor), \
    (descriptor)) \
  X(int, cublasLtMatmulDescSetAttribute, "cublasLtMatmulDescSetAttribute", \
    (cublasLtMatmulDesc_t descriptor, int attribute, const void *value, size_t bytes), \
    (descriptor, attribute, value, bytes)) \
  X(int, cublasLtMatrixLayoutCreate, "cublasLtMatrixLayoutCreate", \
    (cublasLtMatrixLayout_t *layout, int type, uint64_t rows, uint64_t columns, int64_t stride), \
    (layout, type, rows, columns, stride)) \
  X(int, cublasLtMatrixLayoutDestroy, "cublasLtMatrixLayoutDestroy", (cublasLtMatrixLayout_t layout), \
    (layout)) \
  X(int, cublasLtMatrixLayoutSetAttribute, "cublasLtMatrixLayoutSetAttribute", \
    (cublasLtMatrixLayout_t layout, int attribute, const void *value, size_t bytes), \
    (layout, attribute, value, bytes)) \
  X(int, cublasLtMatmulPreferenceCreate, "cublasLtMatmulPreferenceCreate", \
    (cublasLtMatmulPreference_t *preference), (preference)) \
  X(int, cublasLtMatmulPreferenceDestroy, "cublasLtMatmulPreferenceDestroy", \
    (cublasLtMatmulPreference_t preference), (preference)) \
  X(int, cublasLtMatmulPreferenceSetAttribute, "cublasLtMatmulPreferenceSetAttribute", \
    (cublasLtMatmulPreference_t preference, int attribute, const void *value, size_t bytes), \
    (preference, attribute, value, bytes)) \
  X(int, cublasLtMatmulAlgoGetHeuristic, "cublasLtMatmulAlgoGetHeuristic", \
    (cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor, cublasLtMatrixLayout_t a, \
     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, \
     cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t *results, int *found), \
    (handle, descriptor, a, b, c, d, preference, wanted, results, found)) \
  X(int, cublasLtMatmulAlgoCheck, "cublasLtMatmulAlgoCheck", \
    (cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor, cublasLtMatrixLayout_t a, \
     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, \
     const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulHeuristicResult_t *result), \
    (handle, descriptor, a, b, c, d, algorithm, result)) \
  X(int, cublasLtMatmul, "cublasLtMatmul", \
    (cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor, const void *alpha, const void *a, \
     cublasLtMatrixLayout_t aLayout, const void *b, cublasLtMatrixLayout_t bLayout, const void *beta, \
     const void *c, cublasLtMatrixLayout_t cLayout, void *d, cublasLtMatrixLayout_t dLayout, \
     const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspaceBytes, CUstream stream), \
    (handle, descriptor, alpha, a, aLayout, b, bLayout, beta, c, cLayout, d, dLayout, algorithm, workspace, \
     workspaceBytes, stream))

#define POLAR_CUDA_DECLARE(R, name, symbol, parameters, arguments) R pc_##name parameters;
POLAR_CUDA_DRIVER_FUNCTIONS(POLAR_CUDA_DECLARE)
POLAR_CUDA_NVRTC_FUNCTIONS(POLAR_CUDA_DECLARE)
POLAR_CUDA_CUBLASLT_FUNCTIONS(POLAR_CUDA_DECLARE)
#undef POLAR_CUDA_DECLARE

/// cublasLtGetVersion, 0 while the library is not loaded.
size_t pc_cublasLtGetVersion(void);
/// cublasLtGetStatusString and nvrtcGetErrorString, NULL while the library is not loaded.
const char *pc_cublasLtGetStatusString(int status);
const char *pc_nvrtcGetErrorString(int result);

/// The libraries.
typedef enum {
  POLAR_CUDA_DRIVER = 0,
  POLAR_CUDA_NVRTC = 1,
  POLAR_CUDA_CUBLASLT = 2,
} polar_cuda_library;

/// Opens a library at `path` (a full path, or a name for the system's search) and looks up all of its functions.
/// Returns 0, or -1 with the reason in `reason`. A second call after a success does nothing and returns 0. Calls must
/// not run at the same time as other calls of this header.
int polar_cuda_load(polar_cuda_library library, const char *path, char *reason, size_t reason_size);

/// Opens a library for the sake of others that look for it by its bare name (NVRTC's builtins). Returns 0 or -1.
int polar_cuda_preload(const char *path);

// Sizes of polar_cuda_kernels.h that are macros, which Swift does not see.
static inline int polar_weight_pitch(int inputs) { return POLAR_WEIGHT_PITCH(inputs); }
static inline int polar_decode_threads(int head_dim) { return POLAR_DECODE_THREADS(head_dim); }
static inline int polar_decode_shared(int head_dim) { return POLAR_DECODE_SHARED(head_dim); }
static inline int polar_prefill_shared(int head_dim) { return POLAR_PREFILL_SHARED(head_dim); }
static inline int polar_up_shared(int tokens, int gated) { return POLAR_UP_SHARED(tokens, gated); }
static inline int polar_up_partials(int rows, int gated) { return POLAR_UP_PARTIALS(rows, gated); }
static inline int polar_down_shared(int tokens) { return POLAR_DOWN_SHARED(tokens); }

/// Number of kernel source files in the executable.
int polar_cuda_source_count(void);
/// Name of a kernel source file, as other files include it.
const char *polar_cuda_source_name(int index);
/// Text of a kernel source file, NUL-terminated.
const char *polar_cuda_source_text(int index);

#ifdef __cplusplus
}
#endif
