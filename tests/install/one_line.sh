#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The CPU library needs no build system: one cc line into a program, one into a shared library.
#   one_line.sh SOURCE_DIR SCRATCH_DIR CC NM
set -eu
source=$1 scratch=$2 cc=$3 nm=$4
rm -rf "$scratch"
mkdir -p "$scratch"
cd "$source"
consumer=tests/install/consumer/main.c

"$cc" -O2 -ffp-contract=off -pthread -Iinclude src/*.c src/cpu/*.c "$consumer" -lm -o "$scratch/program"
"$scratch/program"

echo "-- where there are no threads"
"$cc" -O2 -ffp-contract=off -Wall -Wextra -Werror -DTC_THREADS=0 -Iinclude src/*.c src/cpu/*.c \
  "$consumer" -lm -o "$scratch/alone"
"$scratch/alone"

"$cc" -O2 -ffp-contract=off -pthread -fPIC -shared -fvisibility=hidden -DTAILCUT_BUILD -Iinclude \
  src/*.c src/cpu/*.c -lm -o "$scratch/libtailcut.so"
"$cc" -Iinclude "$consumer" -L"$scratch" -ltailcut -Wl,-rpath,"$scratch" -o "$scratch/linked"
"$scratch/linked"

strangers=$("$nm" -D --defined-only "$scratch/libtailcut.so" | sed 's/.* //' |
  grep -v '^tailcut_' || true)
if [ -n "$strangers" ]; then
  echo "exported besides tailcut_*: $strangers" >&2
  exit 1
fi
