#!/usr/bin/env bash
# Everything that is to be measured on an NVIDIA GPU, with one binary, in parts that are each ended when their time is over, half an hour in
# all. Results are JSON lines in OUTPUT/results.jsonl, each with the device's name and its copy bandwidth; OUTPUT/conditions.json says
# what they were measured under (card, driver, clocks, commit, commands), OUTPUT/summary.txt what ran and how long.
#
# usage: run.sh [--dry-run] [--plan] [--only PART[,PART...]] [--binary PATH] [--output FOLDER] [--model PATH] [--quick]
#               [--published FOLDER] [--python PATH]
#   --plan       print the parts, what each should show and how long it may take, and stop
#   --only       these parts; all by default. OUTPUT is added to, so that parts may run in several calls
#   --dry-run    every part on the CPU at sizes of a test: proves that the scripts and the binary work, and measures nothing
#   --binary     the polar executable; beside this script, or .build/release/polar, by default
#   --model      another model for the self-test (GGUF file or folder); the demo's by default
#   --quick      fewer repeats and batch sizes
#   --published  a copy of https://github.com/susavlsh10/Polar-Sparsity, whose Triton kernels are measured, too
#   --python     the Python with torch (and Triton, FlashInfer); python3 by default
set -u
here=$(cd "$(dirname "$0")" && pwd)

# What is expected of each part, written down before it runs: name, seconds after which it is ended, expectation.
plan() {
  cat <<'PLAN'
selftest         90  every line ok: each op against the reference; for dense, mlp-, heads- and polar-sparse steps of the demo's model 300
                     recorded steps token for token as issued, >= 95 % of tokens as on the CPU; the greedy text as on the CPU
memcheck        200  compute-sanitizer finds nothing in all ops, and in 10 steps of each mode (skipped where it is not installed)
racecheck       200  the same for races in shared memory
copy             10  the card's copy bandwidth: about 90 % of its data sheet (H200: 4.3 of 4.8 TB/s; H100: 3.0 of 3.35)
attention        60  dense >= 80 % of it at 72x128 (context 1920), 32x128 (3968), 32/8x128 (8192), batch 64; density d of heads takes <= d + 0.06
                     of the dense time, with the zero and with the local fallback, at 0.3, 0.5, 0.625
linear           40  the layers of OPT-66B and Llama-3.1-8B at batch 1, 4, 16, 64: >= 80 % of the copy bandwidth
selective        80  up- and down-projections 36864 x 9216 and 16384 x 4096 at densities 0.05 to 1, batch 1, 16, 64: >= 7x over the dense layer
                     at 10 % and batch <= 16; the density at which both take the same time, printed at the end
router           20  routers with their choice at OPT-66B's and OPT-6.7B's sizes; the report relates them to the dense steps below: <= 3 %
training         40  a step of OPT-6.7B's neuron router (256 tokens): >= 60 % of the copy bandwidth by the bytes that it must move; a step of a
                     head router <= 0.3 ms, a ridge regression of 4096 inputs <= 30 ms
f16              90  attention, linear layers and selective products in f16, in which the published kernels work: within 3 % of bf16
torch            80  attention by scaled_dot_product_attention and by FlashInfer, linear layers by torch, beside ours: ours not behind the best
                     (skipped without torch, FlashInfer left out where it cannot be imported)
published       150  the published Triton kernels: ours faster at every density (skipped without --published)
decode-*      45 each  whole steps of the published shapes with random weights: dense >= 75 % of the copy bandwidth; at least 90 % of the gain
                     that the bytes allow at each point, and above the published 1.83x (OPT-6.7B), 1.97x (OPT-30B), 1.85x (Llama-2-7B, -13B)
latency-*     30 each  the same at batch 16 over the contexts of the paper's Figs 14 and 15 (OPT-6.7B, OPT-66B, Llama-2-7B, Llama-3.1-70B)
report            5  tables of all that was measured so far, shaped as the paper's figures

Half an hour in calls of at most ten minutes:
  run.sh --only selftest,copy,attention,linear,selective,router,training,torch
  run.sh --only decode-opt-6.7b,decode-opt-30b,decode-opt-66b,decode-llama-2-7b,decode-llama-2-13b,decode-llama-3.1-8b,decode-mistral-7b
  run.sh --only memcheck,racecheck,published
  run.sh --only latency-opt-6.7b,latency-opt-66b,latency-llama-2-7b,latency-llama-3.1-70b,f16,decode-llama-3.1-70b
PLAN
}
# Seconds that a part may take.
limit() {
  plan | awk -v name="${1/-*/-*}" -v whole="$1" '$1 == name || $1 == whole { print $2; exit }'
}

binary= output=gpu-results model= dry= quick= only= published= python=python3
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --quick) quick=1 ;;
    --plan) plan; exit 0 ;;
    --only) only=$2; shift ;;
    --binary) binary=$2; shift ;;
    --output) output=$2; shift ;;
    --model) model=$2; shift ;;
    --published) published=$2; shift ;;
    --python) python=$2; shift ;;
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
device=cuda steps=300 sizes=()
if [ -n "$dry" ]; then
  device=cpu steps=5 sizes=(--tiny --repeats 1)
