#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A run call launches its kernels and does nothing else: two processes that differ only in how often
# they make a call differ by the launches that the table says; allocations, copies, memsets and waits
# are as many.
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

failed=0
compared=0
check() { # ROW FORM EXPECTED NAME
  one=$(totals "$1" "$2" 1)
  three=$(totals "$1" "$2" 3)
  each=$(($(launches "$three") - $(launches "$one")))
  compared=$((compared + 1))
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
while read -r row form launches name; do
  case $name in clip* | layer*) continue ;; esac # gate.sh
  check "$row" "$form" "$launches" "$name"
done <"$scratch/rows"
echo "$compared calls compared"
[ "$compared" -gt 0 ] && [ "$failed" -eq 0 ]
