#!/usr/bin/env bash
# Runs `polar doctor --selftest --device cuda` and `polar bench gpu --tiny` without a GPU, through the very binary: stand-ins for the
# driver, NVRTC and cuBLASLt (Tools/kernels/driver) are put where it looks for the libraries. They run the kernels on the emulator and
# hold callers to the libraries' rules: contexts, streams, events, capture, memory, alignment, limits of launches.
#
# usage: check_driver.sh [--binary PATH] [--steps N] [--only NAME]
#   --binary   the polar executable; .build/release/polar by default
#   --steps    decode steps of each mode; 12 by default
#   --only     checks of the conformance suite whose name contains this, and nothing else
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=.build/release/polar steps=12 only=
while [ $# -gt 1 ]; do
  case $1 in
    --binary) binary=$2 ;;
    --steps) steps=$2 ;;
    --only) only=$2 ;;
    *) echo "check_driver.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
[ -x "$binary" ] || { echo "check_driver.sh: no executable $binary" >&2; exit 2; }
compiler=$(command -v clang++ || command -v g++) || { echo "check_driver.sh: no C++ compiler" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/objects"
flags=(-std=c++17 -O2 -fPIC -w -ISources/CPolarCUDA/include -ITests/Emulator -ITests/Emulator/include)
printf '%s\n' Tests/Emulator/{emulator,machine,kernels_bf16,kernels_f16,attention_bf16,attention_f16}.cpp Tools/kernels/driver/driver.cpp |
  xargs -P 2 -I{} sh -c '"$0" "$@" -c {} -o '"$work"'/objects/$(basename {} .cpp).o' "$compiler" "${flags[@]}"
"$compiler" -shared -o "$work/libcuda.so.1" "$work"/objects/*.o -lpthread
"$compiler" "${flags[@]}" -shared -o "$work/libnvrtc.so.13" Tools/kernels/driver/nvrtc.cpp
"$compiler" "${flags[@]}" -shared -o "$work/libcublasLt.so.13" Tools/kernels/driver/cublaslt.cpp -L"$work" -l:libcuda.so.1 \
  -Wl,-rpath,"$work"
polar() { POLAR_CUDA_PATH=$work XDG_CACHE_HOME=$work/cache "$binary" "$@"; }
polar doctor --selftest --device cuda --steps "$steps" ${only:+--only "$only"}
[ -n "$only" ] || polar bench gpu --device cuda --tiny --repeats 2 >"$work/bench.jsonl"
[ -n "$only" ] || echo "$(wc -l <"$work/bench.jsonl") results of polar bench gpu --tiny"
