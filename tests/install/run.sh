#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ./run test where nothing can be installed: it takes the system's numpy, and where there is none says
# so in one line; either way build/ stays as it is. The machine is made of stand-ins.
#   run.sh SOURCE_DIR SCRATCH_DIR
set -eu
source=$1 scratch=$2
rm -rf "$scratch"
mkdir -p "$scratch/bin" "$scratch/project/build"
cp "$source/run" "$scratch/project"
echo mine >"$scratch/project/build/CMakeCache.txt"
export CALLS="$scratch/calls"

for tool in sh dirname sed sort head tr rm mkdir cat uname chmod; do
  ln -s "$(command -v $tool)" "$scratch/bin/$tool"
done
# stand_in NAME: its body is on standard input.
stand_in() {
  { echo "#!/bin/sh" && cat; } >"$scratch/bin/$1"
  chmod +x "$scratch/bin/$1"
}
for tool in cc c++ make tcc pkg-config; do stand_in $tool </dev/null; done
echo 'echo 1000' | stand_in id
echo 'echo 1' | stand_in nproc
stand_in cmake <<'SH'
[ "$1" != --version ] || { echo "cmake version 99.0"; exit 0; }
echo "cmake $*" >>"$CALLS"
exit 1
SH
# A python3 whose pip reaches nothing; NUMPY=0: it has numpy.
stand_in python3 <<'SH'
case "$*" in
  *"import numpy"*) exit "${NUMPY:-1}" ;;
  "-m venv "*) mkdir -p "$3/bin" && cat "$0" >"$3/bin/python" && chmod +x "$3/bin/python" ;;
  "-m pip show "*) exit 1 ;;
  "-m pip install "*)
    echo "pip" >>"$CALLS"
    printf 'ERROR: no index\nERROR: of any kind\n' >&2
    exit 1
    ;;
esac
SH

# trial: ./run test on that machine, which fails: at numpy, or later at cmake.
trial() {
  : >"$CALLS"
  if (cd "$scratch/project" && PATH=$scratch/bin CMAKE_GENERATOR='' ./run test --quick) \
    >"$scratch/said" 2>"$scratch/errors"; then
    echo "succeeded" >&2
    exit 1
  fi
  cat "$scratch/said" "$scratch/errors"
  [ "$(cat "$scratch/project/build/CMakeCache.txt")" = mine ]
  [ "$(ls "$scratch/project/build")" = CMakeCache.txt ]
}

echo "-- no numpy, no index"
trial
grep -q pip "$CALLS"
[ "$(wc -l <"$scratch/errors")" -eq 1 ]
grep -q '^run: .*numpy.*python3-numpy' "$scratch/errors"
if grep cmake "$CALLS"; then exit 1; fi

echo "-- the system's numpy"
NUMPY=0
export NUMPY
trial
if grep pip "$CALLS"; then exit 1; fi
grep -q '^cmake --preset ci' "$CALLS"
if grep -v -e '--preset ci' "$CALLS"; then exit 1; fi

echo "-- ./run build: no tests, unless its folder has them; ./run with a word that it does not know"
# said COMMAND...: what it says on standard error; it fails.
said() {
  if (cd "$scratch/project" && PATH=$scratch/bin CMAKE_GENERATOR='' "$@") >"$scratch/said" 2>&1; then
    echo "$* succeeded" >&2
    exit 1
  fi
  cat "$scratch/said"
}
: >"$CALLS"
said ./run build -DOPTION=1
grep -q '^cmake --preset release -DTAILCUT_TESTS=OFF -DOPTION=1$' "$CALLS"
mkdir -p "$scratch/project/build"
printf 'CMAKE_%s\n' "HOME_DIRECTORY:INTERNAL=$scratch/project" 'GENERATOR:INTERNAL=Unix Makefiles' \
  >"$scratch/project/build/CMakeCache.txt"
: >"$CALLS"
said ./run build -DOPTION=1
grep -q '^cmake --preset release -DOPTION=1$' "$CALLS"
said ./run tests
[ "$(cat "$scratch/said")" = "run: tests: unknown command; see './run help'" ]
