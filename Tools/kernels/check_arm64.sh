#!/bin/sh
# Checks the kernels that arm64 machines run (plain C on NEON's vectors, with and without I8MM) on an x86-64 machine:
# cross-compiles the whole C target for aarch64 and runs check.c on it under qemu. It proves that the kernels compile for
# arm64 and compute there what double precision computes, independent of batch and threads, not how fast they are.
# Needs clang, lld, qemu-user, libc6-dev-arm64-cross and libgcc-12-dev-arm64-cross. Run from the package root.
set -e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc=$(ls -d /usr/lib/gcc-cross/aarch64-linux-gnu/* | tail -1)
clang --target=aarch64-linux-gnu --sysroot=/ -isystem /usr/aarch64-linux-gnu/include -B"$gcc" -L"$gcc" \
  -B/usr/aarch64-linux-gnu/lib -L/usr/aarch64-linux-gnu/lib -fuse-ld=lld -static -O2 -pthread \
  -ISources/CPolarCPU/include Tools/kernels/check.c Sources/CPolarCPU/*.c -o "$work/check" -lm
qemu-aarch64 -cpu max "$work/check"
