#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ./run gpu where everything is a stand-in, the GPU too: no part's failure stops the next or loses
# its results, time limits and what is missing are said, brought builds are used, results have their
# names, the exit status is right.
#   gpu.sh SOURCE_DIR SCRATCH_DIR
set -eu
source=$1 scratch=$2
rm -rf "$scratch"
mkdir -p "$scratch/bin" "$scratch/project/tests" "$scratch/project/bench"
cp "$source/run" "$scratch/project"
cp "$source/tests/gpu.sh" "$scratch/project/tests"
cp "$source/bench/tables.py" "$source/bench/targets.py" "$scratch/project/bench"
cp "$source/bench/results/h100/bench.json" "$scratch/measured.json"
export CALLS="$scratch/calls" MEASURED="$scratch/measured.json"

for tool in sh dirname sed sort head tr rm mkdir cat uname date timeout sleep cp mktemp; do
  ln -s "$(command -v $tool)" "$scratch/bin/$tool"
done
# stand_in FILE: its body is on standard input.
stand_in() {
  mkdir -p "$(dirname "$1")"
  { echo "#!$(command -v sh)" && cat; } >"$1"
  chmod +x "$1"
}
stand_in "$scratch/bin/nvidia-smi" <<'SH'
case "$*" in
  -L) exit "${NO_GPU:-0}" ;;
  *) echo "NVIDIA H100 80GB HBM3" ;;
esac
SH
for folder in build-gpu build-gpu-delays; do
  stand_in "$scratch/project/$folder/bin/gpu_sample" <<'SH'
echo "$0 $*" >>"$CALLS"
case "$0 $*" in
  *delays*"--seed 7"*) exit "${DELAYS:-0}" ;;
esac
SH
done
stand_in "$scratch/project/build-gpu/bin/tailcut" <<'SH'
echo "$0 $*" >>"$CALLS"
for last; do :; done
case "${HANGS:-}" in ?*) case "$*" in *"$HANGS"*) exec sleep 600 ;; esac ;; esac
[ "${BENCH:-0}" -eq 2 ] || cp "$MEASURED" "$last"
exit "${BENCH:-0}"
SH
cat >"$scratch/project/bench/compare_cuda.py" <<'PY'
import os
import sys
open(sys.argv[-1], "w").write(open(os.environ["MEASURED"]).read())
sys.exit("stopped in the middle")
PY

# trial STATUS [OPTIONS]
trial() {
  wanted=$1
  shift
  : >"$CALLS"
  rm -rf "$scratch/project/bench/results"
  status=0
  (cd "$scratch/project" && PATH=$scratch/bin TAILCUT_SEED=7 ./run gpu "$@") >"$scratch/said" \
    2>"$scratch/errors" || status=$?
  cat "$scratch/said" "$scratch/errors"
  if [ "$status" -ne "$wanted" ]; then
    echo "exit status $status, expected $wanted" >&2
    exit 1
  fi
}
said() {
  grep -q -e "$1" "$scratch/said" || {
    echo "not said: $1" >&2
    exit 1
  }
}

echo "-- no GPU"
NO_GPU=9 trial 1
[ "$(wc -l <"$scratch/errors")" -eq 1 ]
grep -q '^run: gpu: no GPU here' "$scratch/errors"
[ ! -s "$scratch/said" ]

echo "-- no sanitizer, no Python, no PyTorch; brought builds"
trial 0
said '^  build  *passed'
said 'build-gpu-delays is used as it was brought'
grep -q 'build-gpu-delays/bin/gpu_sample --probe$' "$CALLS"
said '^  memcheck.*NOT RUN: no compute-sanitizer'
said '^  comparison with PyTorch  *NOT RUN'
said '^  targets  *NOT RUN: no python3'
said '^11 parts passed, 0 failed, 3 not run; seed 7$'
grep -q 'build-gpu/bin/gpu_sample --seconds 50 --seed 7' "$CALLS"
[ -f "$scratch/project/bench/results/h100/$(date -u +%Y-%m-%d)-unknown-bench-cut.json" ]

echo "-- the same, where it is required"
TAILCUT_REQUIRE=gpu trial 1
said '^  comparison with PyTorch  *FAILED: TAILCUT_REQUIRE'

echo "-- quick"
trial 0 --quick
said '^9 parts passed, 0 failed, 1 not run'
grep -q 'gpu_sample --seconds 25 --seed 7' "$CALLS"
grep -q 'tailcut bench --device cuda --filter prune_visual --seconds 15' "$CALLS"
if grep delays "$CALLS"; then exit 1; fi

echo "-- an unknown option"
trial 1 --fast

# A PyTorch that is an import of the standard library's, and a sanitizer that does not like races.
stand_in "$scratch/bin/compute-sanitizer" <<'SH'
echo "$0 $*" >>"$CALLS"
[ "$2" != racecheck ] || exit 86
[ "$2" != synccheck ] || exec timeout 0.1 sleep 5
SH
stand_in "$scratch/bin/python3" <<SH
case "\$*" in *"import torch"*) exit 0 ;; esac
exec "$(python3 -c 'import sys; print(sys.executable)')" "\$@"
SH

echo "-- failures in the middle"
DELAYS=134 trial 1
said '^  tests, a sample, injected delays  *FAILED, exit status 134'
said '^  memcheck  *passed'
said '^  racecheck  *FAILED, exit status 86'
said '^  synccheck  *FAILED: not over after'
said '^  initcheck  *passed'
grep -q -e '--tool initcheck .*gpu_sample .*--bare$' "$CALLS"
said '^  benchmark, cut  *passed'
said '^  comparison with PyTorch  *FAILED, exit status 1'
said '^  targets  *passed'
said '^results: .*-bench.json .*-compare.json$'
said 'parts passed, 4 failed, 0 not run'

echo "-- the benchmark fails: what it left counts"
BENCH=1 TAILCUT_COMMIT=abc trial 1 --quick
said '^  benchmark, cut  *FAILED, exit status 1'
said '^NO   1 image in place  *17.1 us'
[ -f "$scratch/project/bench/results/h100/$(date -u +%Y-%m-%d)-abc-bench.json" ]
BENCH=2 trial 1 --quick
said '^  targets  *NOT RUN: nothing was measured'

echo "-- a step hangs, and then no time is left"
HANGS=compact TAILCUT_SECONDS=19 trial 1 --quick
said '^  benchmark, cut  *passed'
said '^  benchmark, compact  *FAILED: not over after'
said '^  benchmark, score  *NOT RUN: no time is left'
said '^NO   1 image in place  *17.1 us'

echo "-- figures"
rm "$scratch/bin/compute-sanitizer"
trial 0 --quick
said '^NO   1 image in place  *17.1 us'
said '^-    stage 2.*not measured'

echo "-- nothing is there and nothing can be built"
rm -r "$scratch/project/build-gpu"
trial 1 --quick
said '^  build  *FAILED'
said '^  tests, a sample  *FAILED: there is no build-gpu/bin/gpu_sample'
