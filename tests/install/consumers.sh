#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The installed library, moved to another place outside the linker's path, serves a find_package and a
# pkg-config consumer, shared and static, in C and in a project of C++ alone; the source tree serves
# add_subdirectory under the same target names and leaves the project's settings alone. The versions
# that the package takes for compatible are those that the library does.
#   consumers.sh SOURCE_DIR BUILD_DIR SCRATCH_DIR CMAKE CC CXX=[COMPILER] PKG_CONFIG [OPTION...]
# The options are this build's own, for the build from source.
set -eu
source=$1 build=$2 scratch=$3 cmake=$4 cc=$5 cxx=${6#CXX=} pkg_config=$7
shift 7
unset LD_LIBRARY_PATH CMAKE_BUILD_TYPE CMAKE_PREFIX_PATH # what a user's shell may have
consumer=$source/tests/install/consumer
rm -rf "$scratch"
mkdir -p "$scratch"

fail() {
  echo "$*" >&2
  exit 1
}

echo "-- install, then move"
"$cmake" --install "$build" --prefix "$scratch/first" >"$scratch/install.log"
mv "$scratch/first" "$scratch/second"
prefix=$scratch/second
if grep -rIlF -e "$source" -e "$scratch/first" "$prefix"; then
  fail "the installed files above name a directory of the machine that built them"
fi
for document in LICENSE src/METHOD.md; do
  cmp "$source/$document" "$prefix/share/doc/tailcut/${document##*/}"
done

# quiet LOG COMMAND...: what it says goes to LOG, and is shown when it fails.
quiet() {
  log=$1
  shift
  "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    return 1
  }
}

# runs PROGRAM: it starts, and what it links shared is the library of the prefix.
runs() {
  if ldd "$1" | grep libtailcut | grep -vF "$prefix/"; then fail "$1: not the library of $prefix"; fi
  "$1"
}

# project NAME ARGUMENTS...: configures, builds and installs the consumer project, and runs what came.
project() {
  name=$1
  shift
  echo "-- $name"
  quiet "$scratch/$name.log" "$cmake" -S "$consumer" -B "$scratch/$name" "$@"
  quiet "$scratch/$name.log" "$cmake" --build "$scratch/$name"
  "$scratch/$name/app_shared"
  "$scratch/$name/app_static"
}
# its_own NAME: the project has no build type and CMake's own flags, as it would without tailcut.
its_own() {
  cache=$scratch/$1/CMakeCache.txt
  if grep -E '^CMAKE_BUILD_TYPE:[A-Z]*=.|^CMAKE_C_FLAGS_RELEASE:[A-Z]*=-O2' "$cache"; then
    fail "$1: tailcut has set the above in the project that uses it"
  fi
}
# installed NAME: its programs run from where the project is installed, with the path of the library.
installed() {
  quiet "$scratch/$1.log" "$cmake" --install "$scratch/$1" --prefix "$scratch/$1-installed"
  runs "$scratch/$1-installed/bin/app_shared"
  runs "$scratch/$1-installed/bin/app_static"
}
project find_package -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$prefix"
installed find_package
project add_subdirectory -DCMAKE_C_COMPILER="$cc" -DTAILCUT_SOURCE="$source" "$@"
its_own add_subdirectory
if [ -n "$cxx" ]; then
  project find_package_cxx -DCONSUMER_LANGUAGE=CXX -DCMAKE_CXX_COMPILER="$cxx" \
    -DCMAKE_PREFIX_PATH="$prefix"
  installed find_package_cxx
  project add_subdirectory_cxx -DCONSUMER_LANGUAGE=CXX -DCMAKE_CXX_COMPILER="$cxx" \
    -DCMAKE_C_COMPILER="$cc" -DTAILCUT_SOURCE="$source" -DTAILCUT_CUDA=OFF
  its_own add_subdirectory_cxx
fi

echo "-- a choice that there is not"
"$cmake" -S "$source" -B "$scratch/typo" -DCMAKE_C_COMPILER="$cc" -DTAILCUT_CUDA=maybe >"$scratch/typo.log" 2>&1 &&
  fail "TAILCUT_CUDA=maybe is taken"
grep -q 'TAILCUT_CUDA is maybe; expected one of AUTO, ON, OFF' "$scratch/typo.log"

