#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# demo.sh SOURCE SCRATCH: ./run demo says what its images lack before anything is built: a name that
# there is, one that there is not, a picture without features, and one with features of an older one.
set -eu
rm -rf "$2"
mkdir -p "$2/build/features" "$2/bench/features"
cp "$1/run" "$2"
cp "$1/bench/demo.sh" "$2/bench"
cp "$1"/bench/features/*.npy "$1"/bench/features/*.png "$2/bench/features"
cd "$2"

# expect STATUS WORDS ARGUMENTS...: exit status and what stderr must have ("": nothing).
expect() {
  wanted=$1
  words=$2
  shift 2
  status=0
  said=$("$@" 2>&1) || status=$?
  [ "$status" -eq "$wanted" ] || {
    echo "demo.sh: '$*' ends with $status, expected $wanted: $said" >&2
    exit 1
  }
  case $words:$said in
    :?*) ;;
    :) return 0 ;;
    *) case $said in *"$words"*) return 0 ;; esac ;;
  esac
  echo "demo.sh: '$*' says '$said', expected '$words'" >&2
  exit 1
}

expect 0 "" sh bench/demo.sh --check
expect 0 "" sh bench/demo.sh --check coffee rocket
cp bench/features/coffee.png "my cup.jpg"
# Without a build these end before one is begun.
expect 2 "no picture nosuch" sh ./run demo coffee nosuch
expect 2 "./run features 'my cup.jpg'" sh ./run demo "my cup.jpg"
expect 1 "no file nosuch.png" sh ./run features nosuch.png
expect 1 "no picture given" sh ./run features
[ ! -f build/CMakeCache.txt ]
touch -d '2001-01-01' "my cup.jpg"
cp bench/features/coffee.npy build/features/my-cup.npy
expect 0 "" sh bench/demo.sh --check "my cup.jpg"
expect 0 "" sh bench/demo.sh --check my-cup
touch -d '2001-01-02' build/features/my-cup.npy
touch "my cup.jpg"
expect 2 "./run features 'my cup.jpg'" sh bench/demo.sh --check "my cup.jpg"
echo "demo.sh: ok"
