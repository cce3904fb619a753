#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The public header alone: C11 and C++17 without a warning, and no header but the language's own.
#   header.sh INCLUDE_DIR CC [CXX]
set -eu
include=$1 cc=$2 cxx=${3:-}
flags="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I$include"
code='#include <tailcut.h>
tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
int use(tailcut_handle handle);
int use(tailcut_handle handle) { tailcut_destroy(handle); return (int)tailcut_version() + config.threads; }'

# shellcheck disable=SC2086 # flags are words
{
  echo "C11"
  printf '%s\n' "$code" | "$cc" -std=c11 $flags -Wstrict-prototypes -x c -
  if [ -n "$cxx" ]; then
    echo "C++17"
    printf '%s\n' "$code" | "$cxx" -std=c++17 $flags -x c++ -
  fi
}

others=$(grep -E '^[[:space:]]*#[[:space:]]*include' "$include/tailcut.h" |
  grep -vE '<(math|stddef|stdint|stdbool)\.h>' || true)
if [ -n "$others" ]; then
  echo "tailcut.h includes more than the language's own headers: $others" >&2
  exit 1
fi