elif [ -n "$quick" ]; then
  sizes=(--repeats 5)
fi
results=$output/results.jsonl summary=$output/summary.txt
touch "$results" "$summary"
plan >"$output/plan.txt"

# One line of JSON for each call of this script.
conditions() {
  local card="none"
  if command -v nvidia-smi >/dev/null; then
    card=$(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu \
      --format=csv,noheader | head -1)
  fi
  printf '{"time":"%s","card, driver, clocks (SM, memory, most SM), power limit, temperature":"%s","host":"%s","polar":"%s","commit":"%s","command":"%s"}\n' \
    "$(date -u +%FT%TZ)" "$card" "$(uname -srm)" "$("$binary" --version)" \
    "$(cat "$here/commit" 2>/dev/null || git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)" "$1"
}
conditions "run.sh${dry:+ --dry-run}${quick:+ --quick}${only:+ --only $only}" >>"$output/conditions.json"

failed=0
wanted() { [ -z "$only" ] || case ",$only," in *",$1,"*) true ;; *) false ;; esac; }
# step NAME command...: runs a part for as long as the plan allows, notes how long it took and whether it worked, and goes on in any case.
step() {
  local name=$1 start=$SECONDS status
  shift
  wanted "$name" || return 0
  echo "== $name"
  seconds=$(limit "$name")
  "$@" >"$output/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || { failed=$((failed + 1)); tail -n 5 "$output/$name.log"; }
  printf '%-24s %s  %d s\n' "$name" "$([ $status -eq 0 ] && echo ok || echo "FAILED ($status)")" $((SECONDS - start)) |
    tee -a "$summary"
}
skip() {
  wanted "$1" || return 0
  printf '%-24s skipped: %s\n' "$1" "$2" | tee -a "$summary"
}
# Ends a command when the part's time is over; what it has written by then stays.
within() { timeout -k 5 "$seconds" "$@"; }

bench() { within "$binary" bench gpu --device "$device" --json "$results" "${sizes[@]+"${sizes[@]}"}" "$@"; }
selftest() { within "$binary" doctor --selftest --device "$device" --steps "$steps" ${model:+--model "$model"}; }
sanitize() { within compute-sanitizer --tool "$1" --error-exitcode 9 "$binary" doctor --selftest --device "$device" --steps 10; }

step selftest selftest
for tool in memcheck racecheck; do
  if [ -n "$dry" ]; then
    skip "$tool" "a dry run has no GPU"
  elif command -v compute-sanitizer >/dev/null; then
    step "$tool" sanitize "$tool"
  else
    skip "$tool" "compute-sanitizer is not there"
  fi
done
for part in copy attention linear selective router training; do step "$part" bench --section "$part"; done
# The CPU of a dry run has no f16.
if [ -n "$dry" ]; then f16=bf16; else f16=f16; fi
step f16 bench --weights $f16 --section attention --section linear --section selective

peers=torch
if ! command -v "$python" >/dev/null; then
  peers= why="there is no $python"
elif ! "$python" -c 'import torch' 2>/dev/null; then
  peers= why="$python has no torch"
elif [ -z "$dry" ] && ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  peers= why="torch sees no GPU"
fi
if [ -z "$peers" ]; then
  skip torch "$why"
else
  step torch within "$python" "$here/torch_peers.py" --json "$results" ${dry:+--dry-run}
fi
if [ -z "$published" ]; then
  skip published "no --published FOLDER"
elif [ -z "$peers" ]; then
  skip published "$why"
else
  step published within "$python" "$here/published_kernels.py" "$published" --json "$results" ${dry:+--dry-run}
fi

if [ -n "$dry" ]; then
  step decode-tiny bench --section decode
  step latency-tiny bench --section decode --batch 3 --context 20,40
else
  # One process for each shape, so that one that fails takes no other with it.
  batches=1,4,16,64,256
  [ -n "$quick" ] && batches=1,16,64
  for shape in opt-6.7b opt-30b opt-66b llama-2-7b llama-2-13b llama-3.1-8b mistral-7b llama-3.1-70b; do
    step "decode-$shape" bench --section decode --shape "$shape" --batch "$batches"
  done
  latency() { bench --section decode --shape "$1" --batch 16 --context "$2"; }
  step latency-opt-6.7b latency opt-6.7b 128,256,1024,1536
  step latency-opt-66b latency opt-66b 128,256,1024,1536
  step latency-llama-2-7b latency llama-2-7b 128,256,1024,2048,3072
  step latency-llama-3.1-70b latency llama-3.1-70b 256,1024,2048,4096,16384
fi
if ! command -v python3 >/dev/null; then
  skip report "there is no python3"
elif [ -s "$results" ]; then
  only= step report within python3 "$here/report.py" "$results" "$output/report.md"
fi
echo "$(wc -l <"$results") results in $results; $failed steps failed"
[ "$failed" -eq 0 ]
