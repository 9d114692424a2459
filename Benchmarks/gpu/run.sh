#!/usr/bin/env bash
# Everything that is to be measured on an NVIDIA GPU, with one binary, in parts that each take well under ten minutes and half an hour in
# all. Results are JSON lines in OUTPUT/results.jsonl, each with the device's name and its copy bandwidth; OUTPUT/conditions.json says
# what they were measured under (card, driver, clocks, commit, commands), OUTPUT/summary.txt what ran and how long.
#
# usage: run.sh [--dry-run] [--plan] [--only PART[,PART...]] [--binary PATH] [--output FOLDER] [--model PATH] [--quick]
#   --plan     print the parts, what each should show and how long it may take, and stop
#   --only     these parts; all by default. OUTPUT is added to, so that parts may run in several calls
#   --dry-run  every part on the CPU at sizes of a test: proves that the script and the binary work, and measures nothing
#   --binary   the polar executable; beside this script, or .build/release/polar, by default
#   --model    another model for the self-test (GGUF file or folder); the demo's by default
#   --quick    fewer repeats and batch sizes
set -u
here=$(cd "$(dirname "$0")" && pwd)

# What is expected of each part, written down before it runs: name, seconds it may take, expectation.
plan() {
  cat <<'PLAN'
selftest        90   every line ok: each op against the reference; for dense, mlp-, heads- and polar-sparse steps of the demo's model 300
                     recorded steps token for token as issued, >= 95 % of tokens as on the CPU; the greedy text as on the CPU
memcheck       200   compute-sanitizer finds nothing in all ops, and in 10 steps of each mode (skipped where it is not installed)
racecheck      200   the same for races in shared memory
copy            10   the card's copy bandwidth: about 90 % of its data sheet (H200: 4.3 of 4.8 TB/s; H100: 3.0 of 3.35)
attention       90   dense >= 80 % of it at 72x128 (context 1920), 32x128 (3968), 32/8x128 (8192), batch 64; density d of heads takes <= d + 0.06
                     of the dense time, with the zero and with the local fallback, at 0.3, 0.5, 0.625
linear          60   the layers of OPT-66B and Llama-3.1-8B at batch 1, 4, 16, 64: >= 80 % of the copy bandwidth
selective       90   up-projections 36864 x 9216 and 16384 x 4096 at densities 0.05 to 1, batch 1, 16, 64: >= 7x over the dense layer at 10 % and
                     batch <= 16; the density at which both take the same time, printed at the end
router          30   routers with their choice at OPT-66B's and OPT-6.7B's sizes: <= 3 % of the layer's share of a dense step
training        40   a step of OPT-6.7B's neuron router (256 tokens): >= 60 % of the copy bandwidth by the bytes that it must move; a step of a head router
                     <= 0.3 ms, a ridge regression of 4096 inputs <= 30 ms
torch           60   attention by scaled_dot_product_attention and the linear layers by torch, beside ours (skipped without torch)
decode-*     90 each whole steps of seven published shapes with random weights: dense >= 75 % of the copy bandwidth; at least 90 % of the gain that
                     the bytes allow at each point, and above the published 1.83x (OPT-6.7B), 1.97x (OPT-30B), 1.85x (Llama-2-7B, -13B)
report           1   tables of all that was measured so far

Each call may take ten minutes; four do it:
  run.sh --only selftest,copy,attention,linear,selective,router,training
  run.sh --only memcheck,racecheck
  run.sh --only torch,decode-opt-6.7b,decode-llama-2-7b,decode-llama-3.1-8b,decode-mistral-7b
  run.sh --only decode-llama-2-13b,decode-opt-30b,decode-opt-66b
PLAN
}

binary= output=gpu-results model= dry= quick= only=
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --quick) quick=1 ;;
    --plan) plan; exit 0 ;;
    --only) only=$2; shift ;;
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
# step NAME command...: runs a part, notes how long it took and whether it worked, and goes on in any case.
step() {
  local name=$1 start=$SECONDS status
  shift
  wanted "$name" || return 0
  echo "== $name"
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

bench() {
  "$binary" bench gpu --device "$device" --json "$results" "${sizes[@]+"${sizes[@]}"}" "$@"
}

selftest() {
  "$binary" doctor --selftest --device "$device" --steps "$steps" ${model:+--model "$model"}
}

sanitize() {
  timeout 280 compute-sanitizer --tool "$1" --error-exitcode 9 "$binary" doctor --selftest --device "$device" --steps 10
}

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
step copy bench --section copy
step attention bench --section attention
step linear bench --section linear
step selective bench --section selective
step router bench --section router
step training bench --section training
python=$(command -v python3 || true)
if [ -z "$python" ]; then
  skip torch "there is no python3"
elif [ -n "$dry" ]; then
  step torch "$python" "$here/torch_peers.py" --dry-run
elif "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  step torch "$python" "$here/torch_peers.py" --json "$results"
else
  skip torch "torch with CUDA is not there"
fi
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
if [ -z "$python" ]; then
  skip report "there is no python3"
elif [ -s "$results" ]; then
  only= step report "$python" "$here/report.py" "$results" "$output/report.md"
fi
echo "$(wc -l <"$results") results in $results; $failed steps failed"
[ "$failed" -eq 0 ]
