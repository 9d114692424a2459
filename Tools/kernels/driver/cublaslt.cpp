// A stand-in for cuBLASLt over the stand-in driver: products by plain loops, with the library's checks of sizes, strides, alignment and
// workspace. Of its three algorithms the first refuses to run and the last is reported as unusable. The second one cannot do 7 rows, for which
// there is a fourth.
#include <cstdio>
#include <cstring>

#include "polar_cuda.h"

extern "C" void polar_stand_in_enqueue(CUstream stream, void (*work)(void *), void (*release)(void *), void *data);
extern "C" int polar_stand_in_is_known(unsigned long long address, size_t bytes);

namespace {

/// Of cublasStatus_t and cublasLtReductionScheme_t.
enum { SUCCESS = 0, INVALID_VALUE = 7, REDUCTION_INPLACE = 1, REDUCTION_ALL = 7 };

struct Description {
  int transpose_a = 0, epilogue = POLAR_CUBLASLT_EPILOGUE_DEFAULT;
  const float *bias = nullptr;
};
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t stride;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t reductions = REDUCTION_ALL, alignment[4] = {256, 256, 256, 256};
};

int refuse(const char *why) {
  std::fprintf(stderr, "stand-in cuBLASLt: %s\n", why);
  return INVALID_VALUE;
}

float value(const void *base, int type, uint64_t index) {
  const uint16_t bits = ((const uint16_t *)base)[index];
  if (type == POLAR_CUDA_R_16F) {
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return float(half);
  }
  const uint32_t wide = uint32_t(bits) << 16;
  float result;
  std::memcpy(&result, &wide, 4);
  return result;
}

struct Product {
  Description description;
  Layout a, b, d;
  const void *a_values, *b_values;
  float *out;
  float alpha;

  void run() const {
    // out[i, j] = sum over k of a[k, i] b[k, j], all by columns.
    for (uint64_t j = 0; j < d.columns; j++) {
      for (uint64_t i = 0; i < d.rows; i++) {
        float sum = 0;
        for (uint64_t k = 0; k < a.rows; k++) {
          sum += value(a_values, a.type, i * a.stride + k) * value(b_values, b.type, j * b.stride + k);
        }
        out[j * d.stride + i] = alpha * sum + (description.bias ? description.bias[i] : 0);
      }
    }
  }
};

/// Whether the second algorithm cannot do the product.
bool is_odd(cublasLtMatrixLayout_t x) { return ((const Layout *)x)->columns == 7; }

bool is_aligned(const void *pointer) { return (uintptr_t)pointer % 16 == 0; }

template <class T>
int set(T *to, const void *from, size_t bytes) {
  if (bytes != sizeof(T)) return refuse("an attribute of a wrong size");
  std::memcpy(to, from, bytes);
  return SUCCESS;
}

}  // namespace

extern "C" {

const char *cublasLtGetStatusString(int status) { return status == 0 ? "success" : "an error of the stand-in cuBLASLt"; }
size_t cublasLtGetVersion(void) { return 130000; }
int cublasLtCreate(cublasLtHandle_t *handle) { return *handle = (cublasLtHandle_t)1, SUCCESS; }
int cublasLtDestroy(cublasLtHandle_t) { return SUCCESS; }

int cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *descriptor, int compute, int scale) {
  if (compute != POLAR_CUBLAS_COMPUTE_32F || scale != POLAR_CUDA_R_32F) return refuse("sums that are not f32");
  *descriptor = (cublasLtMatmulDesc_t) new Description;
  return SUCCESS;
}
int cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t descriptor) {
  delete (Description *)descriptor;
  return SUCCESS;
}
int cublasLtMatmulDescSetAttribute(
    cublasLtMatmulDesc_t descriptor, int attribute, const void *value, size_t bytes) {
  Description *description = (Description *)descriptor;
  switch (attribute) {
    case POLAR_CUBLASLT_DESC_TRANSA: return set(&description->transpose_a, value, bytes);
    case POLAR_CUBLASLT_DESC_EPILOGUE: return set(&description->epilogue, value, bytes);
    case POLAR_CUBLASLT_DESC_BIAS_POINTER: return set(&description->bias, value, bytes);
    default: return refuse("an unknown attribute");
  }
}

int cublasLtMatrixLayoutCreate(
    cublasLtMatrixLayout_t *layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  if (stride < (int64_t)rows) return refuse("a stride less than the rows");
  *layout = (cublasLtMatrixLayout_t) new Layout{type, rows, columns, stride};
  return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete (Layout *)layout;
  return SUCCESS;
}

int cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, int attribute, const void *value, size_t bytes) {
  if (attribute != POLAR_CUBLASLT_LAYOUT_COLS) return refuse("an unknown attribute of a layout");
  return set(&((Layout *)layout)->columns, value, bytes);
}

int cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
  *preference = (cublasLtMatmulPreference_t) new Preference;
  return SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete (Preference *)preference;
  return SUCCESS;
}
int cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t raw, int attribute, const void *value, size_t bytes) {
  Preference *preference = (Preference *)raw;
  switch (attribute) {
    case POLAR_CUBLASLT_PREFERENCE_WORKSPACE_BYTES: return set(&preference->workspace, value, bytes);
    case POLAR_CUBLASLT_PREFERENCE_REDUCTION_MASK: return set(&preference->reductions, value, bytes);
    case POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_A: return set(&preference->alignment[0], value, bytes);
    case POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_B: return set(&preference->alignment[1], value, bytes);
    case POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_C: return set(&preference->alignment[2], value, bytes);
    case POLAR_CUBLASLT_PREFERENCE_ALIGNMENT_D: return set(&preference->alignment[3], value, bytes);
    default: return refuse("an unknown preference");
  }
}

int cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t,
    cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t raw, int wanted, cublasLtMatmulHeuristicResult_t results[], int *found) {
  const Preference *preference = (Preference *)raw;
  if (!handle || !a || !b || !d || !preference || wanted < 3) return refuse("a missing argument");
  if (preference->reductions & REDUCTION_INPLACE) return refuse("reductions of no fixed order");
  for (uint32_t alignment : preference->alignment) {
    if (alignment > 16) return refuse("algorithms for addresses that callers do not have");
  }
  if (((const Layout *)b)->columns != ((const Layout *)d)->columns) return refuse("rows that do not fit");
  for (int i = 0; i < 3; i++) {
    results[i] = {};
    results[i].algo.data[0] = i == 1 && is_odd(b) ? 4 : i + 1;
    results[i].workspaceSize = preference->workspace;
    results[i].state = i == 2 ? POLAR_CUBLAS_STATUS_NOT_SUPPORTED : SUCCESS;
  }
  *found = 3;
  return SUCCESS;
}

int cublasLtMatmulAlgoCheck(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm,
    cublasLtMatmulHeuristicResult_t *result) {
  if (!handle || !descriptor || !a || !b || !d) return refuse("a missing argument");
  *result = {};
  const bool usable = algorithm->data[0] == (is_odd(b) ? 4 : 2);
  return result->state = usable ? SUCCESS : POLAR_CUBLAS_STATUS_NOT_SUPPORTED;
}

int cublasLtMatmul(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor, const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
    const void *b, cublasLtMatrixLayout_t b_layout, const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
    cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
    CUstream stream) {
  Product product{*(Description *)descriptor, *(Layout *)a_layout, *(Layout *)b_layout, *(Layout *)d_layout, a, b, (float *)d,
                  *(const float *)alpha};
  if (!handle || algorithm->data[0] == 1) return POLAR_CUBLAS_STATUS_NOT_SUPPORTED;
  if (algorithm->data[0] != (is_odd(b_layout) ? 4 : 2)) return refuse("an algorithm that was reported as unusable");
  if (*(const float *)beta != 0 || c != d || c_layout != d_layout) return refuse("an addend");
  const auto &[description, la, lb, ld, av, bv, out, factor] = product;
  if (description.transpose_a != POLAR_CUBLAS_OP_T || la.rows != lb.rows || la.columns != ld.rows || lb.columns != ld.columns) {
    return refuse("shapes that do not fit");
  }
  if (la.type != lb.type || (la.type != POLAR_CUDA_R_16F && la.type != POLAR_CUDA_R_16BF) || ld.type != POLAR_CUDA_R_32F) {
    return refuse("types that do not fit");
  }
  if ((description.epilogue == POLAR_CUBLASLT_EPILOGUE_BIAS) != (description.bias != nullptr)) return refuse("a bias and no epilogue");
  if (!is_aligned(a) || !is_aligned(b) || !is_aligned(d) || !is_aligned(description.bias) || !is_aligned(workspace)) {
    return refuse("addresses that are no multiples of 16 bytes");
  }
  auto bytes = [](const Layout &layout, size_t element) { return ((layout.columns - 1) * layout.stride + layout.rows) * element; };
  if (!polar_stand_in_is_known((uintptr_t)a, bytes(la, 2)) || !polar_stand_in_is_known((uintptr_t)b, bytes(lb, 2)) ||
      !polar_stand_in_is_known((uintptr_t)d, bytes(ld, 4)) || !polar_stand_in_is_known((uintptr_t)workspace, workspace_bytes) ||
      (description.bias && !polar_stand_in_is_known((uintptr_t)description.bias, ld.rows * 4))) {
    return refuse("operands outside of device memory");
  }
  polar_stand_in_enqueue(
      stream, [](void *data) { ((const Product *)data)->run(); }, [](void *data) { delete (Product *)data; }, new Product(product));
  return SUCCESS;
}

}  // extern "C"
