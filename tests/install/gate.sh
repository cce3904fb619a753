#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The most usual call (one image of 576 tokens x 1024 f16, default rule, in place) is three launches: score
# reads each row once, and the reference once per warp; the cut is one block; compact reads each row
# once more at most and writes nothing but the rows that move. A warp executes no more instructions than
# the ceilings below: their number is what such small kernels cost.
# The usual call inside a layer (576 candidates and 64 rows of text x 4096 f16, K and V of two layers, in
# place) is four: direction reads the text twice and score each candidate once, no other row, and the four
# arrays beside the hidden states move in the same launch.
# The most usual call by NOVELTY is three launches too; its scores are one that reads each row once.
# Windows of 128 and 256, long rows and odd ones do so too. What of their bytes a block has no room
# for it writes to its scratch and reads there, each once.
# Novelty, cut and merging of that one image, in place, are four: the likeness and who joins whom come
# from one read of each row, the merged rows from one more.
# No two accesses race, in 20 random schedules of each.
#   gate.sh SIMULATOR PROGRAM SCRATCH_DIR
set -eu
simulator=$1 program=$2 scratch=$3
TAILCUT_TEST_BACKENDS=cuda
export TAILCUT_TEST_BACKENDS
mkdir -p "$scratch"
row_of() { "$program" list | sed -n "s/^\([0-9]*\) 0 [0-9]* $1\$/\1/p"; }
row=$(row_of 'clip 576x1024')

# total NAME: a counter of the whole run. of KERNEL NAME: of one kernel (the first word of its name).
total() { sed -n '/"totals"/s/.*"'"$1"'": \([0-9]*\).*/\1/p' "$scratch/stats.json"; }
of() { sed -n '/"name": "[^<]*[: ]'"$1"'[<(]/s/.*"'"$2"'": \([0-9]*\).*/\1/p' "$scratch/stats.json"; }
blocks() { sed -n '/"name": "[^<]*[: ]'"$1"'[<(]/s/.*"grid": \[\([0-9]*\), .*/\1/p' "$scratch/stats.json"; }
threads() { sed -n '/"name": "[^<]*[: ]'"$1"'[<(]/s/.*"block": \[\([0-9]*\), .*/\1/p' "$scratch/stats.json"; }

"$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$row" 0 1 >"$scratch/said"
cat "$scratch/said"
moved=$(sed -n 's/^kept [0-9]* moved //p' "$scratch/said")

failed=0
expect() { # WHAT GOT EXPECTED
  [ "$2" -eq "$3" ] && return
  echo "$1: $2, expected $3" >&2
  failed=1
}
most() { # WHAT GOT MOST
  echo "$1: $2, $3 at most"
  [ "$2" -gt 0 ] && [ "$2" -le "$3" ] && return
  echo "$1: $2, expected 1 to $3" >&2
  failed=1
}
per_warp() { # KERNEL: instructions, on average
  echo $(($(of "$1" warp_instructions) * 32 / ($(blocks "$1") * $(threads "$1"))))
}

row_bytes=2048
row_sectors=$((row_bytes / 32))
rows=$((576 * row_sectors))
expect "launches" "$(total kernel_launches)" 3
expect "launches of compact_staged" "$(of compact_staged launches)" 1
most "instructions of a warp, score" "$(per_warp score)" 700
most "instructions of a warp, cut_short" "$(per_warp cut_short)" 880
most "instructions of a warp, compact_staged" "$(per_warp compact_staged)" 400
most "score: load sectors beside the reference" \
  $(($(of score load_sectors) - 576 * row_sectors)) $((rows * 105 / 100))
expect "score: sectors of rows and reference" "$(of score footprint_read_sectors)" \
  $((rows + row_sectors))
most "compact: load sectors" "$(of compact_staged load_sectors)" $((rows * 105 / 100))
expect "compact: store_bytes" "$(of compact_staged store_bytes)" $((moved * row_bytes))
expect "compact: footprint_write_sectors" "$(of compact_staged footprint_write_sectors)" \
  $((moved * row_sectors))
if [ "$moved" -lt 100 ]; then
  echo "only $moved rows moved" >&2
  failed=1
fi

"$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$(row_of 'layer 640x4096')" 0 1 >"$scratch/said"
cat "$scratch/said"
moved=$(sed -n 's/^kept [0-9]* moved //p' "$scratch/said")
row_bytes=$((8192 + 4 * 64)) # what moves with a token
row_sectors=$((8192 / 32))
text=$((64 * row_sectors))
rows=$((576 * row_sectors))
vector=$((4096 * 4 / 32)) # the mean direction, which lanes read 16 bytes of 32 at a time
expect "launches" "$(total kernel_launches)" 4
expect "launches of direction_spread" "$(of direction_spread launches)" 1
expect "launches of compact_rows" "$(of compact_rows launches)" 1
most "instructions of a warp, direction_spread" "$(per_warp direction_spread)" 550
most "instructions of a warp, score" "$(per_warp score)" 1250
# Every slice of columns looks weights and the bits of the rows that count up.
most "direction_spread: load sectors" "$(of direction_spread load_sectors)" $((2 * text * 104 / 100))
most "direction_spread: sectors of the text" "$(of direction_spread footprint_read_sectors)" \
  $((text * 101 / 100))
