#!/usr/bin/env bash
# Compiles every CUDA kernel with NVRTC for sm_80, sm_90a, sm_100 and sm_120 and checks the code: no spill, no local memory, registers
# within budget, tensor-core and asynchronous-copy instructions where they are meant. No GPU and no CUDA installation is needed: NVRTC
# and the disassembler come from PyPI into a virtual environment of their own, kept by the hash of what is in it.
# Exit status 77: skipped, because they could not be had.
set -euo pipefail
cd "$(dirname "$0")/../.."

requirements="nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-nvdisasm==13.2.51"
skip() {
  echo "SKIPPED: the CUDA kernels were not compiled: $1" >&2
  exit 77
}
command -v python3 >/dev/null || skip "there is no python3"
version="$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
hash="$(printf '%s %s' "$version" "$requirements" | sha256sum | cut -c 1-12)"
venv="${XDG_CACHE_HOME:-$HOME/.cache}/polar/nvrtc-$hash"
if [ ! -e "$venv/complete" ]; then
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  python3 -m venv "$venv" || skip "python3 cannot make a virtual environment"
  # Word splitting is wanted: one argument per requirement.
  # shellcheck disable=SC2086
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps $requirements ||
    { rm -rf "$venv"; skip "pip could not install $requirements"; }
  touch "$venv/complete"
fi
exec "$venv/bin/python" Tools/kernels/check_nvrtc.py "$@"
