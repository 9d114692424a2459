#!/usr/bin/env bash
# Compares the driver API, NVRTC and cuBLASLt as polar_cuda.h declares them by hand (symbols, arguments, values, structs) with NVIDIA's
# headers of CUDA 13 and 12. The driver's come from PyPI into a folder of their own, NVRTC's from what check_nvrtc.sh keeps; cublasLt.h,
# whose package is large, is compared where a folder given with --include holds it.
#
# usage: check_bindings.sh [--include FOLDER]
# Exit status 77: skipped, because the headers could not be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
include=
[ "${1:-}" = --include ] && include=$2
compiler=$(command -v clang++ || command -v g++ || true)
skip() {
  echo "SKIPPED: the CUDA bindings were not compared: $1" >&2
  exit 77
}
[ -n "$compiler" ] || skip "there is no C++ compiler"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A copy of the header whose types carry a prefix, and the library's symbol of each function.
header=Sources/CPolarCUDA/include/polar_cuda.h
sed -E 's/\b(CUdeviceptr|cublasLt(MatmulAlgo|MatmulHeuristicResult|MatmulDesc|MatrixLayout|MatmulPreference)_t)\b/polar_&/g' "$header" >"$work/polar_cuda.h"
sed -nE 's/^ *X\((int|size_t), (\w+), "(\w+)".*/#define POLAR_SYMBOL_\2 \3/p' "$header" >"$work/symbols.h"
cp Sources/CPolarCUDA/include/polar_cuda_*.h "$work/"

compare() { # name, include folders
  local name=$1 left_out= part
  shift
  for part in nvrtc cublasLt; do
    find -L "$@" -maxdepth 1 -name "$part.h" | grep -q . || left_out="$left_out, without $part.h"
  done
  "$compiler" -std=c++17 -fsyntax-only -DPOLAR_HEADER="\"$work/polar_cuda.h\"" -DPOLAR_SYMBOLS="\"$work/symbols.h\"" "${@/#/-I}" \
    Tools/kernels/check_bindings.cpp
  echo "the CUDA bindings agree with $name$left_out"
}

if [ -n "$include" ]; then
  compare "$include" "$include"
  exit
fi
command -v python3 >/dev/null || skip "there is no python3"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/polar/cuda-headers-1"
if [ ! -e "$cache/complete" ]; then
  rm -rf "$cache"
  for package in "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-runtime-cu12==12.4.*"; do
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$cache/${package%%==*}" "$package" ||
      { rm -rf "$cache"; skip "pip could not get $package"; }
  done
  touch "$cache/complete"
fi
nvrtc=$(find "${XDG_CACHE_HOME:-$HOME/.cache}/polar" -name nvrtc.h -path '*cu13*' | head -1)
compare "CUDA 13.0" "$(dirname "$(find "$cache/nvidia-cuda-runtime" -name cuda.h)")" ${nvrtc:+"$(dirname "$nvrtc")"}
compare "CUDA 12.4" "$(dirname "$(find "$cache/nvidia-cuda-runtime-cu12" -name cuda.h)")"
