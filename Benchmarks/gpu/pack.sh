#!/usr/bin/env bash
# Packs what run.sh needs on a GPU machine into one archive: a static binary, the demo's model, compiled kernels where NVRTC is
# at hand (the one that Tools/kernels/check_nvrtc.sh keeps will do), and the scripts. It must stay below 60 MB.
#
# usage: pack.sh [OUTPUT.tar.xz]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
output=${1:-polar-gpu.tar.xz}
cd "$root"
swift build -c release --static-swift-stdlib --product polar
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/polar-gpu"
cp .build/release/polar "$folder/polar-gpu/"
strip "$folder/polar-gpu/polar"
# Resource bundles lie beside the executable that uses them.
cp -rL .build/release/*.resources "$folder/polar-gpu/"
cp Benchmarks/gpu/run.sh Benchmarks/gpu/*.py "$folder/polar-gpu/"
git rev-parse HEAD >"$folder/polar-gpu/commit"
# NVRTC is looked for in a virtual environment, too.
export VIRTUAL_ENV="${VIRTUAL_ENV:-$(ls -d "${XDG_CACHE_HOME:-$HOME/.cache}"/polar/nvrtc-*[0-9a-f] 2>/dev/null | tail -1)}"
if ! "$folder/polar-gpu/polar" kernels build --arch sm_80,sm_90a --output "$folder/polar-gpu/polar.kernels"; then
  echo "pack.sh: no compiled kernels in the archive; the GPU machine needs NVRTC"
fi
tar -C "$folder" -cJf "$output" polar-gpu
size=$(stat -c %s "$output")
echo "$output: $((size / 1000000)) MB"
[ "$size" -lt 60000000 ] || { echo "pack.sh: more than 60 MB" >&2; exit 1; }
