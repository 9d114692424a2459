// A stand-in for the CUDA driver: the functions of libcuda.so.1 that Polar calls, over the emulator that runs the kernels on the CPU.
// It holds callers to the documented rules: a context must be current on the thread, memory is not zeroed and has guarded ends, copies
// from pinned memory read it when the stream comes to them, blocks, grids and shared memory have the driver's limits, and what may not
// happen while a stream is captured is refused.

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string>

#include "../../../Tests/Emulator/include/polar_emulator.h"
#include "../../../Tests/Emulator/registry.h"
#include "polar_cuda.h"
#include "streams.h"

using namespace fake;

namespace {

/// Of CUresult.
enum {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_ILLEGAL_STATE = 401,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_READY = 600,
  CUDA_ERROR_LAUNCH_FAILED = 719,
  CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
  CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
  CUDA_ERROR_CAPTURED_EVENT = 907,
};

constexpr size_t GUARD = 256;
constexpr int MULTIPROCESSORS = 3, DEFAULT_SHARED = 48 << 10, MOST_SHARED = 99 << 10;

struct Function {
  std::string name;
  int head_dim, element_f16;
  int shared = DEFAULT_SHARED;
};
struct Module {
  int head_dim = 0, element_f16 = 0;
  std::vector<std::unique_ptr<Function>> functions;
};

std::recursive_mutex lock;
thread_local bool has_context = false;
std::set<Stream *> streams;
std::map<CUdeviceptr, size_t> memory;
std::map<char *, size_t> pinned;
int broken = CUDA_SUCCESS;
std::string broken_text;
unsigned long long seed = 1;

/// An error of the device stays: every later call reports it.
void fail(const std::string &text) {
  if (broken != CUDA_SUCCESS) return;
  broken = CUDA_ERROR_LAUNCH_FAILED;
  broken_text = text;
  std::fprintf(stderr, "stand-in driver: %s\n", text.c_str());
}

int refuse(int result, const char *call, const std::string &why) {
  std::fprintf(stderr, "stand-in driver: %s: %s\n", call, why.c_str());
  return result;
}

bool is_known(CUdeviceptr address, size_t bytes) {
  auto block = memory.upper_bound(address);
  if (block == memory.begin()) return false;
  --block;
  return address + bytes <= block->first + block->second;
}

bool guards_hold(CUdeviceptr base, size_t bytes) {
  const unsigned char *start = (const unsigned char *)base - GUARD, *end = (const unsigned char *)base + bytes;
  for (size_t i = 0; i < GUARD; i++) {
    if (start[i] != 0xa5 || end[i] != 0xa5) return false;
  }
  return true;
}

bool is_pinned(const void *p, size_t bytes) {
  auto block = pinned.upper_bound((char *)p);
  if (block == pinned.begin()) return false;
  --block;
  return (char *)p + bytes <= block->first + block->second;
}

void give(Stream *stream, Step step) {
  if (stream->capture) {
    stream->is_joined = stream == stream->capture->origin;
    stream->capture->steps[stream].push_back(std::move(step));
  } else {
    stream->steps.push_back(std::move(step));
  }
}

void run_all() {
  for (Stream *stream : streams) stream->run();
}

/// The number behind `name` in a unit's text; 0 where it is not.
int number_after(const char *text, const char *name) {
  const char *at = std::strstr(text, name);
  return at ? std::atoi(at + std::strlen(name)) : 0;
}

size_t argument_bytes(const Function &function) {
  for (const emulator::Kernel &kernel : emulator::kernels()) {
    if (function.name == kernel.name && !kernel.mutation) return kernel.args_bytes;
  }
  return 0;
}

/// Of the kernel that runs.
const std::vector<char> *running_arguments = nullptr;

void run_kernel(const Function &function, std::array<unsigned, 6> shape, unsigned shared, const std::vector<char> &arguments) {
  PolarEmulatorLaunch launch = {};
  launch.kernel = function.name.c_str();
  launch.head_dim = function.head_dim;
  launch.element_f16 = function.element_f16;
  for (int i = 0; i < 3; i++) launch.grid[i] = shape[i], launch.block[i] = shape[3 + i];
  launch.shared_bytes = shared;
  launch.args = arguments.data();
  launch.args_bytes = arguments.size();
  launch.seed = seed++;
  running_arguments = &arguments;
  char message[512];
  if (polar_emulator_launch(&launch, message, sizeof message) != 0) fail(message);
}

/// At the end: whether anything was written beside a block of memory.
struct AtEnd {
  ~AtEnd() {
    for (const auto &[base, bytes] : memory) {
      if (!guards_hold(base, bytes)) std::fprintf(stderr, "stand-in driver: written beside a block of %zu bytes\n", bytes);
    }
  }
} at_end;

}  // namespace

