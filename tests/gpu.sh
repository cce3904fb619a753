#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ./run gpu, part by part: builds, a sample of the tests, the benchmark, the comparison with
# PyTorch, the sample with injected delays and under sanitizers, and in the end what was measured
# beside what it must be. Each part has a time limit, all have one together, none stops the next;
# exit status 0: none failed. What cannot be run is said, and is a failure where
# TAILCUT_REQUIRE=gpu is set.
#   gpu.sh [--quick]     TAILCUT_RESULTS: where results go (bench/results)
#                        TAILCUT_SEED: the sample's (the time)
#                        TAILCUT_SECONDS: for all parts, the last ones are left out (570, and what
#                        the builds take)
#                        TAILCUT_COMMIT: the name in the results' files where git has none
set -eu
cd "$(dirname "$0")/.."
quick=0
[ "${1:-}" != --quick ] || quick=1
program=build-gpu/bin/gpu_sample
delayed=build-gpu-delays/bin/gpu_sample
command=build-gpu/bin/tailcut
seed=${TAILCUT_SEED:-$(date +%s)}
end=$(($(date +%s) + ${TAILCUT_SECONDS:-570} - 10)) # 10: for the report

passed=0
failed=0
missed=0
report= # one line per part

say() { printf '\n==> %s\n' "$*"; }

# note PART RESULT: a line of the closing report.
note() {
  report="$report$(printf '  %-44s %s' "$1" "$2")
"
}

# part NAME LIMIT COMMAND...: LIMIT in seconds, or until the end; 0 when it passed.
part() {
  part_name=$1 part_limit=$2
  shift 2
  part_start=$(date +%s)
  if [ $((end - part_start)) -lt 5 ]; then
    not_run "$part_name" "no time is left"
    return 1
  fi
  [ "$part_limit" -le $((end - part_start)) ] || part_limit=$((end - part_start))
  say "$part_name: $*"
  part_status=0
  if [ -x "$1" ] || command -v "$1" >/dev/null 2>&1; then
    timeout -k 5 "$part_limit" "$@" || part_status=$?
  else
    printf 'no program %s\n' "$1"
    part_status=127
  fi
  part_took="$(($(date +%s) - part_start)) s"
  case $part_status in
    0)
      passed=$((passed + 1))
      note "$part_name" "passed, $part_took"
      return 0
      ;;
    124 | 137) note "$part_name" "FAILED: not over after $part_limit s" ;;
    127) note "$part_name" "FAILED: there is no $1" ;;
    *) note "$part_name" "FAILED, exit status $part_status, $part_took" ;;
  esac
  failed=$((failed + 1))
  return 1
}

# not_run NAME WHY
not_run() {
  say "$1: NOT RUN: $2"
  case " ${TAILCUT_REQUIRE:-} " in
    *gpu*)
      failed=$((failed + 1))
      note "$1" "FAILED: TAILCUT_REQUIRE=$TAILCUT_REQUIRE, but $2"
      ;;
    *)
      missed=$((missed + 1))
      note "$1" "NOT RUN: $2"
      ;;
  esac
}

# "NVIDIA H100 80GB HBM3" is h100, "NVIDIA GeForce RTX 4090" rtx-4090: to the first word with a
# digit.
short_name() {
  printf '%s' "$1" | tr '[:upper:] ' '[:lower:]\n' | tr -cd 'a-z0-9\n-' |
    sed -e '/^nvidia$/d' -e '/^geforce$/d' -e '/^tesla$/d' -e '/^quadro$/d' -e '/^$/d' |
    sed -e '/[0-9]/{s/-.*//;q;}' | tr '\n' '-' | sed 's/-$//'
}

gpu=$(short_name "$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)")
commit=$(git rev-parse --short HEAD 2>/dev/null) || commit=${TAILCUT_COMMIT:-unknown}
! git rev-parse HEAD >/dev/null 2>&1 || git diff --quiet HEAD 2>/dev/null || commit=$commit-dirty
to=${TAILCUT_RESULTS:-bench/results}/${gpu:-gpu}
stem=$to/$(date -u +%Y-%m-%d)-$commit

