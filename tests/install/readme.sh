#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# readme.sh SOURCE: the README's C examples are the ones that the tests build and run, its links lead
# somewhere and its picture is what the command draws today (the other: bench/sequence.py --check).
set -eu
cd "$1"
command=$2
scratch=$3
mkdir -p "$scratch"

sed -n '/^```c$/,/^```$/p' README.md | sed '/^```/d' >"$scratch/examples.c"
cat tests/examples/01_one_image.c tests/examples/04_decoder_layer.c | diff "$scratch/examples.c" - || {
  echo "README.md: its C examples differ from tests/examples/01_one_image.c and 04_decoder_layer.c" >&2
  exit 1
}

for link in $(grep -o '](\([^)#:]*\))' README.md | sed 's/^](//;s/)$//'); do
  [ -e "$link" ] || {
    echo "README.md: no such file: $link" >&2
    exit 1
  }
done

"$command" prune --tokens bench/features/coffee.npy --cls-row 0 --kept "$scratch/kept.npy"
"$command" view --image bench/features/coffee.png --grid 16x16 --kept "$scratch/kept.npy" \
  -o "$scratch/coffee.svg"
cmp "$scratch/coffee.svg" bench/pictures/coffee.svg
