#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the libraries export. symbols.txt is the committed list: the ABI.
#   the shared library exports exactly these, and the header declares exactly these
#   every other global name of the static library starts with tc_, or is C++'s for something that does
#   or for something unnamed (kernels)
# A function was added on purpose? Add its line to symbols.txt.
#   symbols.sh NM SOURCE_DIR LIBRARY.so LIBRARY.a
set -eu
nm=$1 source=$2 shared=$3 static=$4
list=$source/tests/install/symbols.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
LC_ALL=C
export LC_ALL
status=0

# same NAME FILE: FILE against the list.
same() {
  if ! diff -u "$list" "$2"; then
    echo "$1 and symbols.txt differ: see the lines above" >&2
    status=1
  fi
}

# A version is an absolute symbol of its own.
"$nm" -D --defined-only "$shared" | sed '/ A /d; s/.* //; s/@.*//' | sort -u >"$work/shared"
same "the exports of the shared library" "$work/shared"

# Every declaration: TAILCUT_API TYPE tailcut_NAME(
tr '\n' ' ' <"$source/include/tailcut.h" |
  grep -oE 'TAILCUT_API [a-z][a-z0-9_ *]*[ *]tailcut_[a-z0-9_]+\(' |
  sed 's/.*[ *]\(tailcut_[a-z0-9_]*\)($/\1/' | sort -u >"$work/header"
same "the declarations in tailcut.h" "$work/header"

"$nm" -g --defined-only "$static" | sed -n 's/^[0-9a-fA-F]* [A-Z] //p' | sort -u >"$work/static"
strangers=$(grep -v -e '^tc_' -e '^_Z.*_GLOBAL__N_' -e '^_Z.*[0-9]tc_' "$work/static" | comm -23 - "$list")
if [ -n "$strangers" ]; then
  echo "global names in the static library that are neither tailcut_ nor tc_:" >&2
  echo "$strangers" >&2
  status=1
fi
missing=$(comm -13 "$work/static" "$list")
if [ -n "$missing" ]; then
  echo "not defined in the static library: $missing" >&2
  status=1
fi
exit $status
