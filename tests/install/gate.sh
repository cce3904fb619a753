#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The most usual call (one image of 576 tokens x 1024 f16, default rule, in place) is one launch that
# reads each row once, and the reference once per block, and writes nothing but the kept rows that move
# and a count. No two of its accesses race, in 20 random schedules.
#   gate.sh SIMULATOR PROGRAM SCRATCH_DIR
set -eu
simulator=$1 program=$2 scratch=$3
TAILCUT_TEST_BACKENDS=cuda
export TAILCUT_TEST_BACKENDS
mkdir -p "$scratch"
row=$("$program" list | sed -n 's/^\([0-9]*\) 0 [0-9]* clip 576x1024$/\1/p')

# count NAME: a counter of the run, from the totals or from its only kernel.
count() { sed -n 's/.*"'"$1"'": \([0-9]*\).*/\1/p' "$scratch/stats.json"; }

"$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$row" 0 1 >"$scratch/said"
cat "$scratch/said"
moved=$(sed -n 's/^kept [0-9]* moved //p' "$scratch/said")
launches=$(count kernel_launches)
if [ "$launches" -ne 1 ]; then
  echo "$launches launches, expected 1" >&2
  exit 1
fi
blocks=$(sed -n 's/.*"grid": \[\([0-9]*\), 1, 1\].*/\1/p' "$scratch/stats.json")

row_bytes=2048
row_sectors=$((row_bytes / 32))
least=$((576 * row_sectors))
loads=$(($(count load_sectors) - row_sectors * blocks))
stores=$(count store_sectors)
bytes=$(count store_bytes)
distinct=$(count footprint_write_sectors)
echo "loads: $loads sectors beside the reference in $blocks blocks, $least at least"
echo "stores: $bytes bytes, $stores sectors ($distinct distinct), of $moved rows and a count"
failed=0
expect() { # WHAT GOT EXPECTED
  [ "$2" -eq "$3" ] && return
  echo "$1: $2, expected $3" >&2
  failed=1
}
if [ "$moved" -lt 100 ] || [ "$loads" -lt "$least" ] || [ $((loads * 100)) -gt $((least * 105)) ]; then
  echo "too many loads, or counters that do not count" >&2
  failed=1
fi
expect "blocks" "$blocks" 16
expect "store_bytes" "$bytes" $((moved * row_bytes + 4))
expect "store_sectors" "$stores" $((moved * row_sectors + 1))
expect "footprint_write_sectors" "$distinct" $((moved * row_sectors + 1))

seed=1
while [ $seed -le 20 ]; do
  "$simulator" --quiet --seed $seed --race-exit 86 --stats "$scratch/stats.json" -- \
    "$program" "$row" 0 1 >"$scratch/said" 2>&1 || {
    cat "$scratch/said" >&2
    echo "seed $seed fails" >&2
    exit 1
  }
  expect "race_hazards with seed $seed" "$(count race_hazards)" 0
  # Warps that were torn apart ask twice for what they share; they touch nothing else.
  expect "footprint_read_sectors with seed $seed" "$(count footprint_read_sectors)" \
    $((least + row_sectors))
  seed=$((seed + 1))
done
echo "20 seeds without a hazard"
[ "$failed" -eq 0 ]