#define ENTER(call)                                                                  \
  std::lock_guard<std::recursive_mutex> guard(lock);                                 \
  if (!has_context) return refuse(CUDA_ERROR_INVALID_CONTEXT, call, "no context is current on this thread"); \
  if (broken != CUDA_SUCCESS) return broken

extern "C" {

int cuInit(unsigned) { return CUDA_SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
int cuGetErrorName(int error, const char **text) {
  return *text = error == broken && error ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR", CUDA_SUCCESS;
}
int cuGetErrorString(int error, const char **text) {
  static std::string message;
  message = error == broken ? broken_text : "error " + std::to_string(error) + " of the stand-in driver";
  return *text = message.c_str(), CUDA_SUCCESS;
}
int cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
int cuDeviceGetName(char *name, int size, int) { return std::snprintf(name, size, "stand-in"), CUDA_SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = size_t(4) << 30, CUDA_SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
    case POLAR_CU_ATTRIBUTE_MULTIPROCESSORS: *value = MULTIPROCESSORS; return CUDA_SUCCESS;
    case POLAR_CU_ATTRIBUTE_MAJOR: *value = 8; return CUDA_SUCCESS;
    case POLAR_CU_ATTRIBUTE_MINOR: *value = 6; return CUDA_SUCCESS;
    case POLAR_CU_ATTRIBUTE_L2_BYTES: *value = 1 << 16; return CUDA_SUCCESS;
    case POLAR_CU_ATTRIBUTE_SHARED_PER_BLOCK_OPTIN: *value = MOST_SHARED; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}
int cuDevicePrimaryCtxRetain(CUcontext *context, int) { return *context = (CUcontext)1, CUDA_SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return CUDA_SUCCESS; }
int cuCtxSetCurrent(CUcontext context) { return has_context = context != nullptr, CUDA_SUCCESS; }

int cuMemGetInfo_v2(size_t *available, size_t *total) {
  ENTER("cuMemGetInfo");
  *available = size_t(2) << 30, *total = size_t(4) << 30;
  return CUDA_SUCCESS;
}
int cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  ENTER("cuMemAlloc");
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > size_t(2) << 30) return CUDA_ERROR_OUT_OF_MEMORY;
  char *block = (char *)std::aligned_alloc(256, (bytes + 2 * GUARD + 255) / 256 * 256);
  std::memset(block, 0xa5, GUARD);
  std::memset(block + GUARD, 0xff, bytes);
  std::memset(block + GUARD + bytes, 0xa5, GUARD);
  *address = (CUdeviceptr)(block + GUARD);
  memory[*address] = bytes;
  return CUDA_SUCCESS;
}
int cuMemFree_v2(CUdeviceptr address) {
  ENTER("cuMemFree");
  auto block = memory.find(address);
  if (block == memory.end()) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemFree", "not a block");
  run_all();  // freeing waits for the device
  if (!guards_hold(address, block->second)) fail("written beside a block of memory");
  std::free((char *)address - GUARD);
  memory.erase(block);
  return CUDA_SUCCESS;
}
int cuMemAllocHost_v2(void **address, size_t bytes) {
  ENTER("cuMemAllocHost");
  *address = std::malloc(bytes);
  pinned[(char *)*address] = bytes;
  return CUDA_SUCCESS;
}
int cuMemFreeHost(void *address) {
  ENTER("cuMemFreeHost");
  run_all();
  pinned.erase((char *)address);
  std::free(address);
  return CUDA_SUCCESS;
}
int cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream raw) {
  ENTER("cuMemcpyHtoDAsync");
  Stream *stream = (Stream *)raw;
  if (stream->capture) return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuMemcpyHtoDAsync", "host data in a captured step");
  if (!is_known(to, bytes)) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemcpyHtoDAsync", "outside of any block");
  if (is_pinned(from, bytes)) {
    give(stream, {[=] { std::memcpy((void *)to, from, bytes); }});
  } else {
    auto copy = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    give(stream, {[=] { std::memcpy((void *)to, copy->data(), bytes); }});
  }
  return CUDA_SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream raw) {
  ENTER("cuMemcpyDtoHAsync");
  Stream *stream = (Stream *)raw;
  if (stream->capture) return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuMemcpyDtoHAsync", "host data in a captured step");
  if (!is_known(from, bytes)) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemcpyDtoHAsync", "outside of any block");
  give(stream, {[=] { std::memcpy(to, (const void *)from, bytes); }});
  return CUDA_SUCCESS;
}
int cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream raw) {
  ENTER("cuMemcpyDtoDAsync");
  if (!is_known(from, bytes) || !is_known(to, bytes)) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemcpyDtoDAsync", "outside of any block");
  }
  give((Stream *)raw, {[=] { std::memmove((void *)to, (const void *)from, bytes); }});
  return CUDA_SUCCESS;
}
int cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream raw) {
  ENTER("cuMemsetD8Async");
  if (!is_known(to, bytes)) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemsetD8Async", "outside of any block");
  give((Stream *)raw, {[=] { std::memset((void *)to, value, bytes); }});
  return CUDA_SUCCESS;
}

