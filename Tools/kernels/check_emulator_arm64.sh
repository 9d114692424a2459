#!/bin/sh
# Checks the emulator of the CUDA kernels (Tests/Emulator) for arm64 on an x86-64 machine: cross-compiles it with the kernels and runs
# check_emulator.cpp on it under qemu. It proves that the switch between fibers, which is written in assembler, works there.
# Needs clang, lld, qemu-user, g++-12-aarch64-linux-gnu (for libstdc++). Run from the package root. `native` as the argument: the same here.
set -e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sources="Tools/kernels/check_emulator.cpp Tests/Emulator/machine.cpp Tests/Emulator/emulator.cpp Tests/Emulator/kernels_bf16.cpp"
flags="-std=c++17 -O2 -ISources/CPolarCUDA/include -ITests/Emulator/include -ITests/Emulator"
if [ "$1" = native ]; then
  clang++ $flags $sources -o "$work/check"
  "$work/check"
  exit
fi
gcc=$(ls -d /usr/lib/gcc-cross/aarch64-linux-gnu/* | tail -1)
version=$(basename "$gcc")
clang++ --target=aarch64-linux-gnu --sysroot=/ -nostdinc++ -isystem "/usr/aarch64-linux-gnu/include/c++/$version" \
  -isystem "/usr/aarch64-linux-gnu/include/c++/$version/aarch64-linux-gnu" -isystem /usr/aarch64-linux-gnu/include -B"$gcc" -L"$gcc" \
  -B/usr/aarch64-linux-gnu/lib -L/usr/aarch64-linux-gnu/lib -fuse-ld=lld -static $flags $sources -o "$work/check"
qemu-aarch64 "$work/check"
