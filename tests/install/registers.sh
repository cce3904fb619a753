#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the compiler says of every kernel for sm_90: nothing is spilled, nothing stands on a stack (but a
# little in the cuts of 1,024 threads, which have 64 registers each, and in attention's kernels for 16-bit
# values, of which two blocks share an SM; walk_precise, which these call where sums are double, may spill), static
# shared memory fits where nobody opts in. The table it prints is the project's record. Then that every
# kernel waits for those before it (waits.py).
#   registers.sh SOURCE_DIR BUILD_DIR SCRATCH_DIR NVCC FLAGS...
set -eu
source=$1 build=$2 scratch=$3 nvcc=$4
shift 4
rm -rf "$scratch"
mkdir -p "$scratch"
cd "$source"

# Two at a time. A file without kernels reports nothing.
# shellcheck disable=SC2016 # the inner shell expands
printf "%s\n" cuda/*.cu cuda/*/*.cu | xargs -P 2 -I FILE sh -c '
  file=$1 scratch=$2 nvcc=$3
  shift 3
  name=${file#cuda/}
  name=$(printf "%s" "${name%.cu}" | tr / _)
  printf "%s\n" "$file" >"$scratch/$name.path"
  mkdir "$scratch/$name"
  "$nvcc" "$@" -arch=sm_90 -cubin -Xptxas -v -keep -keep-dir "$scratch/$name" \
    -o "$scratch/$name.cubin" "$file" 2>"$scratch/$name.log" || {
    cat "$scratch/$name.log" >&2
    exit 255
  }
  mv "$scratch/$name"/*.ptx "$scratch/$name.ptx"
  rm -r "$scratch/$name"' sh FILE "$scratch" "$nvcc" "$@" -Iinclude -Isrc -Icuda -I"$build"

demangle=$(dirname "$nvcc")/cu++filt
[ -x "$demangle" ] || demangle=c++filt
printf '%-16s %-40s %9s %8s\n' file kernel registers shared
failed=0
for log in "$scratch"/*.log; do
  name=$(basename "$log" .log)
  "$demangle" <"$log" | awk -v file="$name" '
    function bad(what) { print file ": " kernel ": " what >"/dev/stderr"; failed = 1 }
    /Compiling entry function/ {
      kernel = $0
      sub(/^[^\047]*\047/, "", kernel)
      sub(/\047 for .*/, "", kernel)
      sub(/^void /, "", kernel)
      gsub(/<unnamed>::|\(anonymous namespace\)::/, "", kernel)
      sub(/\([^()]*\)$/, "", kernel)
      kernels++
    }
    /bytes stack frame/ && kernel ~ /^cut_short<.*1024/ {
      if ($1 + $5 + $9 > 1024) bad($1 ", " $5 " and " $9 " bytes of stack, spill stores, loads")
      frames++
      next
    }
    /Function properties for / { apart = /walk_precise/ }
    /bytes stack frame/ && apart { next }
    /bytes stack frame/ && kernel ~ /^attention_(lse|keys)<.*[12], / {
      if ($1 + $5 + $9 > 700) bad($1 ", " $5 " and " $9 " bytes of stack, spill stores, loads")
      frames++
      next
    }
    /bytes stack frame/ {
      if ($1 + 0 != 0) bad($1 " bytes of stack")
      if ($5 + 0 != 0 || $9 + 0 != 0) bad($5 " bytes of spill stores, " $9 " of loads")
      frames++
    }
    /: Used [0-9]+ registers/ {
      registers = shared = 0
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^registers/) registers = $(i - 1)
        if ($i ~ /^smem/) shared = $(i - 2)
      }
      printf "%-16s %-40s %9d %8d\n", file, kernel, registers, shared
      if (shared > 49152) bad(shared " bytes of static shared memory")
      if (file == "fused" && registers > (kernel ~ /^fused<.*256, 3,/ ? 80 : 128)) bad(registers " registers")
      used++
    }
    END {
      if (used != kernels || frames < kernels) bad("the report was not understood")
      exit failed
    }' || failed=1
  if [ "$(grep -c 'Compiling entry function' "$log")" -eq 0 ] && 
    grep -q __global__ "$(cat "$scratch/$name.path")"; then
    echo "$name: no kernel in the report" >&2
    failed=1
  fi
done
python3 -B tests/install/waits.py "$scratch"/*.ptx || failed=1
[ "$failed" -eq 0 ]