# ------------------------------------------------------------------------------------ the parts --

# build NAME FOLDER
build() {
  before=$(date +%s)
  [ -n "${TAILCUT_SECONDS:-}" ] || end=$((end + 900))
  part "$1" 900 ./run gpu --build "$2" || :
  [ -n "${TAILCUT_SECONDS:-}" ] || end=$((end - 900 + $(date +%s) - before))
}
build "build" build-gpu

# The program ends by itself; the limit is for one that hangs.
seconds=$((50 / (1 + quick)))
part "tests, a sample" 120 $program --seconds $seconds --seed "$seed" || :

# A process for each step: a kernel that hangs or fails takes no other step's figures with it.
mkdir -p "$to"
rm -f "$stem"-bench*.json "$stem-compare.json"
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
bench() {
  seconds=$(($2 / (1 + quick)))
  part "benchmark, $1" $((15 + 2 * seconds)) $command bench --device cuda --filter "$1" \
    --seconds $seconds --json "$parts/$1.json" || :
}
bench prune_visual 30
bench cut 6
bench prune_sequence 12
bench compact 12
bench score 8
bench novelty 10
bench prune_merge 4

have_python=0
! command -v python3 >/dev/null 2>&1 || have_python=1
set --
for file in "$parts"/*.json; do
  [ ! -f "$file" ] || set -- "$@" "$file"
done
if [ $# -gt 0 ] && [ $have_python -eq 1 ]; then
  python3 -B bench/tables.py --join "$stem-bench.json" "$@" || failed=$((failed + 1))
else
  for file in "$@"; do cp "$file" "$stem-bench-${file##*/}"; done
fi

if [ $quick -eq 0 ]; then
  python=
  for candidate in build-venv/bin/python python3; do
    [ -n "$python" ] || ! $candidate -c 'import torch' >/dev/null 2>&1 || python=$candidate
  done
  if [ -z "$python" ]; then
    not_run "comparison with PyTorch" \
      "no Python with PyTorch (./run bench --torch --device cuda installs it)"
  else
    part "comparison with PyTorch" 120 "$python" -B bench/compare_cuda.py --seconds 60 \
      --json "$stem-compare.json" || :
  fi
fi

sanitize() {
  part "$1" 90 "$sanitizer" --tool "$@" --error-exitcode 86 \
    $program --small --each 2 --seconds 30 --seed "$seed" $bare || :
}

if [ $quick -eq 0 ]; then
  build "build with injected delays" build-gpu-delays
  part "tests, a sample, injected delays" 90 $delayed --seconds 40 --seed "$seed" || :
  sanitizer=$(command -v compute-sanitizer) || sanitizer=/usr/local/cuda/bin/compute-sanitizer
  if [ -x "$sanitizer" ]; then
    bare=
    sanitize memcheck --report-api-errors no # the program makes some on purpose
    sanitize racecheck
    sanitize synccheck
    bare=--bare
    sanitize initcheck
  else
    not_run "memcheck, racecheck, synccheck, initcheck" "no compute-sanitizer here"
  fi
fi

# ---------------------------------------------------------------------------------- the report --

set --
for file in "$stem-bench.json" "$stem-compare.json"; do
  [ ! -f "$file" ] || set -- "$@" "$file"
done
end=$(($(date +%s) + 60))
if [ $have_python -eq 0 ]; then
  not_run "targets" "no python3"
elif [ $# -eq 0 ]; then
  not_run "targets" "nothing was measured"
else
  part "targets" 60 python3 -B bench/tables.py --summary "$@" || :
  printf '\nresults: %s\n(bench/tables.py writes those in bench/results into the README)\n' "$*"
fi

printf '\n%s\n%d parts passed, %d failed, %d not run; seed %s\n' "$report" $passed $failed $missed \
  "$seed"
[ $failed -eq 0 ]
