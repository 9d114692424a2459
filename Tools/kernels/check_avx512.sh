#!/bin/sh
# Checks the AVX-512 kernels on any x86-64 processor with AVX2: compiles them for AVX2, with the BF16
# and VNNI instructions in plain C (emulate_avx512.h), and runs check.c on them. Run from the package root.
set -e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r Sources/CPolarCPU "$work/sources"
for file in "$work"/sources/kernels_avx512*.c; do
  # No register holds a whole vector there that an assembly statement could name.
  sed -i '/target(/s/avx512[a-z0-9]*,//g; /#include <immintrin.h>/d; s/"+v"([^)]*),\{0,1\} *//g' "$file"
done
for file in "$work"/sources/*.c; do
  case "$file" in
    *avx512*|*dispatch.c) include="-include Tools/kernels/emulate_avx512.h" ;;
    *) include="" ;;
  esac
  clang -O2 -mavx2 -mfma -mf16c -Wno-psabi $include -I"$work/sources/include" -c "$file" -o "$file.o"
done
clang -O2 -pthread -ISources/CPolarCPU/include Tools/kernels/check.c "$work"/sources/*.o -o "$work/check" -lm
"$work/check" 3