most "score: load sectors beside the direction" \
  $(($(of score load_sectors) - 576 * 2 * vector)) $((rows * 105 / 100))
most "score: sectors of candidates and direction" "$(of score footprint_read_sectors)" \
  $(((rows + vector) * 1005 / 1000))
expect "compact_rows: store_bytes" "$(of compact_rows store_bytes)" $((moved * row_bytes))
if [ "$moved" -lt 100 ]; then
  echo "only $moved rows moved" >&2
  failed=1
fi

"$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$(row_of 'clip 576x1024 novelty')" 0 1 >"$scratch/said"
cat "$scratch/said"
rows=$((576 * 64))
expect "launches" "$(total kernel_launches)" 3
most "instructions of a warp, novelty_whole" "$(per_warp novelty_whole)" 3800
most "novelty_whole: load sectors" "$(of novelty_whole load_sectors)" $((rows * 1005 / 1000))
expect "novelty_whole: sectors of rows, news" "$(of novelty_whole footprint_read_sectors)" $((rows + 4))

general() { # NAME SECTORS BYTES INSTRUCTIONS: a form for any rows; of the rows, of the scratch
  "$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$(row_of "$1")" 0 1 >"$scratch/said"
  spilled=$(($3 / 32))
  expect "launches of novelty_pieces" "$(of novelty_pieces launches)" 1
  most "instructions of a warp, novelty_pieces" "$(per_warp novelty_pieces)" "$4"
  most "novelty_pieces: load sectors of rows" \
    $(($(of novelty_pieces load_sectors) - spilled)) $(($2 * 101 / 100))
  most "novelty_pieces: sectors of rows" \
    $(($(of novelty_pieces footprint_read_sectors) - spilled)) $(($2 + 20))
  most "novelty_pieces: store_bytes" "$(of novelty_pieces store_bytes)" $(($3 + 4096))
}
general 'clip 512x1024 novelty 128' $((512 * 64)) 0 7900
general 'clip 256x1024 novelty 256' $((256 * 64)) $((256 * 384)) 18800
general 'clip 128x4096 novelty' $((128 * 256)) $((128 * 2560)) 9000
general 'clip 128x8192 novelty' $((128 * 512)) $((128 * 8192)) 20500
general 'clip 128x2048 novelty 128' $((128 * 256)) $((128 * 1280)) 16500
general 'clip 128x4099 novelty' $((128 * 8198 / 32)) $((128 * 2816)) 12800

"$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$(row_of 'clip 576x1024 merge')" 0 1 >"$scratch/said"
cat "$scratch/said"
kept=$(sed -n 's/^kept \([0-9]*\) .*/\1/p' "$scratch/said")
row_bytes=2048
rows=$((576 * row_bytes / 32))
expect "launches" "$(total kernel_launches)" 4
most "instructions of a warp, merge_plan" "$(per_warp merge_plan)" 1300
most "instructions of a warp, merge_rows" "$(per_warp merge_rows)" 550
most "novelty: load sectors" "$(of novelty_whole load_sectors)" $((rows * 105 / 100))
# Every slice of a window looks its plan up: of one image slices are narrow, to fill the device.
most "merge_rows: load sectors" "$(of merge_rows load_sectors)" $((rows * 108 / 100))
most "merge_rows: sectors of rows and plan" "$(of merge_rows footprint_read_sectors)" \
  $((rows * 101 / 100))
most "merge_rows: store_bytes" "$(of merge_rows store_bytes)" $((kept * row_bytes))
if [ "$kept" -lt 100 ] || [ "$kept" -gt 500 ]; then
  echo "$kept rows kept" >&2
  failed=1
fi

"$simulator" --quiet --stats "$scratch/stats.json" -- "$program" "$(row_of 'clip 4x576x1024 merge')" 0 1 >"$scratch/said"
most "merge_rows of 4: load sectors" "$(of merge_rows load_sectors)" $((4 * rows * 102 / 100))

# Every launch has an order of its own: one process for all schedules of a call.
schedules() { # HOW_MANY NAME
  "$simulator" --quiet --seed 7 --race-exit 86 --stats "$scratch/stats.json" -- \
    "$program" "$(row_of "$2")" 0 "$1" new >"$scratch/said" 2>&1 || {
    cat "$scratch/said" >&2
    echo "$2: $1 random schedules fail" >&2
    exit 1
  }
  expect "race_hazards of $2" "$(total race_hazards)" 0
  echo "$2: $1 random schedules without a hazard"
}
for name in 'clip 576x1024' 'clip 576x1024 novelty' 'score novelty wide' 'sequence' 'sequence long rows' \
  'prune novelty merge' 'merge groups' 'cut groups' 'sequence groups'; do
  schedules 20 "$name"
done
schedules 4 'sequence long, positions'
schedules 4 'cut long lengths'
schedules 8 'cut long groups gap'
[ "$failed" -eq 0 ]
