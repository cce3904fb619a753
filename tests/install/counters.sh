#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A run call launches its kernels and does nothing else: two processes that differ only in how often
# they make their calls differ by the launches that the table says; allocations, copies, memsets and
# waits are as many. A process makes the calls of all rows of a form (starting the simulator takes
# longer than its calls); where these do not fit, each row by itself says which it is.
#   counters.sh SIMULATOR PROGRAM SCRATCH_DIR
set -eu
simulator=$1 program=$2 scratch=$3
TAILCUT_TEST_BACKENDS=cuda
export TAILCUT_TEST_BACKENDS
rm -rf "$scratch"
mkdir -p "$scratch"

# totals ROW FORM CALLS: the line of totals.
totals() {
  "$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$1" "$2" "$3" >"$scratch/log" || {
    cat "$scratch/log" >&2
    return 1
  }
  grep '"totals"' "$scratch/stats.json"
}

# What counts work of the host's side, and calls that wait or allocate.
rest() { printf '%s\n' "$1" | sed 's/"kernel_launches": [0-9]*//;s/"[a-z]*_instructions": [0-9]*//g'; }
launches() { printf '%s\n' "$1" | sed 's/.*"kernel_launches": \([0-9]*\).*/\1/'; }

check() { # ROW FORM EXPECTED NAME
  one=$(totals "$1" "$2" 1)
  three=$(totals "$1" "$2" 3)
  each=$(($(launches "$three") - $(launches "$one")))
  if [ "$each" -ne $((2 * $3)) ]; then
    echo "$4 (form $2): two calls are $each launches, expected $((2 * $3))" >&2
    failed=1
  fi
  if [ "$(rest "$one")" != "$(rest "$three")" ]; then
    printf '%s (form %s): two calls more change other totals:\n%s\n%s\n' "$4" "$2" "$one" "$three" >&2
    failed=1
  fi
}

"$program" list >"$scratch/rows"
alone() { # FORM: each of its rows
  while read -r row form launches name; do
    case $name in clip* | layer*) continue ;; esac # gate.sh
    [ "$form" -ne "$1" ] || check "$row" "$form" "$launches" "$name"
  done <"$scratch/rows"
}
bad=0
for form in 0 1 2; do
  sum=$(awk -v form=$form '
    $2 == form && $4 != "clip" && $4 != "layer" { sum += $3 }
    END { print sum + 0 }' "$scratch/rows")
  failed=0
  check all $form "$sum" "all rows"
  [ $failed -eq 0 ] && continue
  bad=1
  alone $form
done
rows=$(grep -vc -e ' clip' -e ' layer' "$scratch/rows")
echo "$rows calls compared"
[ "$rows" -gt 0 ] && [ $bad -eq 0 ]
