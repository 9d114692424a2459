// A stand-in for NVRTC: what it "compiles" is the list of options, from which the stand-in driver knows the module.
#include <cstring>
#include <string>

#include "polar_cuda.h"

struct _nvrtcProgram {
  std::string image;
};

extern "C" {

const char *nvrtcGetErrorString(int result) { return result == 0 ? "NVRTC_SUCCESS" : "an error of the stand-in NVRTC"; }
int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }
int nvrtcCreateProgram(
    nvrtcProgram *program, const char *source, const char *name, int count, const char *const *headers, const char *const *names) {
  if (!source || !name || !headers || !names || count < 1) return 3;
  for (int i = 0; i < count; i++) {
    if (!headers[i] || !names[i]) return 3;
  }
  *program = new _nvrtcProgram{std::string("stand-in ") + name};
  return 0;
}
int nvrtcCompileProgram(nvrtcProgram program, int count, const char *const *options) {
  bool has_architecture = false;
  for (int i = 0; i < count; i++) {
    has_architecture |= std::strncmp(options[i], "-arch=sm_", 9) == 0;
    program->image += std::string(" ") + options[i];
  }
  program->image.push_back('\0');
  return has_architecture ? 0 : 5;
}
int nvrtcDestroyProgram(nvrtcProgram *program) {
  delete *program;
  *program = nullptr;
  return 0;
}
int nvrtcGetCUBINSize(nvrtcProgram program, size_t *bytes) { return *bytes = program->image.size(), 0; }
int nvrtcGetCUBIN(nvrtcProgram program, char *bytes) {
  std::memcpy(bytes, program->image.data(), program->image.size());
  return 0;
}
int nvrtcGetProgramLogSize(nvrtcProgram, size_t *bytes) { return *bytes = 1, 0; }
int nvrtcGetProgramLog(nvrtcProgram, char *bytes) { return *bytes = 0, 0; }

}  // extern "C"
