#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The CPU library needs no build system: one cc line into a program, one into a shared library. Options
# that would change its bits are errors (src/exact.h).
#   one_line.sh SOURCE_DIR SCRATCH_DIR CC NM [NVCC]
set -eu
source=$1 scratch=$2 cc=$3 nm=$4 nvcc=${5:-}
rm -rf "$scratch"
mkdir -p "$scratch"
cd "$source"
consumer=tests/install/consumer/main.c

"$cc" -O2 -ffp-contract=off -pthread -Iinclude src/*.c src/cpu/*.c "$consumer" -lm -o "$scratch/program"
"$scratch/program"

# What it exports is looked at, and that it runs where there are no threads: -O0 is quicker.
"$cc" -O0 -ffp-contract=off -Wall -Wextra -Werror -DTC_THREADS=0 \
  -fPIC -shared -fvisibility=hidden -DTAILCUT_BUILD -Iinclude \
  src/*.c src/cpu/*.c -lm -o "$scratch/libtailcut.so"
"$cc" -Iinclude "$consumer" -L"$scratch" -ltailcut -Wl,-rpath,"$scratch" -o "$scratch/linked"
"$scratch/linked"

strangers=$("$nm" -D --defined-only "$scratch/libtailcut.so" | sed 's/.* //' |
  grep -v '^tailcut_' || true)
if [ -n "$strangers" ]; then
  echo "exported besides tailcut_*: $strangers" >&2
  exit 1
fi

# ------------------------------------------------------------------- options that change bits --

failed=0
wrong() {
  echo "$*" >&2
  failed=1
}

# refused NAME COMMAND...: the compiler stops with the message that names the option NAME.
refused() {
  option=$1
  shift
  if "$@" >"$scratch/refused.log" 2>&1; then
    wrong "accepted: $*"
  elif ! grep -q "exact bits: build it without $option" "$scratch/refused.log"; then
    cat "$scratch/refused.log" >&2
    wrong "refused for another reason: $*"
  fi
}

# Every file of the library that computes reads src/exact.h, so that trying one is trying all.
for file in $(grep -lE '\b(float|double)\b' src/*.c src/cpu/*.c); do
  "$cc" -Iinclude -MM "$file" | grep -q 'exact\.h' || wrong "$file does not include exact.h"
done
file=src/cpu/relevance.c
seen=
# shellcheck disable=SC2086 # $compile is words
for compiler in "$cc" gcc clang; do
  command -v "$compiler" >/dev/null || continue
  kind=gcc
  if "$compiler" -dM -E -x c /dev/null | grep -q __clang__; then kind=clang; fi
  case " $seen " in *" $kind "*) continue ;; esac
  seen="$seen $kind"
  compile="$compiler -Iinclude -Wall -Wextra -Werror"
  $compile -fsyntax-only $file
  refused -ffast-math $compile -fsyntax-only -ffast-math $file
  refused -ffinite-math-only $compile -fsyntax-only -ffinite-math-only $file
  if [ $kind = gcc ]; then
    refused -fassociative-math $compile -fsyntax-only -fassociative-math -fno-signed-zeros \
      -fno-trapping-math $file
    refused -freciprocal-math $compile -fsyntax-only -freciprocal-math $file
    refused -fno-signed-zeros $compile -fsyntax-only -fno-signed-zeros $file
    if [ "$($compiler -dumpmachine | sed 's/-.*//')" = x86_64 ]; then # registers wider than the type
      refused -mfpmath=387 $compile -fsyntax-only -mfpmath=387 $file
      refused -mfpmath=387 $compile -fsyntax-only -mfpmath=sse+387 $file
    fi
  else # it has no macros for these
    $compile -O2 -funsafe-math-optimizations -ffp-contract=fast -S -emit-llvm -o "$scratch/loose.ll" $file
    if grep -E '= f(add|sub|mul|div) (.* )?(reassoc|nsz|arcp|contract|afn) |@llvm.fmuladd' "$scratch/loose.ll"; then
      wrong "$compiler -funsafe-math-optimizations changes the operations of $file above"
    fi
  fi
done
echo "options that change bits: tried with$seen"

if [ -n "$nvcc" ]; then # the host's side of the CUDA backend
  refused -ffast-math "$nvcc" -Iinclude -Isrc -Icuda -c -o "$scratch/object" -Xcompiler -ffast-math \
    cuda/score.cu
fi
[ $failed -eq 0 ]
