#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The installed library, moved to another place, serves a find_package and a pkg-config consumer,
# shared and static; the source tree serves add_subdirectory under the same target names.
#   consumers.sh SOURCE_DIR BUILD_DIR SCRATCH_DIR CMAKE CC PKG_CONFIG [OPTION...]
# The options are this build's own, for the build from source.
set -eu
source=$1 build=$2 scratch=$3 cmake=$4 cc=$5 pkg_config=$6
shift 6
consumer=$source/tests/install/consumer
rm -rf "$scratch"
mkdir -p "$scratch"

echo "-- install, then move"
"$cmake" --install "$build" --prefix "$scratch/first" >"$scratch/install.log"
mv "$scratch/first" "$scratch/second"
prefix=$scratch/second
if grep -rIlF -e "$source" -e "$scratch/first" "$prefix"; then
  echo "the installed files above name a directory of the machine that built them" >&2
  exit 1
fi

# project NAME ARGUMENTS...: configures, builds and runs the consumer project.
project() {
  name=$1
  shift
  echo "-- $name"
  "$cmake" -S "$consumer" -B "$scratch/$name" -DCMAKE_C_COMPILER="$cc" "$@" >"$scratch/$name.log" ||
    { cat "$scratch/$name.log"; return 1; }
  "$cmake" --build "$scratch/$name" >>"$scratch/$name.log" || { cat "$scratch/$name.log"; return 1; }
  "$scratch/$name/app_shared"
  "$scratch/$name/app_static"
}
project find_package -DCMAKE_PREFIX_PATH="$prefix"
project add_subdirectory -DTAILCUT_SOURCE="$source" "$@"

echo "-- a version that does not exist yet is refused"
if "$cmake" -S "$consumer" -B "$scratch/refused" -DCMAKE_C_COMPILER="$cc" \
  -DCMAKE_PREFIX_PATH="$prefix" -DTAILCUT_WANTED=99.0 >"$scratch/refused.log" 2>&1; then
  echo "find_package(tailcut 99.0) succeeded" >&2
  exit 1
fi
grep -q 'compatible with requested version "99.0"' "$scratch/refused.log"

pc=$(find "$prefix" -name tailcut.pc)
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
# Some pkg-configs would drop -I and -L of what they take for system directories.
PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS
libdir=$("$pkg_config" --variable=libdir tailcut)

# shellcheck disable=SC2046 # pkg-config prints words
{
  echo "-- pkg-config, shared"
  "$cc" "$consumer/main.c" $("$pkg_config" --cflags --libs tailcut) -Wl,-rpath,"$libdir" \
    -o "$scratch/pc_shared"
  "$scratch/pc_shared"

  echo "-- pkg-config, static"
  "$cc" "$consumer/main.c" $("$pkg_config" --cflags tailcut) \
    $("$pkg_config" --static --libs tailcut | sed 's/-ltailcut/-l:libtailcut.a/') \
    -o "$scratch/pc_static"
  "$scratch/pc_static"
}

echo "-- the installed command"
if [ -x "$prefix/bin/tailcut" ]; then "$prefix/bin/tailcut" info >/dev/null; fi
