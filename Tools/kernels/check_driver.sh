#!/usr/bin/env bash
# Runs `polar doctor --selftest --device cuda` and `polar bench gpu --tiny` without a GPU, through the very binary: stand-ins for the
# driver, NVRTC and cuBLASLt (Tools/kernels/driver) are put where it looks for the libraries. They run the kernels on the emulator and
# hold callers to the libraries' rules: contexts, streams, events, capture, memory, alignment, limits of launches.
#
# usage: check_driver.sh [--sanitize] [--binary PATH] [--steps N] [--only NAME]
#   --sanitize  look for races between the threads of a block in shared memory and for accesses outside of memory, too, as
#               compute-sanitizer's racecheck and memcheck do
#   --binary    the polar executable; .build/release/polar by default
#   --steps     decode steps of each mode; 12 by default
#   --only      checks of the conformance suite whose name contains this, and nothing else
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=.build/release/polar steps=12 only= sanitize=
while [ $# -gt 0 ]; do
  case $1 in
    --sanitize) sanitize=1 ;;
    --binary) binary=$2; shift ;;
    --steps) steps=$2; shift ;;
    --only) only=$2; shift ;;
    *) echo "check_driver.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
[ -x "$binary" ] || { echo "check_driver.sh: no executable $binary" >&2; exit 2; }
compiler=$(command -v clang++) || { echo "check_driver.sh: no clang++, which the Swift toolchain has" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/objects"
flags=(-std=c++17 -O2 -fPIC -ISources/CPolarCUDA/include -ITests/Emulator -ITests/Emulator/include)
observed=()
parts=(Tests/Emulator/{emulator,machine}.cpp Tools/kernels/driver/driver.cpp)
if [ -n "$sanitize" ]; then
  # The kernels' own accesses are reported; those of the emulator around them are not.
  printf 'src:%s\n' '*/emulated_prims.h' '*/machine.h' '*/registry.h' '/usr/*' '/opt/*' >"$work/emulator"
  observed=(-fsanitize=thread "-fsanitize-ignorelist=$work/emulator" -mllvm -tsan-instrument-func-entry-exit=0
    -mllvm -tsan-instrument-memintrinsics=0)
  parts+=(Tools/kernels/driver/sanitizer.cpp)
fi
compile() { # file, options
  local file=$1
  shift
  "$compiler" "${flags[@]}" "$@" -c "$file" -o "$work/objects/$(basename "$file" .cpp).o"
}
for file in Tests/Emulator/{kernels,attention}_{bf16,f16}.cpp; do
  compile "$file" "${observed[@]+"${observed[@]}"}" &
done
for file in "${parts[@]}"; do compile "$file"; done
for job in $(jobs -p); do wait "$job"; done
"$compiler" -shared -o "$work/libcuda.so.1" "$work"/objects/*.o -lpthread
"$compiler" "${flags[@]}" -shared -o "$work/libnvrtc.so.13" Tools/kernels/driver/nvrtc.cpp
"$compiler" "${flags[@]}" -shared -o "$work/libcublasLt.so.13" Tools/kernels/driver/cublaslt.cpp -L"$work" -l:libcuda.so.1 \
  -Wl,-rpath,"$work"
polar() { POLAR_CUDA_PATH=$work XDG_CACHE_HOME=$work/cache "$binary" "$@"; }
polar doctor --selftest --device cuda --steps "$steps" ${only:+--only "$only"}
[ -n "$only" ] || polar bench gpu --device cuda --tiny --repeats 2 >"$work/bench.jsonl"
[ -n "$only" ] || echo "$(wc -l <"$work/bench.jsonl") results of polar bench gpu --tiny"
