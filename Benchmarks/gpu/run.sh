#!/usr/bin/env bash
# Everything that is to be measured on an NVIDIA GPU, in one go, with one binary: checks first, then copy bandwidth, attention,
# linear layers, selective products, whole decode steps. Results are JSON lines in OUTPUT/results.jsonl, each with the device's
# name and its copy bandwidth; OUTPUT/conditions.txt says what they were measured under, OUTPUT/summary.txt what ran and how long.
#
# usage: run.sh [--dry-run] [--binary PATH] [--output FOLDER] [--model PATH] [--quick]
#   --dry-run  every step on the CPU at sizes of a test: proves that the script and the binary work, and measures nothing
#   --binary   the polar executable; beside this script, or .build/release/polar, by default
#   --model    a model for the greedy-text check (GGUF file or folder); the demo's by default
#   --quick    fewer repeats and batch sizes
set -u
here=$(cd "$(dirname "$0")" && pwd)
binary= output=gpu-results model= dry= quick=
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --quick) quick=1 ;;
    --binary) binary=$2; shift ;;
    --output) output=$2; shift ;;
    --model) model=$2; shift ;;
    *) echo "run.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
if [ -z "$binary" ]; then
  for candidate in "$here/polar" "$here/../../.build/release/polar"; do
    [ -x "$candidate" ] && binary=$candidate && break
  done
fi
[ -x "$binary" ] || { echo "run.sh: no polar executable; build one or give --binary" >&2; exit 2; }
mkdir -p "$output" || exit 2
device=cuda sizes=()
if [ -n "$dry" ]; then
  device=cpu sizes=(--tiny --repeats 1)
elif [ -n "$quick" ]; then
  sizes=(--repeats 5)
fi
results=$output/results.jsonl summary=$output/summary.txt
: >"$results"
: >"$summary"

{
  date -u +%FT%TZ
  "$binary" --version
  uname -srm
  [ -f "$here/commit" ] && echo "commit $(cat "$here/commit")"
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu --format=csv
  else
    echo "nvidia-smi: not there"
  fi
} >"$output/conditions.txt" 2>&1

failed=0
# step NAME command...: runs a step, notes how long it took and whether it worked, and goes on in any case.
step() {
  local name=$1 start=$SECONDS status
  shift
  echo "== $name"
  "$@" >"$output/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || { failed=$((failed + 1)); tail -n 5 "$output/$name.log"; }
  printf '%-24s %s  %d s\n' "$name" "$([ $status -eq 0 ] && echo ok || echo "FAILED ($status)")" $((SECONDS - start)) |
    tee -a "$summary"
}

bench() {
  "$binary" bench gpu --device "$device" --json "$results" "${sizes[@]+"${sizes[@]}"}" "$@"
}

selftest() {
  "$binary" doctor --selftest --device "$device" ${model:+--model "$model"}
}

# The same greedy text from the GPU and from the CPU (sums differ in their last bits, so that text may part at a near tie).
greedy() {
  local prompt="He went to the" one other
  [ -n "$model" ] || { echo "no model given: the self-test compares tokens of the demo's"; return 0; }
  one=$("$binary" generate "$model" --device "$device" --prompt "$prompt" -n 24) || return 1
  other=$("$binary" generate "$model" --device cpu --prompt "$prompt" -n 24) || return 1
  printf '%s\n---\n%s\n' "$one" "$other"
  [ "${one%%$'\n'*}" = "${other%%$'\n'*}" ]
}

step selftest selftest
step greedy greedy
if [ -z "$dry" ]; then
  for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
      step "sanitizer-$tool" timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 9 "$binary" doctor --selftest --device "$device"
    else
      echo "sanitizer-$tool           skipped: compute-sanitizer is not there" | tee -a "$summary"
    fi
  done
fi
step copy bench --section copy
step attention bench --section attention
step linear bench --section linear
step selective bench --section selective
if [ -n "$dry" ]; then
  step decode bench --section decode
else
  # One process for each shape, so that one that fails takes no other with it.
  batches=(--batch 1,4,16,64,256)
  [ -n "$quick" ] && batches=(--batch 1,16,64)
  for shape in opt-6.7b llama-2-7b llama-3.1-8b mistral-7b llama-2-13b opt-30b opt-66b; do
    step "decode-$shape" bench --section decode --shape "$shape" "${batches[@]}"
  done
fi
echo "$(wc -l <"$results") results in $results; $failed steps failed"
[ "$failed" -eq 0 ]