int cuStreamCreate(CUstream *stream, unsigned flags) {
  ENTER("cuStreamCreate");
  if (flags != POLAR_CU_STREAM_NON_BLOCKING) return refuse(CUDA_ERROR_INVALID_VALUE, "cuStreamCreate", "a blocking stream");
  Stream *made = new Stream;
  streams.insert(made);
  *stream = (CUstream)made;
  return CUDA_SUCCESS;
}
int cuStreamDestroy_v2(CUstream raw) {
  ENTER("cuStreamDestroy");
  ((Stream *)raw)->run();
  streams.erase((Stream *)raw);
  delete (Stream *)raw;
  return CUDA_SUCCESS;
}
int cuStreamSynchronize(CUstream raw) {
  ENTER("cuStreamSynchronize");
  Stream *stream = (Stream *)raw;
  if (stream->capture) {
    stream->capture->is_valid = false;
    return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamSynchronize", "of a captured stream");
  }
  stream->run();
  return broken;
}
int cuStreamWaitEvent(CUstream raw, CUevent event, unsigned) {
  ENTER("cuStreamWaitEvent");
  Stream *stream = (Stream *)raw;
  std::shared_ptr<Mark> mark = ((Event *)event)->mark;
  if (!mark) return CUDA_SUCCESS;
  if (mark->capture) {
    if (!stream->steps.empty()) stream->run();
    stream->capture = mark->capture;
    if (stream == mark->capture->origin) mark->stream->is_joined = true;
  } else if (stream->capture) {
    return refuse(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "cuStreamWaitEvent", "an event from outside of the capture");
  }
  give(stream, {nullptr, nullptr, mark});
  return CUDA_SUCCESS;
}
int cuStreamBeginCapture_v2(CUstream raw, int mode) {
  ENTER("cuStreamBeginCapture");
  Stream *stream = (Stream *)raw;
  if (stream->capture) return refuse(CUDA_ERROR_ILLEGAL_STATE, "cuStreamBeginCapture", "captured already");
  if (mode != POLAR_CU_CAPTURE_RELAXED) return refuse(CUDA_ERROR_INVALID_VALUE, "cuStreamBeginCapture", "not relaxed");
  stream->capture = new Capture{stream};
  return CUDA_SUCCESS;
}
int cuStreamEndCapture(CUstream raw, CUgraph *graph) {
  ENTER("cuStreamEndCapture");
  Stream *origin = (Stream *)raw;
  Capture *capture = origin->capture;
  *graph = nullptr;
  if (!capture || capture->origin != origin) return refuse(CUDA_ERROR_ILLEGAL_STATE, "cuStreamEndCapture", "not captured");
  int result = CUDA_SUCCESS;
  for (Stream *stream : streams) {
    if (stream->capture != capture) continue;
    stream->capture = nullptr;
    if (stream != origin && !stream->is_joined) {
      result = refuse(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "cuStreamEndCapture", "a stream was not joined");
    }
    stream->is_joined = true;
  }
  if (!capture->is_valid) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (result == CUDA_SUCCESS) *graph = (CUgraph) new Graph{origin, capture->steps};
  return result;
}
int cuGraphInstantiateWithFlags(CUgraphExec *work, CUgraph graph, unsigned long long flags) {
  ENTER("cuGraphInstantiateWithFlags");
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  *work = (CUgraphExec) new Graph(*(Graph *)graph);
  return CUDA_SUCCESS;
}
int cuGraphLaunch(CUgraphExec work, CUstream stream) {
  ENTER("cuGraphLaunch");
  give((Stream *)stream, {[graph = (Graph *)work] { graph->run(); }});
  return CUDA_SUCCESS;
}
int cuGraphExecDestroy(CUgraphExec work) {
  ENTER("cuGraphExecDestroy");
  run_all();
  delete (Graph *)work;
  return CUDA_SUCCESS;
}
int cuGraphDestroy(CUgraph graph) {
  ENTER("cuGraphDestroy");
  delete (Graph *)graph;
  return CUDA_SUCCESS;
}