echo "-- versions"
version() { sed -n "s/^#define TAILCUT_VERSION_$1 \([0-9]*\)$/\1/p" "$source/include/tailcut.h"; }
major=$(version MAJOR) minor=$(version MINOR)
abi=$major
[ "$major" -gt 0 ] || abi=$major.$minor
find "$prefix" -name "libtailcut.so.$abi" | grep -q . || fail "no libtailcut.so.$abi is installed"
mkdir "$scratch/versions"
cat >"$scratch/versions/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(versions LANGUAGES NONE)
find_package(tailcut ${WANTED} REQUIRED COMPONENTS shared)
CMAKE
answers=
for wanted in $major.$minor $major.$((minor + 1)) $major.0 $((major + 1)).0 $((major + 1)).$minor; do
  library=$("$scratch/find_package/app_shared" \
    $((${wanted%.*} * 10000 + ${wanted#*.} * 100)))
  package=yes
  rm -rf "$scratch/versions/build"
  "$cmake" -S "$scratch/versions" -B "$scratch/versions/build" -DCMAKE_PREFIX_PATH="$prefix" \
    -DWANTED="$wanted" >"$scratch/versions.log" 2>&1 || {
    package=no
    grep -q "compatible with requested version \"$wanted\"" "$scratch/versions.log" || package=failed
  }
  echo "   $wanted: $library"
  [ "$library" = "$package" ] || fail "version $wanted: the library says $library, CMake's package $package"
  answers="$answers $library"
done
# Where it is asked for the static library, it says what that lacks: here a language for the threads.
if grep -q 'if(TRUE) # built with threads' "$(find "$prefix" -name tailcutConfig.cmake)"; then
  sed -i 's/COMPONENTS shared/COMPONENTS static/' "$scratch/versions/CMakeLists.txt"
  "$cmake" -S "$scratch/versions" -B "$scratch/versions/static" -DCMAKE_PREFIX_PATH="$prefix" \
    >"$scratch/versions.log" 2>&1 && fail "tailcut::static is found without a language"
  tr -s ' \n' ' ' <"$scratch/versions.log" | grep -q 'not found here: threads (is the language' || {
    cat "$scratch/versions.log"
    fail "find_package does not say what tailcut::static lacks"
  }
fi
case $answers in *yes*no*) ;; *) fail "no version is refused, or none taken:$answers" ;; esac

echo "-- beside another version"
# A program that uses version 9, and a plugin of it that was linked with this one: each gets its own.
other=$scratch/other
mkdir "$other"
sed 's/@abi@/9/' "$source/src/pkg/tailcut.map.in" >"$other/tailcut.map"
echo 'int tailcut_version(void); int tailcut_version(void) { return 90000; }' >"$other/library.c"
"$cc" -shared -fPIC "$other/library.c" -Wl,--version-script="$other/tailcut.map" -o "$other/libnine.so"
"$cc" -shared -fPIC -Dmain=plugin -I"$prefix/include" "$consumer/main.c" \
  "$(find "$prefix" -name libtailcut.so)" -o "$other/libplugin.so"
echo 'int tailcut_version(void), plugin(int, char **);
  int main(void) { return tailcut_version() == 90000 ? plugin(1, 0) : 2; }' >"$other/program.c"
"$cc" "$other/program.c" "$other/libnine.so" "$other/libplugin.so" -Wl,-rpath,"$other" \
  -Wl,-rpath-link,"$(dirname "$(find "$prefix" -name libtailcut.so)")" -o "$other/program"
LD_LIBRARY_PATH=$(dirname "$(find "$prefix" -name libtailcut.so)") "$other/program"

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
  runs "$scratch/pc_shared"

  echo "-- pkg-config, static"
  "$cc" "$consumer/main.c" $("$pkg_config" --cflags tailcut) \
    $("$pkg_config" --static --libs tailcut | sed 's/-ltailcut/-l:libtailcut.a/') \
    -o "$scratch/pc_static"
  runs "$scratch/pc_static"
}

echo "-- the installed command"
if [ -x "$prefix/bin/tailcut" ]; then
  runs "$prefix/bin/tailcut" >/dev/null 2>&1 || [ $? -eq 2 ] # no command is wrong usage
  "$prefix/bin/tailcut" info >/dev/null
fi
