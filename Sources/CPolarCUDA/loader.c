// Opens the CUDA libraries and forwards to them.
#include "polar_cuda.h"

#include <dlfcn.h>
#include <stdio.h>

typedef struct {
  const char *symbol;
  void **slot;
} entry;

#define DEFINE(R, name, symbol, parameters, arguments) \
  static R(*p_##name) parameters; \
  R pc_##name parameters { return p_##name ? p_##name arguments : POLAR_CUDA_NOT_LOADED; }
POLAR_CUDA_DRIVER_FUNCTIONS(DEFINE)
POLAR_CUDA_NVRTC_FUNCTIONS(DEFINE)
POLAR_CUDA_CUBLASLT_FUNCTIONS(DEFINE)
static size_t (*p_cublasLtGetVersion)(void);
size_t pc_cublasLtGetVersion(void) { return p_cublasLtGetVersion ? p_cublasLtGetVersion() : 0; }
static const char *(*p_cublasLtGetStatusString)(int);
const char *pc_cublasLtGetStatusString(int status) {
  return p_cublasLtGetStatusString ? p_cublasLtGetStatusString(status) : 0;
}
static const char *(*p_nvrtcGetErrorString)(int);
const char *pc_nvrtcGetErrorString(int result) { return p_nvrtcGetErrorString ? p_nvrtcGetErrorString(result) : 0; }

#define ENTRY(R, name, symbol, parameters, arguments) {symbol, (void **)&p_##name},
static const entry driver[] = {POLAR_CUDA_DRIVER_FUNCTIONS(ENTRY){0, 0}};
static const entry nvrtc[] = {
    POLAR_CUDA_NVRTC_FUNCTIONS(ENTRY){"nvrtcGetErrorString", (void **)&p_nvrtcGetErrorString}, {0, 0}};
static const entry cublaslt[] = {
    POLAR_CUDA_CUBLASLT_FUNCTIONS(ENTRY){"cublasLtGetVersion", (void **)&p_cublasLtGetVersion},
    {"cublasLtGetStatusString", (void **)&p_cublasLtGetStatusString},
    {0, 0}};
static const entry *const tables[] = {driver, nvrtc, cublaslt};

int polar_cuda_load(polar_cuda_library library, const char *path, char *reason, size_t reason_size) {
  const entry *table = tables[library];
  if (*table[0].slot) return 0;
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char *error = dlerror();
    snprintf(reason, reason_size, "%s", error ? error : "cannot be opened");
    return -1;
  }
  for (const entry *e = table; e->symbol; e++) {
    if (!dlsym(handle, e->symbol)) {
      snprintf(reason, reason_size, "has no function %s", e->symbol);
      dlclose(handle);
      return -1;
    }
  }
  // Only a complete library is used, so that no call can fail for a missing function later.
  for (const entry *e = table; e->symbol; e++) *e->slot = dlsym(handle, e->symbol);
  return 0;
}

int polar_cuda_preload(const char *path) { return dlopen(path, RTLD_NOW | RTLD_GLOBAL) ? 0 : -1; }