int cuEventCreate(CUevent *event, unsigned flags) {
  ENTER("cuEventCreate");
  *event = (CUevent) new Event{nullptr, (flags & POLAR_CU_EVENT_DISABLE_TIMING) == 0};
  return CUDA_SUCCESS;
}
int cuEventRecord(CUevent raw, CUstream stream) {
  ENTER("cuEventRecord");
  Event *event = (Event *)raw;
  Stream *on = (Stream *)stream;
  event->mark = std::make_shared<Mark>(Mark{on, on->capture});
  give(on, {[=] {
              event->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
            },
            event->mark});
  return CUDA_SUCCESS;
}
int cuEventSynchronize(CUevent raw) {
  ENTER("cuEventSynchronize");
  Event *event = (Event *)raw;
  if (event->mark && event->mark->capture) {
    return refuse(CUDA_ERROR_CAPTURED_EVENT, "cuEventSynchronize", "an event of a capture");
  }
  if (event->mark && !event->mark->done) event->mark->stream->run(event->mark.get());
  return broken;
}
int cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  ENTER("cuEventElapsedTime");
  Event *a = (Event *)start, *b = (Event *)end;
  if (!a->has_timing || !b->has_timing || !a->mark || !b->mark) return CUDA_ERROR_INVALID_HANDLE;
  if (!a->mark->done || !b->mark->done) return CUDA_ERROR_NOT_READY;
  *milliseconds = float((b->seconds - a->seconds) * 1e3 + 1e-6);
  return CUDA_SUCCESS;
}
int cuEventDestroy_v2(CUevent event) {
  ENTER("cuEventDestroy");
  run_all();
  delete (Event *)event;
  return CUDA_SUCCESS;
}

int cuModuleLoadData(CUmodule *module, const void *image) {
  ENTER("cuModuleLoadData");
  const char *text = (const char *)image;
  if (std::strncmp(text, "stand-in", 8) != 0) return refuse(CUDA_ERROR_INVALID_IMAGE, "cuModuleLoadData", "not of the stand-in NVRTC");
  Module *made = new Module;
  made->head_dim = number_after(text, "POLAR_HEAD_DIM=");
  made->element_f16 = number_after(text, "POLAR_ELEMENT_F16=");
  *module = (CUmodule)made;
  return CUDA_SUCCESS;
}
int cuModuleUnload(CUmodule module) {
  ENTER("cuModuleUnload");
  run_all();
  delete (Module *)module;
  return CUDA_SUCCESS;
}
int cuModuleGetFunction(CUfunction *function, CUmodule raw, const char *name) {
  ENTER("cuModuleGetFunction");
  Module *module = (Module *)raw;
  auto made = std::make_unique<Function>(Function{name, module->head_dim, module->element_f16});
  if (argument_bytes(*made) == 0) return CUDA_ERROR_NOT_FOUND;
  *function = (CUfunction)made.get();
  module->functions.push_back(std::move(made));
  return CUDA_SUCCESS;
}
int cuFuncSetAttribute(CUfunction raw, int attribute, int value) {
  ENTER("cuFuncSetAttribute");
  if (attribute == POLAR_CU_FUNCTION_SHARED_CARVEOUT) {
    return value >= -1 && value <= 100 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  }
  if (attribute != POLAR_CU_FUNCTION_MAX_DYNAMIC_SHARED || value > MOST_SHARED) return CUDA_ERROR_INVALID_VALUE;
  ((Function *)raw)->shared = value;
  return CUDA_SUCCESS;
}
/// For the stand-in cuBLASLt: `work` in the order of a stream.
void polar_stand_in_enqueue(CUstream stream, void (*work)(void *), void (*release)(void *), void *data) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  std::shared_ptr<void> held(data, release);
  give((Stream *)stream, {[=] { work(held.get()); }});
}
/// Whether these bytes are device memory.
int polar_stand_in_is_known(CUdeviceptr address, size_t bytes) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  return is_known(address, bytes);
}
/// Whether these bytes are arguments of the kernel that runs.
int polar_stand_in_is_argument(unsigned long long address, size_t bytes) {
  const auto begin = (unsigned long long)running_arguments->data();
  return address >= begin && address + bytes <= begin + running_arguments->size();
}
int cuLaunchKernel(
    CUfunction raw, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream,
    void **arguments, void **extra) {
  ENTER("cuLaunchKernel");
  const Function *function = (Function *)raw;
  const bool is_grid = gx && gy && gz && gx <= 0x7fffffffu && gy <= 65535 && gz <= 65535;
  const bool is_block = bx && by && bz && (size_t)bx * by * bz <= 1024;
  if (!is_grid || !is_block || extra) return refuse(CUDA_ERROR_INVALID_VALUE, "cuLaunchKernel", function->name + ": grid or block");
  if ((int)shared > function->shared) return refuse(CUDA_ERROR_INVALID_VALUE, "cuLaunchKernel", function->name + ": shared memory");
  const char *from = (const char *)arguments[0];
  std::vector<char> copy(from, from + argument_bytes(*function));
  give((Stream *)stream, {[=, copy = std::move(copy)] {
         if (broken == CUDA_SUCCESS) run_kernel(*function, {gx, gy, gz, bx, by, bz}, shared, copy);
       }});
  return CUDA_SUCCESS;
}

}  // extern "C"
