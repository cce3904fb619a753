#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The public header alone: every C and C++ standard from 11 on without a warning, every initialiser a
# constant expression (static storage), and no header but the language's own. Compilers: this build's,
# and clang and tcc where they are installed.
#   header.sh INCLUDE_DIR CC [CXX]
set -eu
include=$1 cc=$2 cxx=${3:-}
header=$include/tailcut.h

# A static variable and an element of a static array from every initialiser, and every init function.
code=$(
  echo '#include <tailcut.h>'
  sed -n 's/^#define \(TAILCUT_[A-Z_]*\)_INITIALIZER.*/\1/p' "$header" | while read -r upper; do
    name=$(printf '%s' "$upper" | tr '[:upper:]' '[:lower:]')
    echo "static const $name ${name}_one = ${upper}_INITIALIZER;"
    echo "static $name ${name}_two[2] = {${upper}_INITIALIZER, ${upper}_INITIALIZER};"
    echo "size_t use_$name(void);"
    echo "size_t use_$name(void) { return ${name}_one.struct_size + ${name}_two[1].struct_size; }"
  done
)
[ "$(printf '%s\n' "$code" | grep -c 'static const')" -ge 8 ] || {
  echo "the initialisers of $header were not understood" >&2
  exit 1
}

# accepts NAME COMPILER...: it compiles, and says nothing.
accepts() {
  echo "$1"
  shift
  said=$(printf '%s\n' "$code" | "$@" -I"$include" - 2>&1) && [ -z "$said" ] && return
  printf '%s\n%s\n' "$*" "$said" >&2
  exit 1
}

# all COMPILER LANGUAGE OPTION...: in every standard that the compiler knows.
all() {
  compiler=$1 language=$2
  shift 2
  standards="c++11 c++14 c++17 c++20 c++23"
  [ "$language" = c++ ] || standards="c11 c17 c2x gnu11"
  tried=0
  for standard in $standards; do
    echo | "$compiler" -std="$standard" -fsyntax-only -x "$language" - 2>/dev/null || continue
    accepts "$compiler, $standard" "$compiler" -std="$standard" -pedantic-errors -Wall -Wextra -Wpedantic \
      -Werror "$@" -fsyntax-only -x "$language"
    tried=$((tried + 1))
  done
  [ $tried -ge 2 ] || {
    echo "$compiler knows $tried of: $standards" >&2
    exit 1
  }
}

# Not asked for: C++98, old C, what C does otherwise than C++ (casts, NULL), padding.
everything="-Weverything -Wno-c++98-compat -Wno-c++98-compat-pedantic -Wno-padded
  -Wno-declaration-after-statement -Wno-zero-as-null-pointer-constant -Wno-unused-macros
  -Wno-reserved-identifier -Wno-old-style-cast -Wno-unsafe-buffer-usage -Wno-pre-c11-compat -Wno-unknown-warning-option"
strict="-Wconversion -Wshadow -Wundef -Wcast-qual"

# shellcheck disable=SC2086 # options are words
{
  all "$cc" c -Wstrict-prototypes -Wconversion -Wshadow -Wundef -Wc++-compat
  if [ -n "$cxx" ]; then all "$cxx" c++ $strict; fi
  if command -v clang >/dev/null; then all clang c $everything; fi
  if command -v clang++ >/dev/null; then all clang++ c++ $everything; fi
}
if command -v tcc >/dev/null; then
  object=$(mktemp) # not /dev/null: tcc removes its output first, as root that too
  trap 'rm -f "$object"' EXIT
  accepts tcc tcc -Wall -Werror -c -o "$object"
fi

others=$(grep -E '^[[:space:]]*#[[:space:]]*include' "$header" |
  grep -vE '<(math|stddef|stdint|stdbool)\.h>' || true)
if [ -n "$others" ]; then
  echo "tailcut.h includes more than the language's own headers: $others" >&2
  exit 1
fi
