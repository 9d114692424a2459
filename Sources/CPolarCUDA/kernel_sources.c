// The kernels' sources, embedded in the executable: what NVRTC compiles. Each ends with a NUL.
#include "polar_cuda.h"

#pragma clang diagnostic ignored "-Wc23-extensions"

static const char arguments[] = {
#embed "include/polar_cuda_kernels.h"
    , 0};
static const char attention_arguments[] = {
#embed "include/polar_cuda_attention.h"
    , 0};
static const char training_arguments[] = {
#embed "include/polar_cuda_training.h"
    , 0};
static const char prims_cuh[] = {
#embed "kernels/prims.cuh"
    , 0};
static const char geometry_cuh[] = {
#embed "kernels/geometry.cuh"
    , 0};
static const char tiles_cuh[] = {
#embed "kernels/tiles.cuh"
    , 0};
static const char reduce_cuh[] = {
#embed "kernels/reduce.cuh"
    , 0};
static const char select_cuh[] = {
#embed "kernels/select.cuh"
    , 0};
static const char gemm_cuh[] = {
#embed "kernels/gemm.cuh"
    , 0};
static const char training_cuh[] = {
#embed "kernels/training.cuh"
    , 0};
static const char ridge_cuh[] = {
#embed "kernels/ridge.cuh"
    , 0};
static const char attention_decode_cuh[] = {
#embed "kernels/attention_decode.cuh"
    , 0};
static const char attention_prefill_cuh[] = {
#embed "kernels/attention_prefill.cuh"
    , 0};
static const char rotary_cuh[] = {
#embed "kernels/rotary.cuh"
    , 0};
static const char attention_cu[] = {
#embed "kernels/attention.cu"
    , 0};
static const char dense_cu[] = {
#embed "kernels/dense.cu"
    , 0};
static const char linear_cu[] = {
#embed "kernels/linear.cu"
    , 0};
static const char selective_cu[] = {
#embed "kernels/selective.cu"
    , 0};
static const char routing_cu[] = {
#embed "kernels/routing.cu"
    , 0};
static const char training_cu[] = {
#embed "kernels/training.cu"
    , 0};
static const char router_cu[] = {
#embed "kernels/router.cu"
    , 0};

static const struct {
  const char *name;
  const char *text;
} sources[] = {
    {"polar_cuda_kernels.h", arguments},
    {"polar_cuda_attention.h", attention_arguments},
    {"polar_cuda_training.h", training_arguments},
    {"prims.cuh", prims_cuh},
    {"geometry.cuh", geometry_cuh},
    {"tiles.cuh", tiles_cuh},
    {"reduce.cuh", reduce_cuh},
    {"select.cuh", select_cuh},
    {"gemm.cuh", gemm_cuh},
    {"training.cuh", training_cuh},
    {"ridge.cuh", ridge_cuh},
    {"attention_decode.cuh", attention_decode_cuh},
    {"attention_prefill.cuh", attention_prefill_cuh},
    {"rotary.cuh", rotary_cuh},
    {"attention.cu", attention_cu},
    {"dense.cu", dense_cu},
    {"linear.cu", linear_cu},
    {"selective.cu", selective_cu},
    {"routing.cu", routing_cu},
    {"training.cu", training_cu},
    {"router.cu", router_cu},
};

int polar_cuda_source_count(void) { return (int)(sizeof sources / sizeof sources[0]); }
const char *polar_cuda_source_name(int index) { return sources[index].name; }
const char *polar_cuda_source_text(int index) { return sources[index].text; }
